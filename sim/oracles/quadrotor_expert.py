"""Flying a quadrotor by its model: geometric tracking of points, and juggling a ball. Array code over worlds.

Lee, Leok and McClamroch 2010, "Geometric tracking control of a quadrotor UAV on SE(3)"; Buehler, Koditschek and Kindlmann 1994,
"Planning and control of robotic juggling and catching tasks", for the mirrored motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

GRAVITY = 9.81  # m/s^2
POSITION_GAIN, VELOCITY_GAIN = 9.0, 5.2  # 1/s^2, 1/s
ATTITUDE_GAIN = 9.0  # 1/s, body rate per error of attitude: the quotient of the paper's k_R and k_Omega
LARGEST_PULL = 7.0  # m/s^2, of the horizontal acceleration: tilts stay below 36 degrees


def attitude_error(rotation: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the error (N, 3) of attitudes ``rotation`` (N, 3, 3) from ``wanted`` (N, 3, 3), in the frame of the body; equation 10 of Lee et al."""
    off = np.swapaxes(wanted, 1, 2) @ rotation
    off = 0.5 * (off - np.swapaxes(off, 1, 2))
    return np.stack([off[:, 2, 1], off[:, 0, 2], off[:, 1, 0]], axis=1)


def attitude_along(direction: np.ndarray) -> np.ndarray:
    """Return the rotations (N, 3, 3) whose z lies along ``direction`` (N, 3), any length but zero, and whose x points as far ahead as it can."""
    up = direction / np.sqrt(np.einsum("ij,ij->i", direction, direction))[:, None]
    left = np.stack([np.zeros(len(up)), up[:, 2], -up[:, 1]], axis=1)  # up x (1, 0, 0)
    left /= np.sqrt(np.einsum("ij,ij->i", left, left))[:, None]
    ahead = np.cross(left, up)
    return np.stack([ahead, left, up], axis=2)


