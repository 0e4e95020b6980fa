"""Curves of benchmarks as drawings of their own: panels side by side over one legend, means over seeds with bands from the least to the most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robopolicy.reporting.drawing import side_by_side
from robopolicy.reporting.plots import Axis, Line, line_chart

POINTS = 60  # of a curve


def panel(groups: Mapping[str, Sequence[Mapping[str, Any]]], name: str, label: str, title: Callable[[str], str] = str, log: bool = False) -> str:
    """Draw the curves ``name`` of all groups: means over seeds (geometric ones on a ``log`` axis), bands from the least to the most of them.

    Args:
        groups: Name -> one row a seed, whose ``curves`` hold ``name``: pairs of environment steps and a value.
        name: Of the curve.
        label: Of its axis.
        title: What a group is called where a line is pointed at.
        log: Whether the axis of values is logarithmic.
    """
    lines = []
    for colour, (group, rows) in enumerate(groups.items()):
        curves = [np.array(row["curves"][name], np.float64).reshape(-1, 2) for row in rows]
        curves = [curve for curve in curves if len(curve)]
        if not curves:
            continue
        x = np.linspace(max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves), POINTS)
        y = np.stack([np.interp(x, c[:, 0], c[:, 1]) for c in curves])
        mean = np.exp(np.log(y).mean(0)) if log else y.mean(0)
        lines.append(Line(title(group), x, mean, colour, y.min(0), y.max(0)))
    return line_chart(lines, Axis("environment steps"), Axis(label, log=log), label) if lines else ""


def draw(file: Path, panels: Sequence[str], names: Sequence[str]) -> None:
    """Write ``panels`` side by side over a legend, as an SVG file of its own; lines have the colours of ``names`` in their order."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(side_by_side(panels, names), encoding="utf-8")
