"""Who demonstrates: a task's scripted expert, or a policy that was trained before."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from policies.spec import InputError, Spec
from sim.env import BatchEnv, Observation

#: How a policy with a distribution over actions acts.
Act = Literal["mean", "sample"]
NOISE_SEED = 0  # key of a policy's own noise, beside the seed of the episode


class Demonstrator(Protocol):
    """What a simulation of demonstrations asks for actions."""

    def begin(self, seeds: np.ndarray, first: Observation) -> None:
        """Start one episode per seed (B,) at the observation ``first``, field -> (B, *shape)."""
        ...

    def action(self) -> np.ndarray:
        """Return the actions (B, Da) for the present state."""
        ...

    def seen(self, latest: Observation) -> None:
        """Take the observation after the step, field -> (B, *shape)."""
        ...

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which it acts the same on every machine's number of threads."""
        ...


class ScriptedExpert:
    """The task's own expert, which reads the present state of the worlds."""

    def __init__(self, env: BatchEnv) -> None:
        """Take the worlds whose expert is asked."""
        self._env = env

    def begin(self, seeds: np.ndarray, first: Observation) -> None:
        """Nothing to start."""

    def action(self) -> np.ndarray:
        """See base class."""
        return self._env.expert_action()

    def seen(self, latest: Observation) -> None:
        """Nothing to take."""

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """Array code, the same anywhere."""
        return contextlib.nullcontext()


class CheckpointExpert:
    """A trained policy; its noise is keyed by the seed of the episode and the number of the call.

    Args:
        checkpoint: Its folder.
        act: How a policy with a distribution acts; None: as it was trained to.
        every_step: Plan anew at every step, also where a plan has several: after a disturbance an old plan is worth nothing.
    """

    def __init__(self, checkpoint: str, act: Act | None, every_step: bool) -> None:
        from robopolicy.evaluation.blocks import PolicyPlanner

        self._planner, self._every_step = PolicyPlanner(load_expert(checkpoint, act), NOISE_SEED), every_step

    def begin(self, seeds: np.ndarray, first: Observation) -> None:
        """See base class."""
        from robopolicy.evaluation.blocks import History

        self._planner.begin(seeds)
        self._history = History(first, self._planner.n_obs_steps)
        self._calls, self._left = 0, np.zeros((len(seeds), 0, 0))

    def action(self) -> np.ndarray:
        """See base class."""
        if not self._left.shape[1]:
            self._left, _ = self._planner.plan(self._history.window, self._calls)
            self._calls += 1
        action, rest = self._left[:, 0], self._left[:, 1:]
        self._left = rest[:, :0] if self._every_step else rest
        return action

    def seen(self, latest: Observation) -> None:
        """See base class."""
        self._history.push(latest)

    def arithmetic(self) -> contextlib.AbstractContextManager[None]:
        """One torch thread: sums over another number of threads round differently."""
        from robopolicy.evaluation.workers import torch_threads

        return torch_threads(1)


def load_expert(checkpoint: str, act: Act | None) -> Any:
    """Return the policy of a checkpoint, acting as asked. Raises InputError if it has no distribution to draw from or take the mean of."""
    from robopolicy.execution import load_policy

    policy: Any = load_policy(checkpoint)
    bare = policy if hasattr(policy, "config") and hasattr(policy.config, "stochastic") else getattr(policy, "policy", policy)
    if hasattr(bare, "eval"):
        bare.eval()
    if act is not None:
        if not hasattr(bare.config, "stochastic"):
            name = type(bare).__module__.rpartition(".")[2]
            raise InputError(f"--{act}: policy {name!r} of {checkpoint} has no distribution over actions to choose from; leave it out")
        bare.config = bare.config.model_copy(update={"stochastic": act == "sample"})
    return policy


def require_seen(checkpoint: str, spec: Spec, task: str) -> None:
    """Refuse a checkpoint that reads what worlds with ``spec`` do not show as they are recorded. Raises SpecMismatch naming the field."""
    from policies.checkpoint import read_spec

    read_spec(checkpoint).require(spec, f"checkpoint {checkpoint}", f"task {task!r} as it is recorded (see observations, image_size)")


def describe_expert(checkpoint: str | Path, act: Act | None) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """Return the folder of a checkpoint (or of the last one of a run), what a data set keeps of it, and the options of its worlds.

    Kept are its hash, which identifies it wherever it lies, the policy's name and how it acts.

    Raises:
        InputError: if there is no readable checkpoint, or it cannot act as asked.
    """
    from policies.checkpoint import fingerprint
    from robopolicy.evaluation.subject import read_defaults
    from robopolicy.execution import policy_name
    from robopolicy.training.run_folder import find_checkpoint

    folder = str(find_checkpoint(str(checkpoint)))
    load_expert(folder, act)
    return folder, {"policy": policy_name(folder), "hash": fingerprint(folder), "act": act or "trained"}, read_defaults(folder).env
