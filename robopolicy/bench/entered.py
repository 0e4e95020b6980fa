"""What long benchmarks trained enters a ledger, ours and the peer's: the same evaluator, worlds and report states for both."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policies.base import Execution, Plan, State
from policies.spec import Spec


def entries(task: str, label: str, steps: int, episodes: int, folder: Path) -> dict[str, Any]:
    """Return the settings of an :class:`Entry` in the ledger below ``folder``; environment ``steps`` are part of the name."""
    length = f"{steps / 1e6:g}M" if steps >= 1_000_000 else f"{steps / 1e3:g}k"
    return {"task": task, "label": f"{label} ({length} steps)", "episodes": episodes, "ledger": str(folder / "evaluations")}


@dataclass(frozen=True)
class Entry:
    """Where a cell enters what it trained, and under which name; a cell's settings hold it as a mapping.

    Attributes:
        task: Registered name.
        label: For tables.
        episodes: Report states.
        ledger: Folder.
    """

    task: str
    label: str
    episodes: int
    ledger: str

    def enter(self, policy: Any, training: Mapping[str, Any] | None = None) -> float:
        """Evaluate ``policy``, a checkpoint's folder or one in memory, on report states; returns the mean return.

        Args:
            policy: Who.
            training: How it came about, where no checkpoint says so.
        """
        from robopolicy.evaluation.rollout import evaluate
        from robopolicy.evaluation.seeds import REPORT

        how: dict[str, Any] = {"seed0": REPORT, "block": min(50, self.episodes), "latency_calls": 0, "progress": False}
        found = evaluate(policy, self.task, episodes=self.episodes, label=self.label, training=training, out=Path(self.ledger), **how)
        return float(np.mean([episode.return_ for episode in found.episodes]))


class PeerPolicy:
    """A function of what Gymnasium observes, behind the policy protocol; it plans one step at a time and remembers nothing.

    Args:
        task: Registered name; its worlds show one field.
        act: (B, D) float32 observations -> (B, Da) actions.
    """

    n_obs_steps = horizon = n_action_steps = 1

    def __init__(self, task: str, act: Callable[[np.ndarray], np.ndarray]) -> None:
        from sim.registry import make

        with contextlib.closing(make(task)) as env:
            self.spec: Spec = env.spec
        (self._field,) = self.spec.observation.fields
        self._act = act

    def initial_state(self, batch: int) -> State:
        """See ``policies.base.Policy``."""
        return {}

    def reset(self, state: State, mask: Any) -> State:
        """See ``policies.base.Policy``."""
        return state

    def act(self, obs: Mapping[str, Any], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        """See ``policies.base.Policy``; actions are cut at the limits, as the peer's own loop does."""
        seen = np.asarray(obs[self._field], np.float32)[:, -1]
        actions = np.clip(self._act(seen), self.spec.action.low, self.spec.action.high).astype(np.float32)
        return Plan(actions[:, None], {"network_calls": np.ones(len(seen))}), state


def settings_hash(settings: Any) -> str:
    """Return 12 hex digits of what a peer was trained with, which joins its training seeds."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
