"""What a sweep found: a table of settings with the mean over seeds and its interval, and learning curves, as Markdown and as one HTML page."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.data.atomic import write_bytes
from robopolicy.evaluation.statistics import mean_interval
from robopolicy.reporting import plots
from robopolicy.reporting.drawing import LIGHT
from robopolicy.reporting.plots import Axis, Line
from robopolicy.sweep import Sweep

_LESS_IS_BETTER = ("loss",)
_SHOWN = ("success", "evaluated_return", "return", "loss")


@dataclass(frozen=True)
class Mean:
    """Mean of n numbers and its 95 % interval (Student's t); without one for a single number."""

    n: int
    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean_of(numbers: Sequence[float]) -> Mean:
    """Return mean and interval of ``numbers``, at least one."""
    value, half = (float(number) for number in mean_interval(numbers))
    return Mean(1, value, None, None) if len(numbers) == 1 else Mean(len(numbers), value, value - half, value + half)


def groups_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return the results by their settings without the seed, the best first: by success, else by return, else by loss."""
    out: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        out.setdefault(row["group"], []).append(row)
    measure = next((name for name in _SHOWN if any(row.get(name) is not None for row in rows)), None)
    if measure is None:
        return out
    sign = 1.0 if measure in _LESS_IS_BETTER else -1.0

    def rank(group: str) -> float:
        found = _numbers(out[group], measure)
        return sign * float(np.mean(found)) if found else math.inf

    return {group: out[group] for group in sorted(out, key=rank)}


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in rows if row.get(name) is not None]


def table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells: a line a group."""
    names = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    lines = []
    for group, own in groups_of(rows).items():
        cells = [str(mean_of(found)) if (found := _numbers(own, name)) else "" for name in names]
        lines.append([group, str(len(own)), *cells, f"{np.mean(_numbers(own, 'seconds')):.0f}"])
    return ["settings", "runs", *(name.replace("_", " ") for name in names), "seconds"], lines


def markdown(sweep: Sweep) -> str:
    """Return the table in Markdown, and what failed."""
    heads, lines = table(sweep.rows)
    out = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *("| " + " | ".join(line) + " |" for line in lines)]
    out += ["", "Means over seeds with 95 % intervals (Student's t). Success is on selection seeds: report the choice on others."]
    if sweep.failed:
        out += ["", f"{len(sweep.failed)} cells failed:", "", *(f"- {cell.name}: {why}" for cell, why in sweep.failed)]
    return "\n".join(out) + "\n"


def chart(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the learning curves: a colour a group, the mean over seeds with the range between them; empty without curves."""
    lines, measure = [], next((row["measure"] for row in rows if row.get("curve")), "")
    for colour, (group, own) in enumerate(groups_of(rows).items()):
        found = [np.array(row["curve"], np.float64) for row in own if row.get("curve") and row["measure"] == measure]
        if not found:
            continue
        steps = found[0][:, 0]
        values = np.stack([np.interp(steps, one[:, 0], one[:, 1]) for one in found])
        band = (values.min(0), values.max(0)) if len(found) > 1 else (None, None)
        lines.append(Line(group, steps, values.mean(0), colour, *band))
    if not lines:
        return ""
    log = measure in _LESS_IS_BETTER and all((line.y > 0).all() for line in lines)
    return plots.line_chart(lines, Axis("steps"), Axis(measure, log=log), f"{measure} against steps")


def page(sweep: Sweep, title: str) -> str:
    """Return the whole page; nothing in it is fetched from anywhere."""
    heads, lines = table(sweep.rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + _first(i, line[0]) + "".join(f"<td>{html.escape(cell)}</td>" for cell in line[1:]) + "</tr>" for i, line in enumerate(lines))
    failed = "".join(f"<li>{html.escape(f'{cell.name}: {why}')}</li>" for cell, why in sweep.failed)
    missing = f"<h2>Failed</h2><ul>{failed}</ul>" if failed else ""
    style = (
        f":root{{{LIGHT};color-scheme:light}}body{{font:15px/1.5 system-ui,sans-serif;color:var(--ink);max-width:960px;margin:32px auto;padding:0 16px}}"
        "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--hair)}"
        "i{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:8px}svg text{font:12.5px system-ui,sans-serif;fill:var(--soft)}"
        ".grid{stroke:var(--hair)}.axis{stroke:var(--neutral)}.line{fill:none;stroke-width:2}.band{opacity:.15}p{color:var(--soft)}"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body><h1>{html.escape(title)}</h1>{chart(sweep.rows)}"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        "<p>Means over seeds with 95 % intervals (Student's t); bands reach from the lowest to the highest seed. "
        f"Success is on selection seeds: report the choice on others.</p>{missing}</body></html>\n"
    )


def _first(index: int, name: str) -> str:
    return f'<td><i style="background:var(--c{index % 7})"></i>{html.escape(name)}</td>'


def write(sweep: Sweep, out: Path) -> Path:
    """Write ``report.md`` and ``report.html`` into the sweep's folder; returns the page's path."""
    write_bytes(out / "report.md", markdown(sweep).encode())
    write_bytes(out / "report.html", page(sweep, f"Sweep {out.resolve().name}").encode())
    return out / "report.html"
