"""The arm under test, policies that want to break it, and the loop that runs them through a filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from policies.kinematics import Kinematics
from policies.motion import MotionLimits
from real.safety.barriers import Barriers
from real.safety.brake import Brake
from real.safety.filter import SafetyFilter
from sim.suites.arm import HOME, motion_limits, robot_model
from sim.suites.arm import barriers as workspace

RATE_HZ = 100.0
TICK_S = 1 / RATE_HZ
START = np.array(HOME)


def limits() -> MotionLimits:
    """Return the arm's limits of motion."""
    return motion_limits()


def barriers() -> Barriers:
    """Return the arm's barriers: the table and itself."""
    return Barriers(workspace(), Kinematics(robot_model()))


@dataclass
class Log:
    """What reached the drive.

    Attributes:
        commands: (T, n).
        braking: (T,) bool.
        causes: How often each, without the name of a barrier.
    """

    commands: np.ndarray
    braking: np.ndarray
    causes: Counter[str] = field(default_factory=Counter)


Policy = Callable[[np.random.Generator, MotionLimits], Iterator[np.ndarray]]


def uniform(rng: np.random.Generator, limits: MotionLimits) -> Iterator[np.ndarray]:
    """Yield another target anywhere, and beyond, each tick."""
    while True:
        yield rng.uniform(limits.low - 1, limits.high + 1)


def bang_bang(rng: np.random.Generator, limits: MotionLimits) -> Iterator[np.ndarray]:
    """Yield ends of the range and far beyond, each joint to a side of its own, changed now and then."""
    while True:
        target = np.where(rng.random(limits.n) < 0.5, limits.low - 5, limits.high + 5)
        for _ in range(int(rng.integers(1, 400))):
            yield target


def drifting(rng: np.random.Generator, limits: MotionLimits) -> Iterator[np.ndarray]:
    """Yield a walk that has left the range for good before long."""
    at = START.copy()
    while True:
        rate = rng.normal(size=limits.n) * 2
        for _ in range(100):
            at = at + rate * TICK_S
            yield at


def sprinkled(rng: np.random.Generator, limits: MotionLimits) -> Iterator[np.ndarray]:
    """Yield steps between targets with NaN, infinities, huge numbers and wrong shapes in between."""
    while True:
        goal = rng.uniform(limits.low, limits.high)
        for _ in range(80):
            target, kind = goal.copy(), rng.integers(0, 60)
            if kind < 4:
                target[rng.integers(limits.n)] = (np.nan, np.inf, -np.inf, 1e300)[kind]
            yield target[:-1] if kind == 4 else target


POLICIES: dict[str, Policy] = {"uniform": uniform, "bang_bang": bang_bang, "drifting": drifting, "sprinkled": sprinkled}


def run(safety: SafetyFilter, policy: Policy, ticks: int, seed: int, *, faults: bool = True) -> Log:
    """Run a policy through a filter on a robot that follows, with noise; ``faults``: with all that else happens to a filter.

    Now and then no target comes, the speed is scaled, a reading is no number or far off, or the drive has played a tick of
    the stop instead of the command.
    """
    rng, motion = np.random.default_rng(seed), safety.limits
    targets = policy(rng, motion)
    commands, braking, causes = np.empty((ticks, motion.n)), np.empty(ticks, bool), Counter[str]()
    safety.start(START)
    scale, at, previous = 1.0, START, safety.reference
    for tick in range(ticks):
        measured = at + rng.normal(size=motion.n) * 1e-3
        target, reference, played = next(targets), None, False
        if faults:
            event = int(rng.integers(0, 400))
            scale = float(rng.choice([0.0, 0.1, 0.5, 1.0])) if event == 0 else (1.0 if event == 1 else scale)
            if event == 2:
                measured[0] = rng.choice([np.nan, np.inf, 4.0])
            if event == 3 and tick:  # the command of the tick before did not arrive in time
                reference = Brake.of(previous, motion).reference(TICK_S)
                commands[tick - 1], braking[tick - 1] = reference.position, True
            played = event == 4
        previous = safety.reference if reference is None else reference
        result = safety.step(None if played else target, measured, scale=scale, reference=reference)
        commands[tick], braking[tick], at = result.command, result.braking, result.command
        causes.update(cause.partition(":")[0] for cause in result.causes)
    return Log(commands, braking, causes)
