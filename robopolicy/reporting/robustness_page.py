"""A robustness table for people: text cells, Markdown, and one HTML page with a chart for every kind."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robopolicy.evaluation.bootstrap import Estimate
from robopolicy.evaluation.robustness import Curve, Table
from robopolicy.reporting import tables
from robopolicy.reporting.page import POLICY
from robopolicy.reporting.page_elements import Palette, esc
from robopolicy.reporting.plots import Axis, Line, line_chart

SIGNIFICANT = 0.05
_SAYS = (
    "Share of the initial states that are solved, with its 95% Wilson interval. A star: another share than unperturbed, on the same states "
    "(McNemar's exact test, p adjusted by Holm over all cells of the table, below 5%)."
)
_SUMMARY = (
    "Half: the size at which success falls below half of its own unperturbed value, interpolated; area: mean success over the ladder (over the "
    "logarithm of factors). Intervals are 95%, by bootstrap over initial states."
)


def kinds(table: Table) -> list[str]:
    """Return the kinds of a table, in its order."""
    return list(dict.fromkeys(c.ladder.kind for c in table.curves))


def title(curve: Curve) -> str:
    """Return the kind with its unit, and what it acts on where that is said."""
    of = f" of {curve.ladder.element}" if curve.ladder.element else ""
    return f"{curve.ladder.kind}{of} ({curve.ladder.about.unit})"


def success_rows(table: Table, kind: str) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of one kind: a line a policy, a column a size."""
    curves, adjusted = [c for c in table.curves if c.ladder.kind == kind], table.adjusted()
    rows = []
    for c in curves:
        cells = [c.policy]
        for i, size in enumerate(c.ladder.sizes):
            low, high = c.interval(i)
            star = "*" if i != c.neutral and adjusted[c.policy, kind, size] < SIGNIFICANT else ""
            cells.append(f"{100 * c.rates[i]:.0f}{star} [{100 * low:.0f}, {100 * high:.0f}]")
        rows.append(cells)
    return [title(curves[0]), *(f"{size:g}" for size in curves[0].ladder.sizes)], rows


def summary_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells of the summary: a line a policy, kind and side."""
    rows = []
    for c in table.curves:
        for side, way in c.sides():
            last = c.ladder.sizes[int(way[-1])]
            rows.append([c.policy, title(c) + (f", {side}" if side else ""), half_text(c.half_size(way), last, c.ladder.about.neutral), _range(c.area(way))])
    return ["policy", "kind", "half", "area"], rows


def half_text(e: Estimate, last: float, neutral: float) -> str:
    """Return the half size with its interval; beyond ``last``, the outermost size, it is only known to lie there."""

    def one(value: float) -> str:
        if neutral > last:
            return f"<{last:g}" if value <= 0 or value < last else f"{value:.2g}"
        return f">{last:g}" if math.isinf(value) else f"{value:.3g}"

    if math.isnan(e.value):
        return "- (nothing is solved)"
    return one(e.value) if one(e.low) == one(e.high) == one(e.value) else f"{one(e.value)} [{one(e.low)}, {one(e.high)}]"


def _range(e: Estimate) -> str:
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def markdown(table: Table) -> str:
    """Return the whole table in Markdown."""
    out = [f"# Robustness on {table.task}", "", f"{table.episodes} episodes a cell, {table.purpose} seeds from {table.seed0}. {_SAYS}", ""]
    for kind in kinds(table):
        out += [*_markdown_table(*success_rows(table, kind)), ""]
    if table.curves:
        out += [_SUMMARY, "", *_markdown_table(*summary_rows(table)), ""]
    out += [f"- left out: {line}" for line in table.left_out]
    return "\n".join(out).rstrip() + "\n"


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return tables.to_markdown(tables.Table("robustness", "", heads, rows, texts=len(heads))).rstrip().split("\n")


def chart(table: Table, kind: str, palette: Palette) -> str:
    """Return the SVG of one kind: success of every policy over the size, with Wilson bands."""
    lines = []
    curves = [c for c in table.curves if c.ladder.kind == kind]
    about = curves[0].ladder.about
    log = about.factor and min(s for c in curves for s in c.ladder.sizes) > 0
    for c in curves:
        low, high = (np.array([c.interval(i)[side] for i in range(len(c.ladder.sizes))]) for side in (0, 1))
        tips = [f"{c.policy}, {size:g}: {rate:.0%}" for size, rate in zip(c.ladder.sizes, c.rates, strict=True)]
        lines.append(Line(c.policy, np.array(c.ladder.sizes), c.rates, palette[c.policy], low, high, tips=tips))
    along = Axis(f"{kind} ({about.unit})", log=log, ticks=curves[0].ladder.sizes if log else None)
    return line_chart(lines, along, Axis("success rate", 0, 1, percent=True), f"{table.task}: success against {kind}")


def html(table: Table) -> str:
    """Return one page that loads nothing from anywhere."""
    palette = Palette([p for p in dict.fromkeys(c.policy for c in table.curves) if p != "expert"])
    legend = "".join(f"<span>{palette.dot(name)}</span> " for name in dict.fromkeys(c.policy for c in table.curves))
    cards = "".join(
        f'<section class="card"><h3>{esc(kind)}</h3><p class="say">{esc(table_about(table, kind))}</p>{chart(table, kind, palette)}'
        f"{_html_table(*success_rows(table, kind))}</section>\n"
        for kind in kinds(table)
    )
    css = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    left = "".join(f"<li>{esc(line)}</li>" for line in table.left_out)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{esc(POLICY)}">\n<title>{esc(table.task)} · robustness</title>\n<style>\n{css}</style>\n</head>\n'
        f'<body>\n<header><div><div class="brand">robopolicy robustness</div><h1>Robustness on {esc(table.task)}</h1>'
        f'<p class="lead">{table.episodes} episodes a cell, {esc(table.purpose)} seeds from {table.seed0}</p></div></header>\n<main>\n'
        f'<p class="say">{esc(_SAYS)}</p><p>{legend}</p>\n<div class="grid2">{cards}</div>\n'
        f'<section class="card"><h3>Summary</h3><p class="say">{esc(_SUMMARY)}</p>{_html_table(*summary_rows(table))}</section>\n'
        + (f'<section class="card"><h3>Left out</h3><ul>{left}</ul></section>\n' if left else "")
        + "</main>\n</body>\n</html>\n"
    )


def table_about(table: Table, kind: str) -> str:
    """Return what a kind is, with its unit."""
    about = next(c.ladder.about for c in table.curves if c.ladder.kind == kind)
    return f"{about.about}; size in {about.unit}" if not about.factor else f"{about.about}, as a factor"


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{esc(text)}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{esc(text)}</td>' for text in cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def write(table: Table, out: Path) -> Path:
    """Write ``robustness.html`` and ``robustness.md`` into ``out``, whole or not at all; return the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (("robustness.md", markdown(table)), ("robustness.html", html(table))):
        fresh = out / f"{name}.new"
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(out / name)
    return out / "robustness.html"
