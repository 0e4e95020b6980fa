"""Worlds for tests of replays: random steps, and the plainest replay there can be to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.training.replay import Replay

SPEC = Spec(
    ObservationSpec({"observation.state": Field((2,)), "observation.images.eye": Field((2, 2, 3), "uint8", kind="image")}),
    ActionSpec({"force": Field((2,), low=(-2.0, -1.0), high=(2.0, 3.0), kind="effort")}),
)


@dataclass
class Step:
    """One transition of one world, as it was."""

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: float
    next_obs: dict[str, np.ndarray]
    terminated: bool
    ended: bool


@dataclass
class Lists:
    """Everything that ever happened, a list a world, and the samples that can be drawn from the newest ``rows`` of it."""

    worlds: int
    rows: int
    chunk: int = 1
    n_step: int = 1
    gamma: float = 0.9
    steps: list[list[Step]] = field(default_factory=list)  # [c][w]

    @property
    def window(self) -> range:
        """Steps that a replay still has."""
        return range(max(0, len(self.steps) - self.rows), len(self.steps))

    def starts(self) -> set[int]:
        """Return the numbers of the transitions that a sample can begin with."""
        out = set()
        for c in self.window:
            for w in range(self.worlds):
                chunk = [self.steps[c + i][w] for i in range(self.chunk) if c + i < len(self.steps)]
                if len(chunk) == self.chunk and not any(step.ended for step in chunk[:-1]):
                    out.add(c * self.worlds + w)
        return out

    def sample(self, index: int) -> dict[str, Any]:
        """Return the sample that begins with transition ``index``."""
        c, w = divmod(index, self.worlds)
        reward, power, i = 0.0, 1.0, c
        while True:
            step = self.steps[i][w]
            reward, power = reward + power * step.reward, power * self.gamma
            if step.ended or i - c + 1 == max(self.n_step, self.chunk) or i + 1 == len(self.steps):
                break
            i += 1
        actions = np.concatenate([self.steps[c + k][w].action for k in range(self.chunk)])
        return {"obs": self.steps[c][w].obs, "action": actions, "reward": reward, "next_obs": step.next_obs, "discount": 0.0 if step.terminated else power}


class Play:
    """N worlds whose episodes end at random; feeds a replay and the lists alike."""

    def __init__(self, worlds: int, seed: int, ends: float = 0.25) -> None:
        self.worlds, self.ends, self.random = worlds, ends, np.random.default_rng(seed)
        self.obs = self.seen()

    def seen(self) -> dict[str, np.ndarray]:
        """Return an observation that no other is equal to."""
        draw = self.random
        return {
            "observation.state": draw.normal(size=(self.worlds, 2)).astype(np.float32),
            "observation.images.eye": draw.integers(0, 256, (self.worlds, 2, 2, 3)).astype(np.uint8),
        }

    def step(self, replays: list[Replay], lists: Lists | None) -> None:
        """Take one step of all worlds."""
        next_obs, draw = self.seen(), self.random
        action = draw.uniform(-1, 1, (self.worlds, 2)).astype(np.float32)
        reward = draw.normal(size=self.worlds).astype(np.float32)
        terminated, truncated = draw.random(self.worlds) < self.ends / 2, draw.random(self.worlds) < self.ends / 2
        for replay in replays:
            replay.add(self.obs, action, reward, next_obs, terminated, truncated)
        if lists is not None:
            rows = []
            for w in range(self.worlds):
                sides = ({n: a[w].copy() for n, a in side.items()} for side in (self.obs, next_obs))
                rows.append(Step(next(sides), action[w], float(reward[w]), next(sides), bool(terminated[w]), bool(terminated[w] | truncated[w])))
            lists.steps.append(rows)
        fresh, ended = self.seen(), terminated | truncated
        self.obs = {n: np.where(ended.reshape(-1, *[1] * (a.ndim - 1)), fresh[n], a) for n, a in next_obs.items()}

    def cut(self, replays: list[Replay], lists: Lists | None) -> None:
        """Begin all worlds anew."""
        for replay in replays:
            replay.cut()
        if lists is not None and lists.steps:
            for step in lists.steps[-1]:
                step.ended = True
        self.obs = self.seen()
