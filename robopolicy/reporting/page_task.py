"""What the report's page shows of one task: success, pairs, latency, network calls, videos."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.evaluation.records import Evaluation, comparable, compare_evaluations
from robopolicy.evaluation.statistics import Paired, holm
from robopolicy.reporting import plots
from robopolicy.reporting.page_elements import Palette, anchor, badge, card, esc, html_table, or_dash
from robopolicy.reporting.plots import Axis, Line

SIGNIFICANT = 0.05


def task_part(task: str, evaluations: Sequence[Evaluation], palette: Palette) -> str:
    """Return the part of the page about one task."""
    learnt = [e for e in evaluations if e.policy != "expert"]
    charts = [_success_over_time(evaluations, palette)]
    timed = [e for e in learnt if e.latency_ms]
    if timed:
        charts.append(_latency(timed, palette))
    out = [f'<h2 id="{esc(anchor(task))}">Task <code>{esc(task)}</code></h2>\n', _success(evaluations, palette), _results(evaluations, palette)]
    out.append(f'<div class="grid2">{"".join(charts)}</div>\n')
    if learnt:
        out += [_network_calls(learnt, palette), _success_by_calls(learnt, palette)]
    if len(evaluations) > 1:
        out.append(_pairs(evaluations, palette))
    out.append(_videos(evaluations, palette))
    return "".join(out)


def _legend(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    """Return the names behind their colours; those on states for choosing are marked."""
    return '<ul class="legend">' + "".join(f"<li>{palette.dot(e.label)}{badge(e)}</li>" for e in evaluations) + "</ul>"


def _success(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    rows = []
    for e in evaluations:
        low, high = e.interval
        rows.append(
            f'<div class="name">{palette.dot(e.label)}{badge(e)}</div>'
            f'<div class="value"><b>{e.success_rate:.1%}</b><small>{100 * low:.1f} to {100 * high:.1f}</small></div>'
            f'<div class="track" {palette.style(e.label)} title="{esc(e.label)}: {e.successes} of {len(e.episodes)}">'
            f'<div class="bar" style="width:{100 * e.success_rate:.3f}%"></div>'
            f'<div class="whisker" style="left:{100 * low:.3f}%;width:{100 * (high - low):.3f}%"></div></div>'
        )
    scale = '<div class="scale">' + "".join(f'<span style="left:{x}%">{x}%</span>' for x in (0, 25, 50, 75, 100)) + "</div>"
    say = "Share of episodes that reached success at any step; the whisker is the 95% Wilson interval."
    return card("Success", say, f'<div class="bars">{"".join(rows)}{scale}</div>')


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
            *([or_dash(e.score, "{:.3f}")] if scored else []),
            or_dash(float(np.median(good)) if good else None, "{:.0f}"),
            or_dash(e.network_calls_per_chunk if learnt else None, "{:.4g}"),
            or_dash(e.network_calls_per_step if learnt else None, "{:.2f}"),
            *(or_dash(value, "{:.2f}") for value in (p50, p95, p99)),
        ]
        rows.append(f"<tr><th>{palette.dot(e.label)}{badge(e)}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>")
    say = "Steps to success: median over successful episodes. Milliseconds per chunk: one call at batch 1, on the machine named above."
    return card("Results", say, html_table(head, rows))


def _success_over_time(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    lines = []
    limit = max(e.max_episode_steps for e in evaluations)
    for e in evaluations:
        times = np.sort([x.length for x in e.episodes if x.success]).astype(float)
        x = np.concatenate([[0.0], times, [float(limit)]])
        y = np.concatenate([[0.0], np.arange(1, len(times) + 1), [len(times)]]) / len(e.episodes)
        lines.append(Line(e.label, x, y, palette[e.label], steps=True))
    chart = plots.line_chart(lines, Axis("control step", 0, limit), Axis("episodes solved by then", 0, 1, percent=True), "success over time")
    return card("Success over time", "Share of all episodes that had reached success by a control step.", _legend(evaluations, palette) + chart)


def _latency(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    lines = [Line(e.label, *plots.cumulative(e.latency_ms), palette[e.label], steps=True) for e in evaluations]
    x, y = Axis("ms per chunk (one call, batch 1)", log=True), Axis("share of calls that were quicker", 0, 1, percent=True)
    return card(
        "Latency", "How long one plan takes: the steeper, the more even.", _legend(evaluations, palette) + plots.line_chart(lines, x, y, "latency distribution")
    )


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
    return card("Network calls per chunk", say, f'<div class="bars">{"".join(rows)}</div>')


def _success_by_calls(evaluations: Sequence[Evaluation], palette: Palette) -> str:
    """Draw success over network calls a plan, a point with its interval for every policy; nothing where all need as many."""
    if len({round(e.network_calls_per_chunk, 6) for e in evaluations}) < 2:
        return ""
    lines = []
    for e in evaluations:
        x, (low, high) = max(e.network_calls_per_chunk, 0.5), e.interval
        tip = f"{e.label}: {e.network_calls_per_chunk:.4g} calls, {e.success_rate:.1%} [{low:.1%}, {high:.1%}]"
        lines.append(Line(f"{e.label}, 95% interval", np.array([x, x]), np.array([low, high]), palette[e.label]))
        lines.append(Line(e.label, np.array([x]), np.array([e.success_rate]), palette[e.label], tips=[tip]))
    most = max(100.0, *(e.network_calls_per_chunk for e in evaluations))
    across = Axis("network calls a plan", 0.45, 1.2 * most, log=True, ticks=(1, 2, 4, 10, 20, 50, 100, 1000))
    chart = plots.line_chart(lines, across, Axis("success", 0, 1, percent=True), "success against network calls")
    return card("Success against network calls", "Upright lines are 95% Wilson intervals; further left is cheaper.", _legend(evaluations, palette) + chart)


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
    listing = html_table(["row minus column", *(esc(e.label) for e in evaluations)], rows, "pairs")
    return card("Paired comparison", say, listing)


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
    """Show failures, the worst first, then successes, the best first."""
    groups: dict[bool, list[str]] = {False: [], True: []}
    notes = []
    for e in evaluations:
        notes += [f"{e.label}: {note}" for note in e.notes]
        for outcome, shown in groups.items():
            chosen = sorted((v for v in e.videos if bool(v["success"]) is outcome), key=lambda v: _place(e, v), reverse=outcome)
            figures = [_figure(e, v, notes) for v in chosen]
            if any(figures):
                shown.append(f'<h3>{palette.dot(e.label)}</h3><div class="videos">{"".join(figures)}</div>')
    listed = f'<ul class="notes">{"".join(f"<li>{esc(n)}</li>" for n in notes)}</ul>' if notes else ""
    say = "Replayed from the recorded actions, in real time."
    cards = [card(title, say, "".join(shown)) for title, shown in (("Failures, the worst first", groups[False]), ("Best episodes", groups[True])) if shown]
    return "".join(cards) + (card("Notes on videos", "", listed) if listed else "")


def _place(e: Evaluation, video: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Return the rank of the episode that a video shows."""
    return next((x.rank for x in e.episodes if x.index == video["index"]), (bool(video["success"]), 0.0, 0.0))


def _figure(e: Evaluation, v: Mapping[str, Any], notes: list[str]) -> str:
    """Return one video with what happened in it; adds to ``notes`` where its file is missing."""
    file = (e.folder or Path()) / v["file"]
    if not file.is_file():
        notes.append(f"{e.label}: {v['file']} is missing")
        return ""
    data = base64.b64encode(file.read_bytes()).decode()
    outcome = "success" if v["success"] else "failure"
    steps = f"{v['length']} steps" + ("" if v.get("score") is None else f", score {v['score']:.2f}")
    return (
        f'<figure><video src="data:video/mp4;base64,{data}" controls muted loop autoplay playsinline preload="auto"></video>'
        f"<figcaption><b>{esc(v['kind'])}: {outcome}</b><br>seed {esc(v['seed'])}, {esc(steps)}</figcaption></figure>"
    )
