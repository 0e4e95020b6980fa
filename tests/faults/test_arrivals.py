"""The questions to the twin's log have the right answers for motions that are known."""

import json

import numpy as np
import pytest

from policies.motion import MotionLimits, Reference
from real.safety.brake import Brake
from tests.faults.arrivals import RobotLog, worst_brake_ticks

LIMITS = MotionLimits(("a", "b"), low=-2.0, high=2.0, velocity=2.0, acceleration=8.0, jerk=150.0)
H = 0.01


def log(folder, positions, holds=(), silent=()):
    """Write the log of a twin that got ``positions`` (K, 2) 10 ms apart, holds and silences at the rows named."""
    about = {"task": "t", "dim": 2, "rate_hz": 100.0, "substeps": 5, "lockstep": False, "motion": LIMITS.to_dict()}
    lines = [{"kind": "start", "about": about}, {"kind": "begin", "t": 0, "sequence": 0, "episode": 0, "step": 0, "command": [0.0, 0.0]}]
    for k, position in enumerate(positions):
        event = {"t": (k + 1) * 10_000_000, "sequence": k, "episode": 0, "step": k}
        if k in silent:
            lines.append({"kind": "silent", **event, "command": None})
        lines.append({"kind": "hold", **event, "command": None} if k in holds else {"kind": "write", **event, "command": list(map(float, position))})
    (folder / "log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RobotLog(folder / "log").arrivals()


def braking(velocity, ticks=60):
    """Return ``ticks`` positions of both joints at ``velocity``, and then of their brake and stand; and the brake."""
    start = Reference(np.array([velocity * ticks * H, -velocity * ticks * H]), np.array([velocity, -velocity]), np.zeros(2))
    brake = Brake.of(start, LIMITS, stop=False)
    steady = np.arange(1, ticks + 1)[:, None] * H * np.array([velocity, -velocity])
    return np.concatenate([steady, [brake.reference((k + 1) * H).position for k in range(90)]]), brake


def test_where_the_robot_stands_still(tmp_path):
    positions, brake = braking(1.0)
    found = log(tmp_path, positions)
    assert found.still_from(0) == pytest.approx(59 + np.ceil(brake.duration.max() / H), abs=1)
    assert found.still_from(found.still_from(0)) == found.still_from(0)
    assert log(tmp_path, positions[:62]).still_from(0) is None


def test_the_bound_is_above_the_brake_and_near_it(tmp_path):
    for velocity in (0.3, 1.0, 1.9):
        positions, _ = braking(velocity)
        found = log(tmp_path, positions)
        gone = np.abs(positions[-1] - positions[59])
        assert (gone <= found.stop_bound(59)).all() and (found.stop_bound(59) < 1.5 * gone + 0.02).all()
        assert (found.stop_bound(59, late=5) > found.stop_bound(59) + 5 * H * velocity * 0.9).all()
        further = np.concatenate([positions[:60], positions[59] + np.arange(1, 60)[:, None] * H * np.array([velocity, -velocity]) * 0.9])
        assert (np.abs(further[-1] - further[59]) > found.stop_bound(59)).all()


def test_holds_keep_the_position_and_silences_begin_anew(tmp_path):
    positions, _ = braking(0.0)
    found = log(tmp_path, positions + np.arange(150)[:, None], holds=(3, 4), silent=(100,))
    assert (found.position[2] == found.position[4]).all() and not found.written[4]
    assert np.flatnonzero(found.anew).tolist() == [0, 100]


def test_the_densest_arrivals(tmp_path):
    found = log(tmp_path, braking(0.0)[0])
    assert found.most_in(10) == 10
    found.arrived_ns[50:60] = found.arrived_ns[60]
    assert found.most_in(10) == 20


def test_the_slowest_brake():
    t = 8 / 150  # up from full acceleration to none, which the velocity limit leaves no room for: it overshoots, and comes back
    assert worst_brake_ticks(LIMITS, H) == np.ceil((t + (2 + 8 * t / 2) / 8 + t) / H)


def test_safe_motion_is_told_from_unsafe(tmp_path):
    positions, _ = braking(1.0)
    ramp = np.concatenate([positions[-1] - positions[::-1], positions[-1] - positions[0] + positions])  # a brake backwards, and one forwards
    log(tmp_path, ramp * 0.6).require_safe()
    with pytest.raises(AssertionError, match="velocity of a"):
        log(tmp_path, np.concatenate([ramp[:60], ramp[60:] + [0.03, 0]])).require_safe()
    with pytest.raises(AssertionError, match="jerk of b"):
        log(tmp_path, np.concatenate([ramp[:60], ramp[60:] + [0, 0.0002]]) * 0.6).require_safe()
    with pytest.raises(AssertionError, match="acceleration of a"):
        log(tmp_path, ramp * 0.6, holds=(95,)).require_safe()  # a hold while it moves
    log(tmp_path, np.concatenate([ramp[:100], np.repeat(ramp[100:101], 50, 0)]) * 0.6, silent=(101,)).require_safe()  # it stood by itself
    with pytest.raises(AssertionError, match="position of a"):
        log(tmp_path, np.full((5, 2), 2.00001)).require_safe()
    with pytest.raises(AssertionError):
        log(tmp_path, np.where(np.arange(20)[:, None] == 7, np.nan, np.zeros((20, 2)))).require_safe()
