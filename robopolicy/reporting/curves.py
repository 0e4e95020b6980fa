"""A figure against network calls, one curve a policy: what ``robopolicy bench policies`` leaves behind, and how it is drawn.

The report shows all panels below a folder as one plot: a legend that hides and shows policies in every panel, intervals
as bands, and each point's numbers where it is pointed at. No script: the legend is boxes and style rules.
"""

from __future__ import annotations

import dataclasses
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from policies.spec import InputError
from robopolicy.reporting import plots
from robopolicy.reporting.drawing import side_by_side, swatch
from robopolicy.reporting.plots import Axis, Line

FORMAT = 1
FILE = "curves.json"
TICKS = (1, 2, 4, 10, 100)


@dataclass(frozen=True)
class Point:
    """One figure.

    Attributes:
        calls: Network calls a plan, as counted.
        value: The figure.
        low: Lower end of its 95 % interval.
        high: Upper end.
        also: What else was measured there: name -> number.
    """

    calls: float
    value: float
    low: float
    high: float
    also: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """One policy with one way to act.

    Attributes:
        label: Name for legends, the same in every panel.
        policy: Policy type.
        points: By rising network calls.
        works: Whether it is above its peer at few calls; None where that is not asked.
    """

    label: str
    policy: str
    points: Sequence[Point]
    works: bool | None = None


@dataclass(frozen=True)
class Panel:
    """All curves of one task.

    Attributes:
        title: The task, in words.
        quantity: What the values are, e.g. ``success``.
        better: Whether more or less of it is good.
        about: How it was measured, one line.
        curves: One a policy.
        floor: The best value that can be expected, None: there is no such value.
        missing: What could not be measured, and why.
    """

    title: str
    quantity: str
    better: Literal["higher", "lower"]
    about: str
    curves: Sequence[Curve]
    floor: float | None = None
    missing: Sequence[str] = ()

    @property
    def share(self) -> bool:
        """Whether the values are shares, 0 to 1."""
        return self.quantity == "success"

    def save(self, folder: Path) -> Path:
        """Write ``curves.json`` into ``folder`` atomically and return its path."""
        from robopolicy.data.atomic import write_bytes

        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / FILE, (json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1, allow_nan=False) + "\n").encode())
        return folder / FILE

    @classmethod
    def load(cls, file: Path) -> Panel:
        """Read a ``curves.json``. Raises InputError naming the file if it is not one."""
        try:
            value: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if value.pop("format") != FORMAT:
                raise InputError(f"{file}: unknown format of curves, expected {FORMAT}")
            curves = [Curve(**{**c, "points": [Point(**p) for p in c["points"]]}) for c in value.pop("curves")]
            return cls(**value, curves=curves)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise error if isinstance(error, InputError) else InputError(f"{file}: cannot be read as curves: {type(error).__name__}: {error}") from error


def labels(panels: Sequence[Panel]) -> list[str]:
    """Return the labels of all panels in order of their first appearance: a label's place is its colour."""
    return list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))


def chart(panel: Panel, order: Sequence[str]) -> str:
    """Draw one panel as ``<svg>``; colours by the place of a label in ``order``."""
    lines = []
    if panel.floor is not None:
        ends = np.array([0.9, 110.0])
        lines.append(Line("two sets of exact samples", ends, np.full(2, panel.floor), -1))
    for curve in panel.curves:
        x, y, low, high = (np.array([getattr(p, name) for p in curve.points], np.float64) for name in ("calls", "value", "low", "high"))
        tips = [_tip(curve.label, panel, p) for p in curve.points]
        at = order.index(curve.label)
        lines.append(Line(curve.label, x, y, at, low, high, tips=tips, group=f"way{at}"))
    most = max([110.0, *(p.calls for c in panel.curves for p in c.points)])
    across = Axis("network calls a plan", 0.9, most, log=True, ticks=TICKS)
    up = Axis("success", 0, 1, percent=True) if panel.share else Axis(panel.quantity, log=True)
    return plots.line_chart(lines, across, up, f"{panel.title}: {panel.quantity} against network calls")


def _tip(label: str, panel: Panel, point: Point) -> str:
    form = "{:.1%}" if panel.share else "{:.3f}"
    value, low, high = (form.format(v) for v in (point.value, point.low, point.high))
    also = "".join(f"; {name} {number:.3g}" for name, number in point.also.items())
    return f"{label}, {point.calls:.3g} calls: {panel.quantity} {value} [{low}, {high}]{also}"


def section(panels: Sequence[Panel]) -> str:
    """Return the plot as HTML: legend, panels side by side, what is missing."""
    order = labels(panels)
    boxes = "".join(_box(i, label, panels) for i, label in enumerate(order))
    hidden = "".join(f".few:has(#way{i}:not(:checked)) .way{i}{{display:none}}" for i in range(len(order)))
    drawn = "".join(f'<div><h3>{_esc(p.title)}</h3><p class="say">{_esc(p.about)}</p>{chart(p, order)}</div>' for p in panels)
    missing = "".join(f"<li>not measured: {_esc(line)}</li>" for line in dict.fromkeys(line for p in panels for line in p.missing))
    told = (
        "Each point is one policy with one number of network calls for a plan; bands are 95% intervals, both axes of distances are logarithmic. "
        "Point at a dot for its numbers; the boxes hide and show policies. Ticks and crosses, one a panel: whether a few-step method is above DDIM "
        "(of the same loop) at 4 calls or fewer, by more than chance."
    )
    return (
        f'<h2>Success and distance against network calls</h2>\n<section class="card few"><style>{hidden}</style><p class="say">{told}</p>'
        f'<div class="legend">{boxes}</div><div class="grid2">{drawn}</div>{f"""<ul class="notes">{missing}</ul>""" if missing else ""}</section>\n'
    )


def _box(index: int, label: str, panels: Sequence[Panel]) -> str:
    marks = [("✓" if c.works else "✗", p.title) for p in panels for c in p.curves if c.label == label and c.works is not None]
    said = "".join(f'<small title="{_esc(title)}: {"" if mark == "✓" else "not "}above DDIM at 4 calls or fewer">{mark}</small>' for mark, title in marks)
    return f'<label><input type="checkbox" id="way{index}" checked=""/> {_swatch(index)} {_esc(label)} {said}</label> '


def _swatch(index: int) -> str:
    return f'<svg viewBox="0 0 22 10" style="display:inline-block;width:22px;height:10px">{swatch(index)}</svg>'


def picture(panels: Sequence[Panel]) -> str:
    """Return the plot as an SVG file of its own, panels side by side over a legend."""
    order = labels(panels)
    return side_by_side([chart(p, order) for p in panels], order, [f"{p.title}: {p.quantity}" for p in panels])


def _esc(text: object) -> str:
    return html.escape(str(text), quote=True)
