"""The report's page: evaluations and runs in, one HTML text out; nothing in it is fetched from anywhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robopolicy.evaluation import curves, plots, trials
from robopolicy.evaluation.plots import Axis, Line
from robopolicy.evaluation.records import Evaluation, comparable, compare_evaluations
from robopolicy.evaluation.report import Findings, Run
from robopolicy.evaluation.statistics import Paired, holm

#: Nothing may be loaded, whatever a label or a note holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
NEUTRAL = -1
SIGNIFICANT = 0.05


def esc(value: object) -> str:
    """Return ``value`` as text that is safe in HTML and in attributes."""
    return html.escape(str(value), quote=True)


class Palette:
    """One colour per policy, the same in every part of the page; the expert is neutral."""

    def __init__(self, names: Sequence[str]) -> None:
        """Give colours to ``names`` in order."""
        self._index: dict[str, int] = {}
        for name in names:
            self._index.setdefault(name, len(self._index))

    @classmethod
    def of(cls, found: Findings) -> Palette:
        """Colour every learnt policy and every run; a run whose name is a policy's shares its colour."""
        labels = [e.label for e in found.evaluations if e.policy != "expert"]
        return cls([*labels, *(r.label for r in found.runs), *(x.label for x in found.learners)])

    def __getitem__(self, name: str) -> int:
        return self._index.get(name, NEUTRAL)

    def style(self, name: str) -> str:
        """Return the attribute that sets ``--colour``."""
        index = self[name]
        return f'style="--colour:var(--{"neutral" if index < 0 else f"c{index % 7}"})"'

    def dot(self, name: str) -> str:
        """Return the name behind its colour."""
        return f'<span class="dot" {self.style(name)}></span>{esc(name)}'


def render(found: Findings, name: str) -> str:
    """Return the whole page. ``name`` is the folder's, for the title."""
    palette = Palette.of(found)
    tasks = list(dict.fromkeys(e.task for e in found.evaluations))
    body = [_overview(found.evaluations, tasks, palette)] if len(tasks) > 1 else []
    for task in tasks:
        body.append(_task(task, [e for e in found.evaluations if e.task == task], palette))
    if found.panels:
        body.append(curves.section(found.panels))
    body.append(_training(found.runs, palette))
    body.append(_learning(found.learners, palette))
    body.append(_provenance(found))
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    title = f"{', '.join(tasks) if 0 < len(tasks) < 4 else name} · robopolicy report"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(POLICY)}">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>{esc(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n{_header(found, tasks, name)}\n<main>\n{''.join(body)}\n</main>\n"
        "<footer>Made by <code>robopolicy report</code>. Intervals are 95%: Wilson for success rates, Tango for paired differences.</footer>\n"
        "</body>\n</html>\n"
    )


def _header(found: Findings, tasks: Sequence[str], name: str) -> str:
    heading = (
        f"Policies on {', '.join(tasks) if len(tasks) < 4 else f'{len(tasks)} tasks'}"
        if tasks
        else f"{'Training of' if found.runs or found.learners else 'Policies in'} {name}"
    )
    facts: list[tuple[str, object]] = []
    if found.evaluations:
        facts = [("policies", len({e.label for e in found.evaluations})), ("episodes", sum(len(e.episodes) for e in found.evaluations))]
        facts += [("initial states", f"{e.purpose}, from seed {e.seed0}") for e in found.evaluations[:1] if len({x.seed0 for x in found.evaluations}) == 1]
        facts += [("machine", f"{e.machine.get('cpu', '?')}, {e.machine.get('cores', '?')} cores") for e in found.evaluations[:1]]
        facts.append(("measured", max(e.time for e in found.evaluations).replace("T", " ").removesuffix("+00:00") + " UTC"))
    if found.runs or found.learners:
        facts.append(("training runs", len(found.runs) + sum(len(x.trials) for x in found.learners)))
    if found.panels:
        facts.append(("ways to act", len(curves.labels(found.panels))))
    items = "".join(f"<li>{esc(key)} <b>{esc(value)}</b></li>" for key, value in facts)
    lead = _lead(found.evaluations) if len(tasks) == 1 else ""
    return f'<header><div><div class="brand">robopolicy report</div><h1>{esc(heading)}</h1>{lead}<ul class="facts">{items}</ul></div></header>'


