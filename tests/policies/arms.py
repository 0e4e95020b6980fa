"""Small arms of known closed form, as MJCF."""

from __future__ import annotations

import numpy as np

LINKS = (0.4, 0.3, 0.2)

GRAVITY = "0 0 -9.81"


def planar_arm(links: tuple[float, ...] = LINKS, *, limit: float = 3.0, upright: bool = False, motors: bool = False) -> str:
    """Return hinges in a row, the hand at the end: in the horizontal plane, or (``upright``) in the x-z plane under gravity."""
    axis = "0 -1 0" if upright else "0 0 1"
    body = f'<site name="hand" pos="{links[-1]} 0 0"/>'
    for number in range(len(links), 0, -1):
        length, at = links[number - 1], links[number - 2] if number > 1 else 0.0
        joint = f'<joint name="j{number}" axis="{axis}" range="{-limit} {limit}" limited="true"/>'
        geom = f'<geom type="capsule" fromto="0 0 0 {length} 0 0" size="0.02" mass="{length * 4}" contype="0" conaffinity="0"/>'
        body = f'<body name="link{number}" pos="{at} 0 0">{joint}{geom}{body}</body>'
    motor = "".join(f'<motor joint="j{number}"/>' for number in range(1, len(links) + 1)) if motors else ""
    options = f'<option gravity="{GRAVITY}" timestep="0.001" integrator="implicitfast"/>'
    return f'<mujoco><compiler angle="radian"/>{options}<worldbody>{body}</worldbody><actuator>{motor}</actuator></mujoco>'


def planar_hand(q: np.ndarray, links: tuple[float, ...] = LINKS) -> np.ndarray:
    """Return (x, y, yaw) of the hand in closed form."""
    angles = np.cumsum(q)
    return np.array([np.sum(links * np.cos(angles)), np.sum(links * np.sin(angles)), angles[-1]])


def two_link_solutions(x: float, y: float, a: float, b: float) -> list[np.ndarray]:
    """Return both elbow solutions (2,) of a planar arm with links a and b whose hand is at (x, y)."""
    cosine = (x**2 + y**2 - a**2 - b**2) / (2 * a * b)
    out = []
    for elbow in (np.arccos(cosine), -np.arccos(cosine)):
        out.append(np.array([np.arctan2(y, x) - np.arctan2(b * np.sin(elbow), a + b * np.cos(elbow)), elbow]))
    return out
