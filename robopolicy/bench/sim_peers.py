"""Vectors of Gymnasium environments, stepped by Gymnasium and by stable-baselines3, beside the same robots as batched worlds."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robopolicy.bench.sim_speed import WARM_STEPS, Side, block, make_worlds, steps_for

#: Ours -> (Gymnasium's environment, its options that leave out what ours leaves out).
NO_CONTACT: Mapping[str, Any] = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
ENVIRONMENTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "gymnasium/half-cheetah": ("HalfCheetah-v5", {}),
    "gymnasium/hopper": ("Hopper-v5", {}),
    "gymnasium/ant": ("Ant-v5", NO_CONTACT),
    "gymnasium/humanoid": ("Humanoid-v5", NO_CONTACT),
    "gymnasium/ant-full": ("Ant-v5", {}),
    "gymnasium/humanoid-full": ("Humanoid-v5", {}),
}


@dataclass(frozen=True)
class Peer:
    """A way to step N environments.

    Attributes:
        name: For people.
        package: That must be installed.
        make: (environment, options, N) -> a vector of environments.
        processes: Whether each environment is a process of its own: such a vector gets worlds with two threads beside it.
        worlds: Numbers of environments at which it is measured.
    """

    name: str
    package: str
    make: Callable[[str, Mapping[str, Any], int], Any]
    processes: bool
    worlds: tuple[int, ...]

    @property
    def missing(self) -> bool:
        """Whether its package is not here."""
        return importlib.util.find_spec(self.package) is None


def _gymnasium(mode: str) -> Callable[[str, Mapping[str, Any], int], Any]:
    def make(environment: str, options: Mapping[str, Any], count: int) -> Any:
        import gymnasium

        extra = {"context": "forkserver"} if mode == "async" else {}
        return gymnasium.make_vec(environment, count, vectorization_mode=mode, vector_kwargs=extra, **options)

    return make


def _baselines(processes: bool) -> Callable[[str, Mapping[str, Any], int], Any]:
    def make(environment: str, options: Mapping[str, Any], count: int) -> Any:
        import gymnasium
        from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

        makers = [functools.partial(gymnasium.make, environment, **options)] * count
        return SubprocVecEnv(makers, start_method="forkserver") if processes else DummyVecEnv(makers)

    return make


PEERS = (
    Peer("Gymnasium SyncVectorEnv", "gymnasium", _gymnasium("sync"), False, (1, 16, 64)),
    Peer("Gymnasium AsyncVectorEnv", "gymnasium", _gymnasium("async"), True, (1, 16)),
    Peer("stable-baselines3 DummyVecEnv", "stable_baselines3", _baselines(False), False, (1, 16, 64)),
    Peer("stable-baselines3 SubprocVecEnv", "stable_baselines3", _baselines(True), True, (1, 16)),
)


def against_peer(task: str, peer: Peer, worlds: int, seconds: float, rounds: int = 4) -> tuple[Side, Side]:
    """Return ours and ``peer``, both with ``worlds`` worlds and random actions, stepping, observing, rewarding and resetting."""
    environment, options = ENVIRONMENTS[task]
    env, actions = make_worlds(task, worlds, 2 if peer.processes else 1)
    vector = peer.make(environment, options, worlds)
    try:
        vector.reset()
        step: Callable[[np.ndarray], Any] = vector.step
        for k in range(WARM_STEPS):
            step(actions[k % len(actions)])
        ours, theirs = Side(), Side()
        counts = steps_for(env.step, actions, seconds / (2 * rounds)), steps_for(step, actions, seconds / (2 * rounds))
        for _ in range(rounds):
            block(env.step, actions, counts[0], worlds, ours)
            block(step, actions, counts[1], worlds, theirs, peer.processes)
        return ours, theirs
    finally:
        vector.close()
        env.close()