def _lead(evaluations: Sequence[Evaluation]) -> str:
    """Say the main result in one sentence."""
    learnt = [e for e in evaluations if e.policy != "expert"]
    if not learnt:
        return ""
    best, expert = max(learnt, key=lambda e: e.success_rate), next((e for e in evaluations if e.policy == "expert"), None)
    low, high = best.interval
    text = f"{best.label} solves {best.success_rate:.1%} of the initial states (95% interval {low:.1%} to {high:.1%})"
    if expert is not None and expert is not best:
        text += f"; the scripted expert solves {expert.success_rate:.1%}"
    return f'<p class="lead">{esc(text)}.</p>'


def _card(title: str, say: str, inside: str) -> str:
    told = f'<p class="say">{say}</p>' if say else ""
    return f'<section class="card"><h3>{title}</h3>{told}{inside}</section>\n'


def _table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """Return a table that scrolls sideways where it is too wide; ``heads`` and ``rows`` are HTML."""
    cells = "".join(f"<th>{head}</th>" for head in heads)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _overview(evaluations: Sequence[Evaluation], tasks: Sequence[str], palette: Palette) -> str:
    labels = list(dict.fromkeys(e.label for e in sorted(evaluations, key=lambda e: e.policy == "expert")))
    rows = []
    for task in tasks:
        cells = []
        for label in labels:
            here = [e for e in evaluations if e.task == task and e.label == label]
            cells.append("<td></td>" if not here else f"<td>{here[0].success_rate:.0%} <small>{_range(here[0].interval)}</small></td>")
        rows.append(f"<tr><th><a href='#{esc(_anchor(task))}'>{esc(task)}</a></th>{''.join(cells)}</tr>")
    table = _table(["task", *map(palette.dot, labels)], rows)
    return "<h2>All tasks</h2>\n" + _card("Success rate", "with its 95% Wilson interval", table)


def _anchor(task: str) -> str:
    return "task-" + "".join(c if c.isalnum() else "-" for c in task)


def _range(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f}&ndash;{100 * interval[1]:.0f}%"


def _task(task: str, evaluations: Sequence[Evaluation], palette: Palette) -> str:
    learnt = [e for e in evaluations if e.policy != "expert"]
    legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(e.label)}</li>" for e in evaluations) + "</ul>"
    charts = [_success_over_time(evaluations, palette, legend)]
    timed = [e for e in learnt if e.latency_ms]
    if timed:
        charts.append(_latency(timed, palette))
    out = [f'<h2 id="{esc(_anchor(task))}">Task <code>{esc(task)}</code></h2>\n', _success(evaluations, palette), _results(evaluations, palette)]
    out.append(f'<div class="grid2">{"".join(charts)}</div>\n')
    if learnt:
        out.append(_network_calls(learnt, palette))
    if len(evaluations) > 1:
        out.append(_pairs(evaluations, palette))
    out.append(_videos(evaluations, palette))
    return "".join(out)


