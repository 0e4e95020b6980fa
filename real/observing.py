"""What the policy may see: the window of the last observations, refused when it is stale, of the future, malformed, not finite or frozen."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from policies.motion import MotionLimits, joint_columns
from policies.spec import ObservationSpec, SpecMismatch
from real.robot import Observation

AHEAD_S = 0.1  # a stamp that lies further ahead is of another clock, by which nothing ever grows old


class ObservationWindow:
    """The readings that a policy's next call may need.

    A policy sees ``n_obs_steps`` observations, one policy step apart; readings come ``substeps`` times as often. A reading
    is frozen when its bytes repeat, under new stamps, although the commanded joints have moved meanwhile.

    Args:
        spec: Fields that the policy reads.
        n_obs_steps: To.
        substeps: Readings per policy step.
        max_age_s: A field that was captured longer ago is stale.
        motion: Limits of the robot whose joints are watched for freezing; None: nothing is.
        frozen_after: Commanded motion of a joint, rad or m, after which a camera or an encoder that still says the same is
            not believed; None: never, for a camera that does not see the robot.
        given: Fields that do not come from the robot: :meth:`stack` is given them.
    """

    def __init__(
        self, spec: ObservationSpec, n_obs_steps: int, substeps: int = 1, max_age_s: float = 0.5,
        motion: MotionLimits | None = None, frozen_after: float | None = 0.05, given: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._names = tuple(spec.fields)
        spec = spec.subset([name for name in spec.fields if name not in given])
        self.spec, self.n_obs_steps, self.substeps, self.max_age_s = spec, n_obs_steps, substeps, max_age_s
        self._readings: deque[Mapping[str, np.ndarray]] = deque(maxlen=(n_obs_steps - 1) * substeps + 1)
        watched = list(spec.image_names)
        if motion is not None:
            watched += [joint_columns(spec, motion.names)[0]] if _has_joints(spec, motion) else []
        self._watched = watched if motion is not None and frozen_after is not None else []
        self._frozen_after = math.inf if frozen_after is None else frozen_after
        self._seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # field -> its last new content and the commanded joints then

    def clear(self) -> None:
        """Begin a new episode."""
        self._readings.clear()
        self._seen.clear()

    def push(self, reading: Observation) -> None:
        """Take a reading in."""
        self._readings.append(reading.fields)
        if reading.reference is None:
            return
        for name in self._watched:
            if name in reading.fields and (name not in self._seen or not _same(self._seen[name][0], reading.fields[name])):
                self._seen[name] = reading.fields[name], reading.reference.position.copy()

    def fault(self, reading: Observation, now: float, lockstep: bool = False) -> str:
        """Return why no plan may be made from the window that ends with ``reading`` at monotonic second ``now``; empty: none."""
        fields = self.spec.fields
        ages = {name: now - 1e-9 * stamp for name, stamp in reading.capture_ns.items()}
        if not lockstep and any(ages.get(name, math.inf) > self.max_age_s for name in fields):
            return "stale observation"
        if not lockstep and any(ages[name] < -AHEAD_S for name in fields):
            return "future observation"
        if not all(self._sound(seen) for seen in (reading.fields, *self._past())):  # the policy sees all of them
            return "bad observation"
        if reading.reference is not None:
            for name in self._watched:
                if np.abs(reading.reference.position - self._seen[name][1]).max() > self._frozen_after:
                    return "frozen observation"
        return ""

    def stack(self, goal: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Return field -> (1, To, *shape), the oldest repeated where the episode is younger; ``goal`` replaces or adds fields (*shape)."""
        window, goal = [*self._past(), self._readings[-1]], goal or {}
        return {name: np.stack([goal[name] if name in goal else past[name] for past in window])[None] for name in self._names}

    def _past(self) -> list[Mapping[str, np.ndarray]]:
        """Return the readings of the window before the newest, oldest first."""
        newest = len(self._readings) - 1
        return [self._readings[max(newest - self.substeps * back, 0)] for back in range(self.n_obs_steps - 1, 0, -1)] if newest >= 0 else []

    def _sound(self, fields: Mapping[str, np.ndarray]) -> bool:
        """Whether a reading, name -> (*shape), is as the spec says, and finite."""
        try:
            self.spec.validate(fields)
        except SpecMismatch:
            return False
        return all(np.isfinite(fields[name]).all() for name in self.spec.state_names)


def _has_joints(spec: ObservationSpec, motion: MotionLimits) -> bool:
    return any(set(motion.names) <= set(field.names) for field in spec.fields.values())


def _same(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether two arrays hold the same bytes; different images are told apart at their first different bytes."""
    if before is now or before.shape != now.shape or before.dtype != now.dtype:
        return before is now
    flat = before.reshape(-1).view(np.uint8), now.reshape(-1).view(np.uint8)
    head = min(4096, len(flat[0]))
    return bool((flat[0][:head] == flat[1][:head]).all() and (flat[0] == flat[1]).all())
