"""A policy step at once is the same as its ticks one by one, for one stream as for many."""

from __future__ import annotations

import numpy as np
import pytest

from policies.control import JointInterpolator
from policies.motion import MotionLimits

LIMITS = {"velocity": 2.0, "acceleration": [8.0, 6.0, 8.0], "jerk": 150.0, "stop_acceleration": 12.0, "stop_jerk": 400.0, "tracking": 0.15}


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("streams", [1, 2, 33])
def test_a_policy_step_at_once_is_its_ticks_one_by_one(limited: bool, streams: int) -> None:
    limits = MotionLimits(("a", "b", "c"), np.full(3, -1.0), np.array([1.0, 2.0, 1.5]), **LIMITS) if limited else None
    interpolator = JointInterpolator(limits, 100.0, 5)
    generator = np.random.default_rng(streams)
    start = interpolator.start(generator.uniform(-0.5, 0.5, (streams, 3)))
    whole, ticked, commands = start, start, np.zeros((streams, 5, 3))
    for _ in range(12):
        target = generator.uniform(-2, 2, (streams, 3))
        whole = interpolator.steps(whole, target, commands)
        for substep in range(5):
            command, ticked = interpolator.step(ticked, target, substep)
            np.testing.assert_array_equal(commands[:, substep], command)
        for one, other in zip(whole, ticked, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_row_is_the_same_among_many_and_alone() -> None:
    limits = MotionLimits(("a", "b", "c"), np.full(3, -1.0), np.array([1.0, 2.0, 1.5]), **LIMITS)
    interpolator, generator = JointInterpolator(limits, 100.0, 5), np.random.default_rng(0)
    begin = generator.uniform(-0.5, 0.5, (64, 3))
    many, alone = interpolator.start(begin), interpolator.start(begin[63:])
    for _ in range(10):
        target = generator.uniform(-2, 2, (64, 3))
        for substep in range(5):
            command, many = interpolator.step(many, target, substep)
            single, alone = interpolator.step(alone, target[63:], substep)
            np.testing.assert_array_equal(command[63:], single)


def test_targets_that_do_not_fit_are_refused() -> None:
    interpolator = JointInterpolator(None, 100.0, 5)
    state = interpolator.start(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"expected shape \(2, 3\)"):
        interpolator.steps(state, np.zeros((1, 3)), np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="finite"):
        interpolator.steps(state, np.full((2, 3), np.nan), np.zeros((2, 5, 3)))
