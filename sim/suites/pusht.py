"""PushT: push a T-shaped block onto its outline with a round finger; gym-pusht's physics, 10 Hz.

Florence et al. 2021, "Implicit Behavioral Cloning"; Chi et al. 2023, "Diffusion Policy" for the task's present form. An
episode ends when the block covers more than 95 % of the goal. The expert plans (see ``sim.oracles.pusht_planner``).
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from sim.env import BatchEnv, Observation
from sim.episodes import EpisodicBatch, Outcome
from sim.identity import identity, package_folder, versions
from sim.oracles.pusht_planner import Planner
from sim.registry import Entry, Options

NAME = "pusht"
SUCCESS = "the block covers more than 95 % of the goal's area; ends the episode"
RATE_HZ = 10.0
MAX_EPISODE_STEPS = 300
CAMERA = "top"
PICTURE_SIZE = 256  # px
SIDE = 512.0  # px, the plane is a square with y down


def entries() -> list[Entry]:
    """Return the task."""
    return [
        Entry(
            name=NAME,
            description="push a T-shaped block onto its outline (gym-pusht), planning expert",
            tags=("pusht", "expert", "camera"),
            rate_hz=RATE_HZ,
            max_episode_steps=MAX_EPISODE_STEPS,
            requires=("gym_pusht", "pymunk", "shapely", "cv2"),
            install="`pip install 'robopolicy[sim]'`",
            factory=_make,
            success=SUCCESS,
        )
    ]


def _make(name: str, options: Options) -> BatchEnv:
    return PushTBatch(name, options)


def make_spec(options: Options) -> Spec:
    """Return the spec, everything in px of the 512 px square: agent (2), eight block corners (16), target position (2).

    The block is given by the corners of its two bars (the published low-dimensional observation uses points too): unlike
    an angle they have no jump and learn far better.
    """
    fields = {"observation.state": Field((2,), unit="px", names=("agent.x", "agent.y"))}
    if options.state:
        names = tuple(f"block{i}.{axis}" for i in range(8) for axis in "xy")
        fields["observation.environment_state"] = Field((16,), unit="px", names=names)
    if options.images:
        size = options.image_size
        fields[f"observation.images.{CAMERA}"] = Field((size, size, 3), "uint8", kind="image")
    target = Field((2,), unit="px", low=0, high=SIDE, kind="position", names=("x", "y"))  # type: ignore[arg-type]
    return Spec(ObservationSpec(fields, RATE_HZ), ActionSpec({"target": target}, RATE_HZ))


@functools.cache
def _suite_class() -> Any:
    """Import gym-pusht without a window or its greeting."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = list(sys.path)
        try:
            import cv2  # noqa: F401  (gym-pusht imports it; OpenCV in turn loads libGL)
        except ImportError as error:
            sys.path[:] = path  # OpenCV leaves its own folder there, whose typing/ would break every worker
            raise InputError(f"task {NAME!r} needs OpenCV, which cannot be loaded ({error}): apt-get install libgl1 libglib2.0-0") from error
        from gym_pusht.envs.pusht import PushTEnv
    return PushTEnv


def _suite_version() -> str:
    """Return the versions and the hash of the suite's own environment: it has no files but its source."""
    return identity(versions("gym-pusht", "pymunk"), SUCCESS, (package_folder("gym_pusht") / "envs" / "pusht.py",))


class PushTBatch(EpisodicBatch):
    """N PushT worlds; ``info``: ``success`` (coverage above 0.95, ends the episode), ``score`` (coverage in [0, 1])."""

    def __init__(self, name: str, options: Options) -> None:
        suite = _suite_class()
        steps = options.max_episode_steps or MAX_EPISODE_STEPS
        super().__init__(name, _suite_version(), make_spec(options), options.num_worlds, steps, options.autoreset, {"score": "float32"})
        size = options.image_size
        self._envs = [
            suite(observation_width=size, observation_height=size, visualization_width=PICTURE_SIZE, visualization_height=PICTURE_SIZE)
            for _ in range(options.num_worlds)
        ]
        self._images = options.images
        self._planner = Planner()

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        for row, seed in zip(rows, seeds, strict=True):
            self._envs[row].reset(seed=int(seed))
            self._envs[row]._last_action = None  # the suite would draw the last episode's
            self._planner.forget(int(row))

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        reward, score, success = np.zeros(rows.size), np.zeros(rows.size), np.zeros(rows.size, bool)
        for k, row in enumerate(rows):
            _, reward[k], _, _, info = self._envs[row].step(action[k].astype(np.float64))
            score[k], success[k] = min(max(info["coverage"], 0.0), 1.0), info["is_success"]
        return Outcome(reward, success, {"success": success, "score": score})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        for row in rows:
            env = self._envs[row]
            out["observation.state"][row] = env.agent.position
            if "observation.environment_state" in out:
                out["observation.environment_state"][row] = env.get_keypoints(env._block_shapes).ravel()
            if self._images:
                out[f"observation.images.{CAMERA}"][row] = env._render()

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray:
        """Return (len(worlds), 256, 256, 3) uint8; the cross is the last target. Needs no GL."""
        rows = np.arange(self.num_worlds) if worlds is None else np.asarray(worlds)
        blank = np.full((PICTURE_SIZE, PICTURE_SIZE, 3), 255, np.uint8)
        began = [hasattr(self._envs[row], "space") for row in rows]
        return np.stack([self._envs[row].render() if ready else blank for row, ready in zip(rows, began, strict=True)])

    def expert_action(self) -> np.ndarray:
        """Return the planner's target (N, 2) float32 px; zeros where ended."""
        out = np.zeros((self.num_worlds, 2), np.float32)
        for row in np.flatnonzero(self._running):
            env = self._envs[row]
            place = np.array(env.agent.position), np.array(env.block.position), float(env.block.angle)
            out[row] = self._planner.action(int(row), int(self._elapsed[row]), *place)
        return out

    def close(self) -> None:
        """Drop the worlds; may be called twice."""
        super().close()
        self._envs = []
