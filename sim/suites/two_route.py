"""Two routes round an obstacle: the smallest task that the mean of its demonstrations cannot solve.

A point in the plane starts at the bottom, on the symmetry axis but for noise that says nothing of the route, and must
reach the goal at the top past a disc in the middle. The expert passes left or right, one half each, decided by the seed
alone. Both routes share a stem, so the chunk of actions predicted there is bimodal: a regression net predicts their mean
and drives into the disc, a policy that represents both modes does not. Pure numpy, all worlds at once.
"""

from __future__ import annotations

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome, hashed, hashed_normals
from sim.identity import identity
from sim.registry import Entry, Options

NAME = "two-route"
VERSION = 1  # raised when a number below changes
SUCCESS = "within 0.08 m of the goal without having met the disc"
RATE_HZ = 10.0
MAX_EPISODE_STEPS = 100
PICTURE_SIZE = 256  # px

LIMIT = 1.0  # m, the plane is [-1, 1]^2
MAX_SPEED = 1.0  # m/s per axis
DISC_RADIUS = 0.25  # m, centred at the origin
START = np.array([0.0, -0.8])  # m
START_STD = np.array([0.01, 0.005])  # m
GOAL = np.array([0.0, 0.8])  # m
GOAL_RADIUS = 0.08  # m
DRIFT_STD = 0.003  # m a step, disturbance of the motion: demonstrations cover a band, not a line

CRUISE_SPEED = 0.5  # m/s, the expert's
PASS_AT = 0.45  # m, |x| at which the expert passes the disc's centre: 0.2 m of clearance
LEAVE_AT, SIDE_AT = -0.6, -0.2  # m, y where the expert leaves the stem and where it is fully at the side
TRACKING_GAIN = 2.0  # 1/s, pull towards the route


def entries() -> list[Entry]:
    """Return the task."""
    return [
        Entry(
            name=NAME,
            description="point round a disc, demonstrations half left and half right: multimodal by design",
            tags=("toy", "multimodal", "expert"),
            rate_hz=RATE_HZ,
            max_episode_steps=MAX_EPISODE_STEPS,
            requires=(),
            install="",
            factory=_make,
            success=SUCCESS,
        )
    ]


def _make(name: str, options: Options) -> BatchEnv:
    return TwoRouteBatch(name, options)


def make_spec() -> Spec:
    """Return the spec: position in m, velocity command in m/s."""
    state = Field((2,), unit="m", low=-LIMIT, high=LIMIT, names=("x", "y"))  # type: ignore[arg-type]
    velocity = Field((2,), unit="m/s", low=-MAX_SPEED, high=MAX_SPEED, kind="velocity", names=("x", "y"))  # type: ignore[arg-type]
    return Spec(ObservationSpec({"observation.state": state}, RATE_HZ), ActionSpec({"velocity": velocity}, RATE_HZ))


class TwoRouteBatch(EpisodicBatch):
    """N points; ``info``: ``success``, ``collision``, ``route`` (-1 left, +1 right, 0 until the disc's centre is passed)."""

    def __init__(self, name: str, options: Options) -> None:
        steps = options.max_episode_steps or MAX_EPISODE_STEPS
        info = {"collision": "bool", "route": "int64"}
        super().__init__(name, identity(f"two-route {VERSION}", SUCCESS), make_spec(), options.num_worlds, steps, options.autoreset, info)
        self._position = np.zeros((self.num_worlds, 2))  # m
        self._seeds = np.zeros(self.num_worlds, np.int64)
        self._route = np.zeros(self.num_worlds, np.int64)  # of the present episode; what info was told may be of the last one

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self._seeds[rows] = seeds
        self._position[rows] = START + START_STD * hashed_normals(seeds, 0)
        self._route[rows] = 0

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        before = self._position[rows]
        drift = DRIFT_STD * hashed_normals(self._seeds[rows], 1 + self._elapsed[rows])
        after = np.clip(before + action / RATE_HZ + drift, -LIMIT, LIMIT)
        self._position[rows] = after
        collision = distance_to_segment(np.zeros(2), before, after) < DISC_RADIUS
        success = (np.linalg.norm(after - GOAL, axis=1) < GOAL_RADIUS) & ~collision
        passing = (self._route[rows] == 0) & (before[:, 1] < 0) & (after[:, 1] >= 0)
        side = np.where(after[:, 0] < 0, -1, 1)
        self._route[rows] = route = np.where(passing & ~collision, side, self._route[rows])
        reward = success.astype(np.float64) - collision
        return Outcome(reward, success | collision, {"success": success, "collision": collision, "route": route})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows] = self._position[rows]

    @property
    def expert_route(self) -> np.ndarray:
        """(N,) int64: the side that the expert takes in each world's episode, -1 left or +1 right, from the seed alone."""
        return np.where(hashed(self._seeds, -1) & 1, 1, -1)

    def expert_action(self) -> np.ndarray:
        """Return the velocity (N, 2) float32 m/s along the expert's route at cruising speed; zero where ended."""
        x, y = self._position.T
        bend, slope = route_offset(y)
        side = self.expert_route
        along = np.stack([side * slope, np.ones_like(y)], axis=1)
        along *= CRUISE_SPEED / np.linalg.norm(along, axis=1, keepdims=True)
        along[:, 0] += TRACKING_GAIN * (side * bend - x)
        return (np.clip(along, -MAX_SPEED, MAX_SPEED) * self._running[:, None]).astype(np.float32)

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray:
        """Return (len(worlds), 256, 256, 3) uint8: disc grey, goal green, point blue; y points up."""
        rows = np.arange(self.num_worlds) if worlds is None else np.asarray(worlds)
        axis = (np.arange(PICTURE_SIZE) + 0.5) / PICTURE_SIZE * 2 * LIMIT - LIMIT
        grid = np.stack(np.meshgrid(axis, -axis), axis=-1)  # (H, W, 2) m, top row first
        out = np.full((rows.size, PICTURE_SIZE, PICTURE_SIZE, 3), 255, np.uint8)
        out[:, np.linalg.norm(grid, axis=-1) < DISC_RADIUS] = (119, 136, 153)
        out[:, np.linalg.norm(grid - GOAL, axis=-1) < GOAL_RADIUS] = (144, 238, 144)
        for picture, row in zip(out, rows, strict=True):
            picture[np.linalg.norm(grid - self._position[row], axis=-1) < 0.03] = (65, 105, 225)
        return out


def route_offset(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the right-hand route's x in m and dx/dy at height ``y`` (N,): 0 on the stem, ``PASS_AT`` beside the disc.

    The bend is the smooth step 3 s^2 - 2 s^3, mirrored in y, so the way back to the axis is that of the way out.
    """
    width = SIDE_AT - LEAVE_AT
    s = np.clip((-LEAVE_AT - np.abs(y)) / width, 0, 1)
    return PASS_AT * s * s * (3 - 2 * s), -PASS_AT * 6 * s * (1 - s) * np.sign(y) / width


def distance_to_segment(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance (N,) in m from ``point`` (2,) to the segments from ``start`` (N, 2) to ``end`` (N, 2)."""
    along = end - start
    length2 = np.maximum((along**2).sum(axis=1), 1e-18)
    t = np.clip(((point - start) * along).sum(axis=1) / length2, 0, 1)
    return np.linalg.norm(start + t[:, None] * along - point, axis=1)
