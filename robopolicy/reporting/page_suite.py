"""What the report's page shows of several tasks together: aggregates, performance profiles, a bar a task."""

from __future__ import annotations

from collections.abc import Sequence

from robopolicy.evaluation import aggregate
from robopolicy.evaluation.bootstrap import Estimate
from robopolicy.evaluation.records import Evaluation
from robopolicy.reporting import plots, suites
from robopolicy.reporting.page_elements import Palette, card, esc, html_table
from robopolicy.reporting.plots import Axis, Line

FIGURES = {"iqm": "IQM", "mean": "mean", "median": "median", "optimality_gap": "optimality gap"}


def section(evaluations: Sequence[Evaluation]) -> str:
    """Return the cards about a suite; empty where fewer than two tasks have report rows."""
    found = suites.methods(evaluations)
    whole = suites.complete(found)
    if len({task for method in found for task in method.tasks}) < 2:
        return ""
    palette = Palette([method.name for method in found if method.name != "expert"])
    parts = [_bars(found, palette)]
    if whole:
        improvement = _improvement(whole, palette) if len(whole) > 1 else ""
        parts = [_aggregates(whole, palette), f'<div class="grid2">{_profiles(whole, palette)}{improvement}</div>\n', *parts]
    left = [method.name for method in found if method not in whole]
    note = f'<ul class="notes"><li>not in the aggregates, since not run on every task: {esc(", ".join(left))}</li></ul>' if left else ""
    return f"<h2>The tasks together</h2>\n{''.join(parts)}{note}"


def _estimate(e: Estimate) -> str:
    return f"{100 * e.value:.1f}% <small>[{100 * e.low:.1f}, {100 * e.high:.1f}]</small>"


def _over(found: Sequence[suites.Method]) -> str:
    """Return what the intervals are over."""
    runs = [aggregate.over_runs(method.runs) for method in found]
    if all(runs):
        return "training runs within tasks"
    return "the episodes of the one run a task" if not any(runs) else "training runs within tasks where each task has several, else the episodes of the one run"


def _aggregates(found: Sequence[suites.Method], palette: Palette) -> str:
    figures = suites.aggregates(found)
    rows = []
    for method in found:
        runs = sorted({len(x) for x in method.tasks.values()})
        cells = "".join(f"<td>{_estimate(figures[method.name][key])}</td>" for key in FIGURES)
        rows.append(f"<tr><th>{palette.dot(method.name)}</th>{cells}<td>{runs[0] if len(runs) == 1 else f'{runs[0]} to {runs[-1]}'}</td></tr>")
    say = (
        f"Success over {len(found[0].tasks)} tasks. IQM: the mean without the lowest and highest quarter of the runs; optimality gap: how far below 100% on "
        f"average. 95% intervals by stratified bootstrap over {_over(found)}."
    )
    return card("Aggregates", say, html_table(["policy", *FIGURES.values(), "runs a task"], rows))


def _profiles(found: Sequence[suites.Method], palette: Palette) -> str:
    lines = [Line(name, p.thresholds, p.share, palette[name], p.low, p.high) for name, p in suites.profiles(found).items()]
    legend = '<ul class="legend">' + "".join(f"<li>{palette.dot(method.name)}</li>" for method in found) + "</ul>"
    across, up = Axis("success rate", 0, 1, percent=True), Axis("share of runs above it", 0, 1, percent=True)
    say = "Which share of the runs, each task weighing the same, is above a success rate; bands are pointwise 95% intervals."
    return card("Performance profiles", say, legend + plots.line_chart(lines, across, up, "performance profiles"))


def _improvement(found: Sequence[suites.Method], palette: Palette) -> str:
    known = suites.improvements(found)
    rows = []
    for first in found:
        cells = []
        for second in found:
            e = known.get((first.name, second.name))
            other = known.get((second.name, first.name))
            if e is None and other is not None:
                e = Estimate(1 - other.value, 1 - other.high, 1 - other.low)
            cells.append('<td class="self">&middot;</td>' if e is None else f"<td>{_estimate(e)}</td>")
        rows.append(f"<tr><th>{palette.dot(first.name)}</th>{''.join(cells)}</tr>")
    say = "Chance that a run of the row beats one of the column on a task drawn at random, ties half; 95% intervals by stratified bootstrap."
    return card("Probability of improvement", say, html_table(["row over column", *(esc(m.name) for m in found)], rows, "pairs"))


def _bars(found: Sequence[suites.Method], palette: Palette) -> str:
    rows = []
    for task in dict.fromkeys(task for method in found for task in method.tasks):
        rows.append(f'<div class="name"><b>{esc(task)}</b></div><div class="track" style="height:1px"></div><div class="value"></div>')
        for method in found:
            if task not in method.tasks:
                continue
            (k, n), e = method.counted(task), method.rate(task)
            rows.append(
                f'<div class="name">{palette.dot(method.name)}</div><div class="value"><b>{e.value:.0%}</b> <small>{k} of {n}</small></div>'
                f'<div class="track" {palette.style(method.name)} title="{esc(method.name)} on {esc(task)}: {k} of {n}">'
                f'<div class="bar" style="width:{100 * e.value:.3f}%"></div>'
                f'<div class="whisker" style="left:{100 * e.low:.3f}%;width:{100 * (e.high - e.low):.3f}%"></div></div>'
            )
    scale = '<div class="scale">' + "".join(f'<span style="left:{x}%">{x}%</span>' for x in (0, 25, 50, 75, 100)) + "</div>"
    say = "Success on every task, all runs of a policy together; whiskers are 95% Wilson intervals, in which states on which runs agree count once."
    return card("Task by task", say, f'<div class="bars">{"".join(rows)}{scale}</div>')
