"""An independent judge of what reached a drive: the log of commands, finite differences, and MuJoCo for distances.

It shares no code with the safety filter, the brake or the drive's own check.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import mujoco
import numpy as np

from policies.motion import MotionLimits


def violations(
    commands: np.ndarray,
    tick_s: float,
    limits: MotionLimits,
    *,
    start: np.ndarray | None = None,
    stopping: np.ndarray | None = None,
    resolution: float = 2e-15,
) -> list[str]:
    """Return a line per kind of limit that the motion breaks and joint that breaks it; empty: none.

    Args:
        commands: (T, n) positions, one a tick.
        tick_s: Duration of a tick.
        limits: Of the joints.
        start: (n,) where the robot stood before; None: at the first command.
        stopping: (T,) ticks of an emergency stop, whose acceleration and jerk have limits of their own; None: every tick may
            be one.
        resolution: Of the logged numbers, rad or m (1e-7 for float32).
    """
    commands = np.asarray(commands, np.float64)
    if not np.isfinite(commands).all():
        return [f"not finite at tick {int(np.flatnonzero(~np.isfinite(commands).all(axis=1))[0])}"]
    first = commands[0] if start is None else np.asarray(start, np.float64)
    motion = np.concatenate([np.repeat(first[None], 3, axis=0), commands])
    flags = np.ones(len(commands), bool) if stopping is None else np.asarray(stopping, bool)
    flags = np.concatenate([flags[:1], flags[:1], flags[:1], flags])
    out = []
    for order, name, normal, stop in (
        (0, "position", None, None),
        (1, "velocity", limits.velocity, limits.velocity),
        (2, "acceleration", limits.acceleration, limits.stop_acceleration),
        (3, "jerk", limits.jerk, limits.stop_jerk),
    ):
        value = np.diff(motion, order, axis=0) / tick_s**order
        noise = 2**order * resolution * np.maximum(1, np.abs(motion).max()) / tick_s**order
        if normal is None or stop is None:
            # A robot that stood outside may only come back.
            excess = np.maximum(value - np.maximum(limits.high, first), np.minimum(limits.low, first) - value) - 1e-6
        else:
            window = np.stack([flags[k : len(flags) - order + k] for k in range(order + 1)]).any(axis=0)
            allowed = np.where(window[:, None], stop, normal)
            excess = np.abs(value) - allowed * (1 + 1e-6) - noise
        for joint in np.flatnonzero((excess > 0).any(axis=0)):
            tick = int(excess[:, joint].argmax())
            out.append(
                f"{name} of {limits.names[joint]}: {int((excess[:, joint] > 0).sum())} ticks, worst by {excess[tick, joint]:.3g} at tick {tick + order - 3}"
            )
    return out


def nearest_m(model: str, commands: np.ndarray, pairs: Iterable[tuple[str, str]], joints: Sequence[str]) -> dict[tuple[str, str], float]:
    """Return the least distance, m, of each pair of geoms over the commanded configurations (T, n); a plane is a geom too."""
    compiled = mujoco.MjModel.from_xml_string(model)
    data, found = mujoco.MjData(compiled), {}
    places = [int(compiled.joint(name).qposadr[0]) for name in joints]
    numbers = {pair: (compiled.geom(pair[0]).id, compiled.geom(pair[1]).id) for pair in pairs}
    for q in commands:
        data.qpos[places] = q
        mujoco.mj_kinematics(compiled, data)
        for pair, (a, b) in numbers.items():
            found[pair] = min(found.get(pair, np.inf), mujoco.mj_geomDistance(compiled, data, a, b, 10.0, None))
    return found
