"""Line charts as inline SVG: no library, no script, colours by CSS so that light and dark pages share one drawing."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 560, 300  # user units; the page scales the drawing
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 44
MOST_POINTS = 500  # per line: more than the pixels it is drawn on


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: Shown when pointed at.
        x: (n,) positions.
        y: (n,) values; not finite ones break the curve.
        colour: Index into the page's palette, -1 for the neutral one.
        low: (n,) lower edge of a band, or None.
        high: (n,) upper edge, or None.
        faint: Draw thin and pale, e.g. what another line smooths.
        steps: Hold each value until the next position.
        tips: What each point says when pointed at; each gets a dot. Empty: no dots. For lines that are not thinned.
        group: Class of everything that is drawn for the line, so that a page can hide it.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    faint: bool = False
    steps: bool = False
    tips: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True)
class Axis:
    """One axis: label, range (None: that of the data), logarithmic or not, whether numbers are shares, and ticks (None: round numbers)."""

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False
    ticks: Sequence[float] | None = None


def linear_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten apart) in [low, high], about ``wanted`` of them."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return numbers in [low, high] for a logarithmic axis: powers of ten, with 2 and 5 where there is room."""
    decades = math.log10(high / low)
    multiples = (1, 2, 5) if decades < 2.5 else (1,)
    found = [m * 10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in multiples]
    return [t for t in found if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool
    start: float
    end: float
    fixed: Sequence[float] | None = None

    def __call__(self, value: np.ndarray | float) -> np.ndarray:
        values = np.asarray(value, np.float64)
        if self.log:
            share = (np.log(np.maximum(values, 1e-300)) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (values - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * share

    @property
    def ticks(self) -> Sequence[float]:
        if self.fixed is not None:
            return [tick for tick in self.fixed if self.low <= tick <= self.high]
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


def _scale(axis: Axis, values: Sequence[np.ndarray], start: float, end: float) -> _Scale:
    joined = np.concatenate([np.asarray(v, np.float64).ravel() for v in values])
    joined = joined[np.isfinite(joined)]
    if axis.log:
        joined = joined[joined > 0]
    low = axis.low if axis.low is not None else float(joined.min()) if joined.size else 1.0
    high = axis.high if axis.high is not None else float(joined.max()) if joined.size else 2.0
    if axis.log:
        if high / low < 1.6:
            low, high = low / 1.3, high * 1.3
        return _Scale(low if axis.low else low / 1.05, high if axis.high else high * 1.05, True, start, end, axis.ticks)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    return _Scale(low, high, False, start, end, axis.ticks)


def number(value: float, percent: bool = False) -> str:
    """Return a short label for a tick or a cell."""
    if percent:
        return f"{100 * value:.0f}%"
    if 0 < abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def thinned(line: Line) -> Line:
    """Return ``line`` with at most ``MOST_POINTS`` points, first and last kept."""
    if len(line.x) <= MOST_POINTS:
        return line
    keep = np.unique(np.linspace(0, len(line.x) - 1, MOST_POINTS).astype(int))
    low, high = (None if side is None else side[keep] for side in (line.low, line.high))
    return dataclasses.replace(line, x=line.x[keep], y=line.y[keep], low=low, high=high)


def _path(x: np.ndarray, y: np.ndarray, steps: bool) -> str:
    out, pen_up, last = [], True, 0.0
    for px, py in zip(x, y, strict=True):
        if not (math.isfinite(px) and math.isfinite(py)):
            pen_up = True
            continue
        if steps and not pen_up:
            out.append(f"L{px:.1f},{last:.1f}")
        out.append(f"{'M' if pen_up else 'L'}{px:.1f},{py:.1f}")
        pen_up, last = False, py
    return "".join(out)


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray, steps: bool) -> str:
    """Return the outlines of the area between two edges (n,), one for each stretch in which all is finite."""
    known = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    ends = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(np.int8), [0]]))).reshape(-1, 2)
    out = []
    for first, last in ends:
        there = _path(x[first:last], high[first:last], steps)
        back = _path(x[first:last][::-1], low[first:last][::-1], steps).replace("M", "L", 1)
        out.append(f"{there}{back}Z")
    return "".join(out)


def _grid(horizontal: _Scale, vertical: _Scale, x: Axis, y: Axis) -> list[str]:
    out = []
    for tick in vertical.ticks:
        at = float(vertical(tick))
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{number(tick, y.percent)}</text>')
    for tick in horizontal.ticks:
        at = float(horizontal(tick))
        out.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>')
        out.append(f'<text class="tick" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{number(tick, x.percent)}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    out.append(f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x.label)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text class="label" transform="translate(13,{middle}) rotate(-90)" text-anchor="middle">{html.escape(y.label)}</text>')
    return out


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, title: str) -> str:
    """Draw ``lines``; returns an ``<svg>`` element whose colours are the page's ``--c0`` ... and ``--neutral``.

    Raises:
        ValueError: if there is no line.
    """
    if not lines:
        raise ValueError("a chart needs at least one line")
    lines = [thinned(line) for line in lines]
    horizontal = _scale(x, [line.x for line in lines], LEFT, WIDTH - RIGHT)
    edges = [side for line in lines for side in (line.y, line.low, line.high) if side is not None]
    vertical = _scale(y, edges, HEIGHT - BOTTOM, TOP)
    body = _grid(horizontal, vertical, x, y)
    for line in lines:
        body += _drawn(line, horizontal(line.x), vertical)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">{"".join(body)}</svg>'


def _drawn(line: Line, px: np.ndarray, vertical: _Scale) -> list[str]:
    """Return band, curve and dots of one line; ``px`` (n,) are its horizontal places."""
    colour = "var(--neutral)" if line.colour < 0 else f"var(--c{line.colour % 7})"
    dash = ' stroke-dasharray="6 3"' if line.colour >= 7 else ""
    py, out = vertical(line.y), []
    if line.low is not None and line.high is not None:
        out.append(f'<path class="band" d="{_band(px, vertical(line.low), vertical(line.high), line.steps)}" fill="{colour}"/>')
    kind = "line faint" if line.faint else "line"
    out.append(f'<path class="{kind}" d="{_path(px, py, line.steps)}" stroke="{colour}"{dash}><title>{html.escape(line.name)}</title></path>')
    if len(line.x) == 1 and not line.tips:
        out.append(f'<circle cx="{px[0]:.1f}" cy="{py[0]:.1f}" r="4" fill="{colour}"/>')
    for x, y, tip in zip(px, py, line.tips, strict=False):
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{html.escape(tip)}</title></circle>')
    return [f'<g class="{html.escape(line.group)}">', *out, "</g>"] if line.group else out


def smoothed(values: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Return the mean of ``values`` (n,) over a window of ``share`` of all points, centred so that the curve does not lag.

    Towards the ends the window shrinks on both sides alike. Gaps (NaN) are passed over.
    """
    n = len(values)
    index = np.arange(n)
    half = np.minimum(np.minimum(index, n - 1 - index), max(1, round(n * share / 2)))
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    first, last = index - half, index + half + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        return (sums[last] - sums[first]) / (counts[last] - counts[first])


def cumulative(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, y) of the empirical distribution function: y (n + 1,) is the share of ``values`` up to x."""
    x = np.sort(np.asarray(values, np.float64))
    return np.concatenate([x[:1], x]), np.arange(len(x) + 1) / max(1, len(x))
