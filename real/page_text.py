"""The words of the operator's page as HTML: state, interventions, and its style. Whatever comes from outside is escaped."""

from __future__ import annotations

from collections import Counter, deque
from html import escape
from typing import Any

import numpy as np

from real.telemetry_wire import Record

_COLOURS = {"active": "#2f9e44", "hold": "#e8890c", "stopped": "#c92a2a", "idle": "#495057"}
_SHOWN = 8  # interventions

#: The stop button is as high as a thumb is wide, twice.
STYLE = """<style>
.mantine-Button-root[style*="--button-bg: var(--mantine-color-red"] {
  height: 5.2em !important; font-size: 1.25em !important; letter-spacing: 0.25em; font-weight: 800 !important; }
</style>"""


def state_html(values: dict[str, Any], silent_s: float | None) -> str:
    """Return the state in big letters, and its cause.

    Args:
        values: Of the newest tick.
        silent_s: Seconds since telemetry was heard; None: never yet.
    """
    state, cause = str(values.get("state", "?")), str(values.get("cause", ""))
    colour = _COLOURS.get(state, "#495057")
    if silent_s is None or silent_s > 1:
        cause = "waiting for telemetry" if silent_s is None else f"nothing heard for {silent_s:.0f} s; last state: {state}"
        state, colour = "no telemetry", "#212529"
    return (
        f'<div style="margin:0.5em 0.75em;padding:0.6em 0.8em;border-radius:6px;background:{colour};color:#fff;text-align:center">'
        f'<div id="robopolicy-state" style="font-size:2.1em;line-height:1.15;font-weight:800;letter-spacing:0.06em">{escape(state.upper())}</div>'
        f'<div id="robopolicy-cause" style="min-height:1.4em;font-size:1.02em">{escape(cause) or "&nbsp;"}</div></div>'
    )


def facts_html(values: dict[str, Any], info: dict[str, Any], lost: int) -> str:
    """Return what else one wants to know at a glance, in small letters.

    Args:
        values: Of the newest tick.
        info: What the run is made of.
        lost: Messages lost on the way.
    """
    drive = str(values.get("drive", ""))
    facts = {
        "robot": info.get("robot"),
        "drive": drive if drive and drive != values.get("state") else None,
        "speed": f"{100 * float(values['speed']):.0f} %" if isinstance(values.get("speed"), float | int) else None,
        "tick": values.get("tick"),
        "rate": f"{float(info['rate_hz']):g} Hz" if isinstance(info.get("rate_hz"), float | int) else None,
        "lost": lost or None,
    }
    counts = values.get("counts")
    facts.update({str(name): count for name, count in counts.items() if count} if isinstance(counts, dict) else {})
    told = " &nbsp;·&nbsp; ".join(f"{escape(name)} <b>{escape(str(value))}</b>" for name, value in list(facts.items())[:12] if value is not None)
    return f'<div style="margin:0.3em 0.75em 0.6em;font-size:0.82em;text-align:center;opacity:0.85">{told or "&nbsp;"}</div>'


def told_html(what: str, problem: str) -> str:
    """Return what became of a request: that it was taken, or why not."""
    text = f"{what}: {problem or 'taken by the runtime'}" if what else "&nbsp;"
    colour = "#fa5252" if problem else "#51cf66"
    return f'<div style="margin:0.3em 0.9em;min-height:1.3em;font-size:0.85em;color:{colour}">{escape(text) if what else text}</div>'


class Interventions:
    """Counts what was intervened with, by cause, and remembers the newest events."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.states: deque[tuple[float, str]] = deque(maxlen=5)
        self._begun_ns: int | None = None

    def take(self, record: Record) -> None:
        """Take an event."""
        self._begun_ns = record.stamp_ns if self._begun_ns is None else self._begun_ns
        kind, cause = str(record.values.get("event", "?"))[:40], str(record.values.get("cause", ""))[:120]
        if kind == "state":
            self.states.append(((record.stamp_ns - self._begun_ns) * 1e-9, cause))
            return
        line = cause if kind == "intervention" else f"{kind}: {cause}"
        if line in self.counts or len(self.counts) < 1000:
            self.counts[line] += 1

    def html(self) -> str:
        """Return the list."""
        rows = "".join(
            f'<tr><td style="text-align:right;padding-right:0.7em;font-variant-numeric:tabular-nums"><b>{count}</b></td><td>{escape(cause)}</td></tr>'
            for cause, count in self.counts.most_common(_SHOWN)
        )
        more = len(self.counts) - _SHOWN
        table = f"<table>{rows}</table>" if rows else '<span style="opacity:0.6">none</span>'
        table += f'<div style="opacity:0.6">and {more} more causes</div>' if more > 0 else ""
        states = "".join(f'<div><span style="opacity:0.6">{at:8.1f} s</span> &nbsp;{escape(text)}</div>' for at, text in reversed(self.states))
        return f'<div style="margin:0.4em 0.9em;font-size:0.88em">{table}<div style="margin-top:0.7em">{states}</div></div>'


class History:
    """The last seconds of ticks, for plots.

    Args:
        seconds: How far back.
    """

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self._rows: deque[tuple[float, dict[str, float]]] = deque(maxlen=4000)
        self.names: list[str] = []

    def take(self, at: float, values: dict[str, float]) -> None:
        """Take the values of one tick at ``at`` seconds."""
        self._rows.append((at, values))
        self.names += [name for name in values if name not in self.names][: 64 - len(self.names)]
        while self._rows and at - self._rows[0][0] > self.seconds:
            self._rows.popleft()

    def arrays(self, names: list[str], points: int = 200) -> tuple[np.ndarray, ...]:
        """Return seconds before now and one series per name, each (n,) float64, n at most ``points``; what is missing is NaN."""
        rows = list(self._rows)[:: max(1, len(self._rows) // points)] or [(0.0, {})]
        newest = self._rows[-1][0] if self._rows else 0.0
        times = np.array([at - newest for at, _ in rows])
        return (times, *(np.array([values.get(name, np.nan) for _, values in rows]) for name in names))