def thrust_and_rates(mass: float, acceleration: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Return collective thrust, N, and body rates, rad/s, (N, 4) that give ``acceleration`` (N, 3), m/s^2, at attitudes ``rotation`` (N, 3, 3).

    The thrust is the wanted force seen along the present axis; the rates turn that axis to the force. With a rate loop that answers
    a rate error by torque in proportion, that is the paper's attitude controller for a wanted rate of zero.
    """
    force = acceleration + [0.0, 0.0, GRAVITY]
    force = np.stack([force[:, 0], force[:, 1], np.maximum(force[:, 2], 0.3 * GRAVITY)], axis=1)  # never pull downwards
    thrust = mass * np.einsum("ij,ij->i", force, rotation[:, :, 2])
    rates = -ATTITUDE_GAIN * attitude_error(rotation, attitude_along(force))
    return np.concatenate([thrust[:, None], rates], axis=1)


def towards(position: np.ndarray, velocity: np.ndarray, goal: np.ndarray, goal_velocity: np.ndarray | float = 0.0, stiffness: float = 1.0) -> np.ndarray:
    """Return the acceleration (N, 3), m/s^2, that brings ``position`` and ``velocity`` (N, 3) to those of a goal, its horizontal part limited.

    Args:
        position: (N, 3), m.
        velocity: (N, 3), m/s.
        goal: (N, 3), m.
        goal_velocity: (N, 3), m/s.
        stiffness: How many times faster than usual the goal is approached.
    """
    pull = stiffness**2 * POSITION_GAIN * (goal - position) + stiffness * VELOCITY_GAIN * (goal_velocity - velocity)
    across = np.sqrt(pull[:, 0] ** 2 + pull[:, 1] ** 2)
    pull[:, :2] *= np.minimum(1.0, LARGEST_PULL / np.maximum(across, 1e-9))[:, None]
    pull[:, 2] = np.clip(pull[:, 2], -6.0, 8.0)
    return pull


@dataclass(frozen=True)
class Juggling:
    """What the juggler knows of vehicle and ball, and what it is to keep up.

    Attributes:
        mass, ball_mass: kg, of the vehicle with its racket, and of the ball.
        restitution: Speed after over speed before a bounce off a racket at rest.
        contact: Height of the ball's middle over the vehicle's frame when they touch, m.
        home: (3,) of the vehicle, m.
        apex: How far above the contact the ball shall rise, m.
    """

    mass: float
    ball_mass: float
    restitution: float
    contact: float
    home: np.ndarray
    apex: float


class Meeting(NamedTuple):
    """When and how ball and racket meet.

    Attributes:
        seconds: (N,) until then.
        place: (N, 3) of the ball's middle, m.
        normal: (N, 3) of the racket, unit length.
        speed: (N,) of the racket along it, m/s.
        fall: (N,) of the ball, downwards, m/s.
    """

    seconds: np.ndarray
    place: np.ndarray
    normal: np.ndarray
    speed: np.ndarray
    fall: np.ndarray


FASTEST_HOME, HOMEWARD = 0.35, 0.5  # m/s, of the ball on its way back; share of the way home that a bounce shall bring it
TILT_BEFORE, TILT_HELD = 0.3, 0.15  # s before the meeting from which on the racket is tilted for it, fully at the second


def meeting(plan: Juggling, ball: np.ndarray, ball_velocity: np.ndarray) -> Meeting:
    """Return when the ball (N, 3), m, m/s, comes down to the contact above home, and how it is to be hit there.

    It shall rise to the apex and come down half way home next time: a bounce that asks for more tilts the racket too much to be exact.
    A racket turns the ball's velocity about its normal, so the normal lies along the change of velocity; how fast it must move along the
    normal follows from the two masses and the restitution.
    """
    height = plan.home[2] + plan.contact
    down = np.sqrt(np.maximum(ball_velocity[:, 2] ** 2 + 2 * GRAVITY * (ball[:, 2] - height), 0.01))
    seconds = np.maximum((ball_velocity[:, 2] + down) / GRAVITY, 0.0)
    place = ball + ball_velocity * seconds[:, None]
    place[:, 2] = height
    up = np.sqrt(2 * GRAVITY * plan.apex)
    back = HOMEWARD * (plan.home[:2] - place[:, :2]) / (2 * up / GRAVITY)
    back *= np.minimum(1.0, FASTEST_HOME / np.maximum(np.sqrt(np.einsum("ij,ij->i", back, back)), 1e-9))[:, None]
    change = np.concatenate([back - ball_velocity[:, :2], (up + down)[:, None]], axis=1)
    size = np.sqrt(np.einsum("ij,ij->i", change, change))
    normal = change / size[:, None]
    before = np.einsum("ij,ij->i", ball_velocity[:, :2], normal[:, :2]) - down * normal[:, 2]
    speed = before + size * (plan.mass + plan.ball_mass) / ((1 + plan.restitution) * plan.mass)
    return Meeting(seconds, place, normal, speed, down)


def juggle(plan: Juggling, position: np.ndarray, velocity: np.ndarray, rotation: np.ndarray, ball: np.ndarray, ball_velocity: np.ndarray) -> np.ndarray:
    """Return collective thrust, N, and body rates, rad/s, (N, 4) of a quadrotor that juggles a ball.

    Vertically the racket mirrors the ball (the mirror law): as far below the contact as the ball is above it, times the share that gives
    the speed wanted at the meeting. Across, it goes to where the ball will come down; just before, it tilts as the bounce needs it.

    Args:
        plan: What is known.
        position: (N, 3) of the vehicle, m.
        velocity: (N, 3), m/s.
        rotation: (N, 3, 3) of the vehicle.
        ball: (N, 3), m.
        ball_velocity: (N, 3), m/s.
    """
    meet = meeting(plan, ball, ball_velocity)
    share = np.clip(meet.speed / meet.normal[:, 2] / meet.fall, 0.0, 0.4)
    goal, goal_velocity = meet.place - plan.contact * meet.normal, np.zeros_like(position)
    goal[:, 2] = plan.home[2] - share * (ball[:, 2] - plan.home[2] - plan.contact)
    goal_velocity[:, 2] = -share * ball_velocity[:, 2]
    wanted = towards(position, velocity, goal, goal_velocity)
    wanted[:, 2] = towards(position, velocity, goal, goal_velocity, stiffness=1.5)[:, 2] + share * GRAVITY
    tilted = meet.normal[:, :2] / meet.normal[:, 2:] * (wanted[:, 2:] + GRAVITY)
    late = np.clip((TILT_BEFORE - meet.seconds) / (TILT_BEFORE - TILT_HELD), 0.0, 1.0)[:, None]
    wanted[:, :2] += late * (tilted - wanted[:, :2])
    return thrust_and_rates(plan.mass, wanted, rotation)
