"""What a run looks like on ``/diagnostics``: one status, its level by the state, its numbers as key and value."""

from __future__ import annotations

import math
from typing import Any

from real.ros.api import message
from real.ros.run_link import RunView

STALE_S = 2.0  # a run that has said nothing for longer
_SLOW = 0.9  # share of the declared rate


def level_of(view: RunView, connected: bool) -> tuple[str, str]:
    """Return the level (``OK``, ``WARN``, ``ERROR``, ``STALE``) and one line on the state of the run."""
    if view.latched:
        return "ERROR", f"stopped: {view.latched}"
    if not connected:
        return "STALE", "no run"
    if view.age_s() > STALE_S:
        return "STALE", "the run says nothing" if view.heard_ns else "the run has not said anything yet"
    state, cause = str(view.tick.get("state", "idle")), str(view.tick.get("cause", ""))
    line = f"{state}: {cause}" if cause else state
    if state == "stopped":
        return "ERROR", line
    rate = view.ticks_per_second()
    if view.rate_hz and rate and rate < _SLOW * view.rate_hz:
        return "WARN", f"{line}; {rate:.1f} ticks/s instead of {view.rate_hz:g}"
    return ("OK" if state == "active" and not cause else "WARN"), line


def diagnostics(view: RunView, connected: bool, name: str, ended: str, now: Any) -> Any:
    """Return diagnostic_msgs/DiagnosticArray.

    Args:
        view: What is known of the run.
        connected: Whether there is one.
        name: Of the node.
        ended: How the last run ended; empty: it has not.
        now: builtin_interfaces/Time.
    """
    level, line = level_of(view, connected)
    kind = message("diagnostic_msgs/msg/DiagnosticStatus")
    values: dict[str, Any] = {"policy": view.policy, "last event": view.event, "last run": ended}
    if connected and view.heard_ns:
        values |= {"rate, 1/s": view.ticks_per_second(), "declared rate, 1/s": view.rate_hz, "said, s ago": view.age_s()}
        values |= {key: value for key, value in view.tick.items() if isinstance(value, (int, float, str)) and not isinstance(value, bool)}
        counts = view.tick.get("counts", {})
        values |= {f"count: {key}": value for key, value in counts.items()} if isinstance(counts, dict) else {}
    shown = [message("diagnostic_msgs/msg/KeyValue")(key=key, value=_text(value)) for key, value in values.items() if value != ""]
    status = kind(level=getattr(kind, level), name=f"{name}: run", message=line, hardware_id=view.robot, values=shown)
    header = message("std_msgs/msg/Header")(stamp=now)
    return message("diagnostic_msgs/msg/DiagnosticArray")(header=header, status=[status])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "none"
    return str(value)
