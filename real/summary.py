"""What a run counted: control rate held, latency of plans, late chunks, holds with their cause, episodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from real.latency import Latency


@dataclass
class EpisodeRecord:
    """One episode as the runtime saw it: actions sent, ticks held, plans, network calls; ``unseen``: its last reading was missed."""

    index: int
    success: bool = False
    steps: int = 0
    holds: int = 0
    plans: int = 0
    network_calls: float = 0.0
    unseen: bool = False


@dataclass
class Shadow:
    """How far a robot that was not commanded went from what would have been commanded, over all joints and ticks, rad or m."""

    ticks: int = 0
    mean: float = 0.0
    largest: float = 0.0

    def add(self, distances: np.ndarray) -> None:
        """Count one tick's distances (n,)."""
        self.ticks += 1
        self.mean += (float(distances.mean()) - self.mean) / self.ticks
        self.largest = max(self.largest, float(distances.max()))


@dataclass
class Summary:
    """Counts of one run.

    Attributes:
        rate_hz: Control rate asked for.
        lockstep: Whether the world waited for the policy (rates and lateness then mean nothing).
        seconds: Wall time.
        ticks: Control steps done.
        on_time: Ticks whose command reached the drive before the tick that it was for.
        overruns: Ticks of the drive that this process missed; they are never caught up.
        requests, plans: Plans asked for, and received in time.
        failed_requests: Cause -> requests that brought no plan.
        late_chunks: Plans that came only after the one before had run out.
        dropped_actions: Actions of plans that the plan before had already covered.
        late_replies: Replies that came too late, out of order or from another session; none was executed.
        malformed_replies: Messages of the policy server that were none.
        sessions: Sessions opened with the policy server.
        actions: Commands sent from a plan.
        holds: Cause -> ticks in which the robot was held.
        bad_actions: Actions refused as not finite or of the wrong shape.
        clamped: Actions that were outside the limits.
        interventions: Cause -> commands that the safety filter changed.
        network_calls: Of all plans.
        latency: From request to plan; ``inference`` is the part inside the policy.
        jitter: How far readings came from one period after the one before.
        shadow: What a run in shadow compared.
        drive: What the drive counted (``DriveHandle.report``).
        beside: What others counted: the planner, telemetry that was dropped, requests of operators that were refused.
        episodes: Finished episodes.
        ended: Why the run ended.
        failed: Whether it ended because the robot or, in lock-step, the policy had gone.
    """

    rate_hz: float
    lockstep: bool = False
    seconds: float = 0.0
    ticks: int = 0
    on_time: int = 0
    overruns: int = 0
    requests: int = 0
    plans: int = 0
    failed_requests: Counter[str] = field(default_factory=Counter)
    late_chunks: int = 0
    dropped_actions: int = 0
    late_replies: int = 0
    malformed_replies: int = 0
    sessions: int = 0
    actions: int = 0
    holds: Counter[str] = field(default_factory=Counter)
    bad_actions: int = 0
    clamped: int = 0
    interventions: Counter[str] = field(default_factory=Counter)
    network_calls: float = 0.0
    latency: Latency = field(default_factory=Latency)
    inference: Latency = field(default_factory=Latency)
    jitter: Latency = field(default_factory=Latency)
    shadow: Shadow = field(default_factory=Shadow)
    drive: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)
    episodes: list[EpisodeRecord] = field(default_factory=list)
    ended: str = ""
    failed: bool = False

    @property
    def rate_held(self) -> float:
        """Fraction of the grid points whose command left on time."""
        return self.on_time / max(self.ticks + self.overruns, 1)

    @property
    def successes(self) -> int:
        """Finished episodes that succeeded."""
        return sum(e.success for e in self.episodes)

    def to_dict(self) -> dict[str, Any]:
        """Return everything JSON-ready; latencies in milliseconds."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str)}
        return {
            **plain,
            "rate_held": None if self.lockstep else self.rate_held,
            "success_rate": self.successes / len(self.episodes) if self.episodes else None,
            "successes": self.successes,
            "network_calls_per_step": self.network_calls / max(self.actions, 1),
            "failed_requests": dict(self.failed_requests),
            "holds": dict(self.holds),
            "interventions": dict(self.interventions),
            "drive": self.drive,
            "beside": self.beside,
            "shadow": vars(self.shadow) if self.shadow.ticks else None,
            "ms_per_chunk": self.latency.to_dict(),
            "inference_ms": self.inference.to_dict(),
            "jitter_ms": self.jitter.to_dict(),
            "episodes": [vars(e) for e in self.episodes],
        }

    def shadow_line(self) -> str:
        """Return what a run in shadow compared, as one line."""
        found = self.shadow
        return f"shadow: nothing was sent; intended against measured over {found.ticks} ticks: mean {found.mean:.4f}, largest {found.largest:.4f} rad or m"

    def line(self) -> str:
        """Return the main counts as one line."""
        held = ", ".join(f"{cause} {n}" for cause, n in sorted(self.holds.items())) or "none"
        done = f"episodes {len(self.episodes)} ({self.successes} succeeded)   " if self.episodes else ""
        rate = "lock-step" if self.lockstep else f"{self.rate_hz:g} Hz, {100 * self.rate_held:.1f} % on time, {self.overruns} overruns"
        ms = f"{1e3 * self.latency.quantile(0.5):.1f} / {1e3 * self.latency.quantile(0.99):.1f}"
        return f"{done}ticks {self.ticks}   {rate}   ms/chunk p50/p99 {ms}   late chunks {self.late_chunks}   holds: {held}"
