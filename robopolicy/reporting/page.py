"""The report's page: evaluations and runs in, one HTML text out; nothing in it is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robopolicy.evaluation.records import Evaluation
from robopolicy.reporting import curves, page_suite, plots, suites, trials
from robopolicy.reporting.page_elements import Palette, anchor, card, esc, html_table, interval_text
from robopolicy.reporting.page_task import task_part
from robopolicy.reporting.plots import Axis, Line
from robopolicy.reporting.report import Findings, Run

#: Nothing may be loaded, whatever a label or a note holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def render(found: Findings, name: str) -> str:
    """Return the whole page. ``name`` is the folder's, for the title."""
    palette = Palette.of(found)
    tasks = list(dict.fromkeys(e.task for e in found.evaluations))
    body = [_overview(found.evaluations, tasks, palette), page_suite.section(found.evaluations)] if len(tasks) > 1 else []
    for task in tasks:
        body.append(task_part(task, [e for e in found.evaluations if e.task == task], palette))
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
    """Say the main result in one sentence: of report seeds and of the task's own world."""
    evaluations = [e for e in evaluations if e.purpose == "report" and not e.conditions]
    learnt = [e for e in evaluations if e.policy != "expert"]
    if not learnt:
        return ""
    best, expert = max(learnt, key=lambda e: e.success_rate), next((e for e in evaluations if e.policy == "expert"), None)
    low, high = best.interval
    of = f", the best of {len(learnt)}," if len(learnt) > 1 else ""
    text = f"{best.label}{of} solves {best.success_rate:.1%} of the initial states (95% interval {low:.1%} to {high:.1%})"
    if expert is not None and expert is not best:
        text += f"; the scripted expert solves {expert.success_rate:.1%}"
    return f'<p class="lead">{esc(text)}.</p>'


def _overview(evaluations: Sequence[Evaluation], tasks: Sequence[str], palette: Palette) -> str:
    """Return a table of tasks and methods, all training seeds of one together; report rows only."""
    found = suites.methods(evaluations)
    if not found:
        return ""
    rows = []
    for task in tasks:
        cells = []
        for method in found:
            e = method.rate(task) if task in method.tasks else None
            cells.append("<td></td>" if e is None else f"<td>{e.value:.0%} <small>{interval_text((e.low, e.high))}</small></td>")
        rows.append(f"<tr><th><a href='#{esc(anchor(task))}'>{esc(task)}</a></th>{''.join(cells)}</tr>")
    listing = html_table(["task", *(palette.dot(method.name) for method in found)], rows)
    return "<h2>All tasks</h2>\n" + card(
        "Success rate", "with its 95% Wilson interval, training seeds together: states on which they agree count once", listing
    )


def _training(runs: Sequence[Run], palette: Palette) -> str:
    if not runs:
        return ""
    runs = sorted(runs, key=lambda r: palette[r.label])
    lines = [Line(f"{r.label}, every logged step", r.steps, r.loss, palette[r.label], faint=True) for r in runs]
    lines += [Line(r.label, r.steps, plots.smoothed(r.loss), palette[r.label]) for r in runs]
    positive = all((r.loss[np.isfinite(r.loss)] > 0).all() for r in runs)
    legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(r.label)}</li>" for r in runs) + "</ul>"
    chart = plots.line_chart(lines, Axis("update", 0), Axis("training loss", log=positive), "training loss")
    cards = [card("Training loss", "Smoothed (bold) over what was logged (pale). Losses of different kinds of policy are not comparable.", legend + chart)]
    checked = [r for r in runs if len(r.checks)]
    if checked:
        curves = [Line(r.label, r.checks[:, 0], r.checks[:, 1], palette[r.label], r.checks[:, 2], r.checks[:, 3]) for r in checked]
        chart = plots.line_chart(curves, Axis("update", 0), Axis("success rate", 0, 1, percent=True), "success during training")
        cards.append(card("Success during training", "On selection seeds, with its 95% interval: for watching, not for reporting.", legend + chart))
    return f'<h2>Training</h2>\n<div class="grid2">{"".join(cards)}</div>\n'


def _learning(learners: Sequence[trials.Learner], palette: Palette) -> str:
    """Show what learnt by trial: one part a task, each quantity against environment steps and against seconds."""
    out = []
    for task in dict.fromkeys(x.task for x in learners):
        group = [x for x in learners if x.task == task]
        legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(x.label)}</li>" for x in group) + "</ul>"
        cards = [card(title, say, legend + svg) for title, say, svg in trials.charts(task, group, {x.label: palette[x.label] for x in group})]
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
    listing = html_table(names, rows, "texts") if rows else ""
    notes = [f"not shown: {p}" for p in found.problems]
    if found.older:
        notes.append(f"not shown: {found.older} older {'evaluation' if found.older == 1 else 'evaluations'} of the same checkpoints on the same states")
    listed = f'<ul class="notes">{"".join(f"<li>{esc(n)}</li>" for n in notes)}</ul>' if notes else ""
    if not listing and not listed:
        return ""
    folded = f"<details><summary>Checkpoints, seeds, versions, machine</summary>{listing}</details>"
    return f'<h2>How this was measured</h2>\n<section class="card">{folded if listing else ""}{listed}</section>\n'
