"""A point in the plane that is to come to a goal, with a camera that needs no graphics: worlds for learning by trial in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.data.writer import DatasetWriter
from sim.env import Observation
from sim.episodes import EpisodicBatch, Outcome, hashed

CAMERA, SIDE = "observation.images.top", 32
REACHED, STEP = 0.2, 0.2  # of a plane from -1 to 1
RATE_HZ = 10.0


def make_spec(images: bool) -> Spec:
    fields = {"observation.state": Field((2,), names=("x", "y")), "observation.environment_state": Field((2,), names=("goal.x", "goal.y"))}
    if images:
        fields[CAMERA] = Field((SIDE, SIDE, 3), "uint8", "px", kind="image")
    return Spec(ObservationSpec(fields, RATE_HZ), ActionSpec({"velocity": Field((2,), low=(-1.0, -1.0), high=(1.0, 1.0), kind="velocity")}, RATE_HZ))


class PointWorlds(EpisodicBatch):
    """N points; the reward is the distance that is left, negative; success is to be within ``REACHED`` of the goal. Nothing terminates.

    Args:
        num_worlds: N.
        images: Whether the camera is on.
        steps: Time limit.
        goal: Where every goal is; None: drawn anew for each episode.

    Attributes:
        resets: Episodes begun, in all worlds together.
    """

    def __init__(self, num_worlds: int = 1, images: bool = False, steps: int = 30, autoreset: bool = False, goal: tuple[float, float] | None = None) -> None:
        super().__init__("test/point", "point 1", make_spec(images), num_worlds, steps, autoreset)
        self.point, self.goal = np.zeros((num_worlds, 2)), np.zeros((num_worlds, 2))
        self._fixed, self.resets = goal, 0

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.resets += rows.size
        draws = np.stack([hashed(seeds, k) * 2.0**-63 for k in range(4)], 1)
        self.point[rows] = 1.6 * draws[:, :2] - 0.8
        self.goal[rows] = 1.2 * draws[:, 2:] - 0.6 if self._fixed is None else self._fixed

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self.point[rows] = np.clip(self.point[rows] + STEP * action, -1.0, 1.0)
        left = np.linalg.norm(self.point[rows] - self.goal[rows], axis=1)
        return Outcome(-left, np.zeros(rows.size, bool), {"success": left < REACHED})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows], out["observation.environment_state"][rows] = self.point[rows], self.goal[rows]
        if CAMERA in out:
            for row in rows:
                out[CAMERA][row] = picture(self.point[row], self.goal[row])

    def expert_action(self) -> np.ndarray:
        return np.clip((self.goal - self.point) / STEP, -1.0, 1.0).astype(np.float32)


def picture(point: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Return (SIDE, SIDE, 3) uint8: a red disc at the point, a blue one at the goal."""
    across = np.linspace(-1.2, 1.2, SIDE)
    out = np.full((SIDE, SIDE, 3), 30, np.uint8)
    for place, channel in ((goal, 2), (point, 0)):
        near = (across[None] - place[0]) ** 2 + (across[:, None] - place[1]) ** 2 < 0.2**2
        out[near, channel] = 230
    return out


def record(path: Path, episodes: int, noise: float = 0.5, seed0: int = 0) -> Path:
    """Record what the expert does under noise, with its pictures and successes; some of it past the goal."""
    worlds = PointWorlds(1, images=True, steps=14)
    with DatasetWriter(path, worlds.spec, RATE_HZ, "none", "point") as writer:
        for seed in range(seed0, seed0 + episodes):
            generator, obs, won = np.random.default_rng(seed), worlds.reset(np.array([seed])), False
            for t in range(14):
                action = np.clip(worlds.expert_action() + noise * generator.standard_normal((1, 2)), -1, 1).astype(np.float32)
                result = worlds.step(action)
                success = bool(result.info["success"][0])
                won |= success
                extras = {"next.reward": float(result.reward[0]), "next.success": success, "next.done": t == 13}
                writer.add_frame({n: a[0] for n, a in obs.items()}, action[0], {"observation": t * 10**8}, extras)
                obs = result.obs
            writer.save_episode(success=won, seed=seed)
    return path