def _success(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    rows = []
    for e in evaluations:
        low, high = e.interval
        rows.append(
            f'<div class="name">{palette.dot(e.label)}{_badge(e)}</div>'
            f'<div class="value"><b>{e.success_rate:.1%}</b><small>{100 * low:.1f} to {100 * high:.1f}</small></div>'
            f'<div class="track" {palette.style(e.label)} title="{esc(e.label)}: {e.successes} of {len(e.episodes)}">'
            f'<div class="bar" style="width:{100 * e.success_rate:.3f}%"></div>'
            f'<div class="whisker" style="left:{100 * low:.3f}%;width:{100 * (high - low):.3f}%"></div></div>'
        )
    scale = '<div class="scale">' + "".join(f'<span style="left:{x}%">{x}%</span>' for x in (0, 25, 50, 75, 100)) + "</div>"
    say = "Share of episodes that reached success at any step; the whisker is the 95% Wilson interval."
    return _card("Success", say, f'<div class="bars">{"".join(rows)}{scale}</div>')


def _badge(e: Evaluation) -> str:
    if e.purpose == "report":
        return ""
    return f'<span class="badge" title="not for reporting: these initial states are for choosing">{esc(e.purpose)} seeds</span>'


def _results(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    scored = any(e.score is not None for e in evaluations)
    flags = [k for k in evaluations[0].episodes[0].info if all(x.info.get(k) in (0.0, 1.0) for e in evaluations for x in e.episodes)]
    task_own = [*map(esc, flags), *(["score"] if scored else [])]
    head = ["policy", "success", "rate", "95% interval", *task_own, "steps to success", "calls / chunk", "calls / step", "ms / chunk p50", "p95", "p99"]
    rows = []
    for e in evaluations:
        good = [x.length for x in e.episodes if x.success]
        learnt = e.policy != "expert"
        p50, p95, p99 = np.percentile(e.latency_ms, [50, 95, 99]) if e.latency_ms else (None, None, None)
        cells = [
            f"{e.successes} <small>/ {len(e.episodes)}</small>",
            f"{e.success_rate:.1%}",
            f"{100 * e.interval[0]:.1f} to {100 * e.interval[1]:.1f}%",
            *(f"{np.mean([x.info[k] for x in e.episodes]):.1%}" for k in flags),
            *([_or_dash(e.score, "{:.3f}")] if scored else []),
            _or_dash(float(np.median(good)) if good else None, "{:.0f}"),
            _or_dash(e.network_calls_per_chunk if learnt else None, "{:.4g}"),
            _or_dash(e.network_calls_per_step if learnt else None, "{:.2f}"),
            *(_or_dash(value, "{:.2f}") for value in (p50, p95, p99)),
        ]
        rows.append(f"<tr><th>{palette.dot(e.label)}{_badge(e)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    say = "Steps to success: median over successful episodes. Milliseconds per chunk: one call at batch 1, on the machine named above."
    return _card("Results", say, _table(head, rows))


def _or_dash(value: float | None, form: str) -> str:
    return "&ndash;" if value is None else form.format(value)


def _success_over_time(evaluations: Sequence[Evaluation], palette: Palette, legend: str) -> str:
    lines = []
    limit = max(e.max_episode_steps for e in evaluations)
    for e in evaluations:
        times = np.sort([x.length for x in e.episodes if x.success]).astype(float)
        x = np.concatenate([[0.0], times, [float(limit)]])
        y = np.concatenate([[0.0], np.arange(1, len(times) + 1), [len(times)]]) / len(e.episodes)
        lines.append(Line(e.label, x, y, palette[e.label], steps=True))
    chart = plots.line_chart(lines, Axis("control step", 0, limit), Axis("episodes solved by then", 0, 1, percent=True), "success over time")
    return _card("Success over time", "Share of all episodes that had reached success by a control step.", legend + chart)


def _latency(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    lines = [Line(e.label, *plots.cumulative(e.latency_ms), palette[e.label], steps=True) for e in evaluations]
    x, y = Axis("ms per chunk (one call, batch 1)", log=True), Axis("share of calls that were quicker", 0, 1, percent=True)
    legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(e.label)}</li>" for e in evaluations) + "</ul>"
    return _card("Latency", "How long one plan takes: the steeper, the more even.", legend + plots.line_chart(lines, x, y, "latency distribution"))


def _network_calls(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    most = max(e.network_calls_per_chunk for e in evaluations) or 1.0
    rows = []
    for e in evaluations:
        calls = e.network_calls_per_chunk
        rows.append(
            f'<div class="name">{palette.dot(e.label)}</div><div class="value"><b>{calls:.4g}</b><small>{e.network_calls_per_step:.2f} a step</small></div>'
            f'<div class="track" {palette.style(e.label)}><div class="bar" style="width:{100 * calls / most:.3f}%"></div></div>'
        )
    say = "Evaluations of the network for one plan; a plan of Ta actions serves Ta control steps, the last one of an episode fewer."
    return _card("Network calls per chunk", say, f'<div class="bars">{"".join(rows)}</div>')


def _pairs(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    """Draw who beats whom on the same initial states; p-values are adjusted for the number of pairs of this task."""
    n = len(evaluations)
    found: dict[tuple[int, int], Paired] = {
        (i, j): compare_evaluations(evaluations[i], evaluations[j]) for i in range(n) for j in range(i + 1, n) if comparable(evaluations[i], evaluations[j])
    }
    if not found:
        return ""
    adjusted = dict(zip(found, holm([p.p_value for p in found.values()]), strict=True))
    rows = []
    for i, row in enumerate(evaluations):
        cells = "".join(_pair_cell(found, adjusted, i, j) for j in range(n))
        rows.append(f"<tr><th>{palette.dot(row.label)}</th>{cells}</tr>")
    say = (
        "Difference in success in points on the initial states that both were run on, with its interval; "
        "+a &minus;b: states that only the row, only the column solved. "
        f"p is McNemar's exact test, adjusted by Holm for {len(found)} {'pair' if len(found) == 1 else 'pairs'}. "
        f'<span class="better">&nbsp;row better&nbsp;</span> <span class="worse">&nbsp;row worse&nbsp;</span> where p &lt; {SIGNIFICANT}.'
    )
    table = _table(["row minus column", *(esc(e.label) for e in evaluations)], rows, "pairs")
    return _card("Paired comparison", say, table)


def _pair_cell(found: dict[tuple[int, int], Paired], adjusted: dict[tuple[int, int], float], i: int, j: int) -> str:
    key = (min(i, j), max(i, j))
    if i == j:
        return '<td class="self">&middot;</td>'
    if key not in found:
        return '<td class="self" title="not run on the same initial states">&ndash;</td>'
    pair, p, sign = found[key], adjusted[key], 1 if i < j else -1
    low, high = (pair.low, pair.high) if sign > 0 else (0.0 - pair.high, 0.0 - pair.low)
    only, other = (pair.first_only, pair.second_only) if sign > 0 else (pair.second_only, pair.first_only)
    kind = ("better" if sign * pair.difference > 0 else "worse") if p < SIGNIFICANT else ""
    shown = "p &lt; 0.0001" if p < 1e-4 else f"p = {p:.2g}"
    value = f"<b>{100 * sign * pair.difference + 0.0:+.1f}</b> <small>[{100 * low:+.1f}, {100 * high:+.1f}]</small>"
    return f'<td class="{kind}">{value}<br><small>+{only} &minus;{other}, {shown}</small></td>'.replace("+-", "-")


def _videos(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    groups, notes = [], []
    for e in evaluations:
        notes += [f"{e.label}: {note}" for note in e.notes]
        figures = []
        for v in e.videos:
            file = (e.folder or Path()) / v["file"]
            if not file.is_file():
                notes.append(f"{e.label}: {v['file']} is missing")
                continue
            data = base64.b64encode(file.read_bytes()).decode()
            outcome = "success" if v["success"] else "failure"
            steps = f"{v['length']} steps" + ("" if v.get("score") is None else f", score {v['score']:.2f}")
            figures.append(
                f'<figure><video src="data:video/mp4;base64,{data}" controls muted loop autoplay playsinline preload="auto"></video>'
                f"<figcaption><b>{esc(v['kind'])}: {outcome}</b><br>seed {esc(v['seed'])}, {esc(steps)}</figcaption></figure>"
            )
        if figures:
            groups.append(f'<h3>{palette.dot(e.label)}</h3><div class="videos">{"".join(figures)}</div>')
    listed = f'<ul class="notes">{"".join(f"<li>{esc(n)}</li>" for n in notes)}</ul>' if notes else ""
    if not groups:
        return _card("Videos", "", listed) if listed else ""
    say = "The best and the worst episode by success and speed, failures by score, replayed from the recorded actions, in real time."
    return _card("Best and worst episodes", say, "".join(groups) + listed)


def _training(runs: Sequence[Run], palette: Palette) -> str:
    if not runs:
        return ""
    runs = sorted(runs, key=lambda r: palette[r.label])
    lines = [Line(f"{r.label}, every logged step", r.steps, r.loss, palette[r.label], faint=True) for r in runs]
    lines += [Line(r.label, r.steps, plots.smoothed(r.loss), palette[r.label]) for r in runs]
    positive = all((r.loss[np.isfinite(r.loss)] > 0).all() for r in runs)
    legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(r.label)}</li>" for r in runs) + "</ul>"
    chart = plots.line_chart(lines, Axis("update", 0), Axis("training loss", log=positive), "training loss")
    cards = [_card("Training loss", "Smoothed (bold) over what was logged (pale). Losses of different kinds of policy are not comparable.", legend + chart)]
    checked = [r for r in runs if len(r.checks)]
    if checked:
        curves = [Line(r.label, r.checks[:, 0], r.checks[:, 1], palette[r.label], r.checks[:, 2], r.checks[:, 3]) for r in checked]
        chart = plots.line_chart(curves, Axis("update", 0), Axis("success rate", 0, 1, percent=True), "success during training")
        cards.append(_card("Success during training", "On selection seeds, with its 95% interval: for watching, not for reporting.", legend + chart))
    return f'<h2>Training</h2>\n<div class="grid2">{"".join(cards)}</div>\n'


def _learning(learners: Sequence[trials.Learner], palette: Palette) -> str:
    """Show what learnt by trial: one part a task, each quantity against environment steps and against seconds."""
    out = []
    for task in dict.fromkeys(x.task for x in learners):
        group = [x for x in learners if x.task == task]
        legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(x.label)}</li>" for x in group) + "</ul>"
        cards = [_card(title, say, legend + svg) for title, say, svg in trials.charts(task, group, {x.label: palette[x.label] for x in group})]
        several = max(len(x.trials) for x in group) > 1
        say = '<p class="say">Bold lines are means over seeds, bands their 95% interval (Student&#x27;s).</p>' if several else ""
        out.append(f'<h2>Learning by trial: <code>{esc(task)}</code></h2>\n{say}<div class="grid2">{"".join(cards)}</div>\n')
    return "".join(out)


def _provenance(found: Findings) -> str:
    """List what is needed to make every number again."""
    rows = []
    for e in found.evaluations:
        cells = (e.label, e.task, e.suite_version, e.checkpoint_hash or "-", f"{e.purpose} {e.seed0} to {e.seed0 + len(e.episodes) - 1}", e.noise_seed, e.block)
        rest = (e.n_action_steps, e.threads, e.device, ", ".join(f"{k} {v}" for k, v in e.packages.items()), e.machine.get("cpu", "?"), e.time)
        rows.append("<tr>" + "".join(f"<td>{esc(c)}</td>" for c in (*cells, *rest)) + "</tr>")
    names = ("policy", "task", "suite", "checkpoint", "seeds", "noise seed", "B", "Ta", "threads", "device", "packages", "machine", "time")
    table = _table(names, rows, "texts") if rows else ""
    notes = [f"not shown: {p}" for p in found.problems]
    if found.older:
        notes.append(f"not shown: {found.older} older {'evaluation' if found.older == 1 else 'evaluations'} of the same checkpoints on the same states")
    listed = f'<ul class="notes">{"".join(f"<li>{esc(n)}</li>" for n in notes)}</ul>' if notes else ""
    if not table and not listed:
        return ""
    folded = f"<details><summary>Checkpoints, seeds, versions, machine</summary>{table}</details>"
    return f'<h2>How this was measured</h2>\n<section class="card">{folded if table else ""}{listed}</section>\n'
