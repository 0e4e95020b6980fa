"""The policy protocol: arrays in, a plan out, and no hidden episode state.

Whatever a policy carries from call to call (the last plan, a recurrent latent) is an explicit value with one row per
stream, so one policy serves many robots and a batch mixes episodes freely. Imports without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from policies.spec import Spec

#: Arrays are torch tensors in learnt policies, numpy arrays in controllers and remote clients.
Array = Any
State = dict[str, Any]


@dataclass
class Plan:
    """A chunk of actions in robot units.

    Attributes:
        actions: (B, Ta, Da) float32, robot units; row t is to be executed t control steps from now.
        info: name -> (B,) numbers about this call, always with ``network_calls``.
    """

    actions: Array
    info: dict[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Execution:
    """How the plan will be executed, in control steps; what real-time methods (RTC, RTI) condition on.

    Attributes:
        delay: (B,) int64 or int: steps that pass before the first action of this plan can be executed.
        frozen: (B,) int64 or int: leading steps of the previous plan that are already committed.
        elapsed: (B,) int64 or int: steps between the request of the previous plan and this one; None: Ta of the policy.
    """

    delay: Array = 0
    frozen: Array = 0
    elapsed: Array | None = None


@runtime_checkable
class Policy(Protocol):
    """Anything that turns observations into plans: a learnt policy, a controller, a client of a remote server.

    Attributes:
        spec: Exactly the observation fields that it reads, and its action.
        n_obs_steps: To, how many of the latest observations it sees.
        horizon: Tp, how many steps it predicts.
        n_action_steps: Ta, how many actions a plan holds.
    """

    spec: Spec
    n_obs_steps: int
    horizon: int
    n_action_steps: int

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams that have just begun; arrays with leading dim B."""
        ...

    def act(self, obs: Mapping[str, Array], state: State, noise: Any, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan for B streams.

        Args:
            obs: field -> (B, To, *shape), oldest first, robot units, images uint8.
            state: what the previous call returned.
            noise: ``policies.noise.Noise`` with B row keys.
            execution: delay and frozen prefix.

        Returns:
            The plan, actions (B, Ta, Da) in robot units, and the next state.
        """
        ...

    def reset(self, state: State, mask: Array) -> State:
        """Return ``state`` with the rows where ``mask`` (B,) bool is set begun anew."""
        ...


def select_rows(state: State, mask: Array, fresh: State) -> State:
    """Return ``state`` with rows of ``fresh`` where ``mask`` (B,) is set; works on numpy arrays and torch tensors."""
    out: State = {}
    for name, old in state.items():
        if isinstance(old, np.ndarray):
            m = np.asarray(mask).reshape((-1,) + (1,) * (old.ndim - 1))
            out[name] = np.where(m, fresh[name], old)
        else:
            import torch

            m = torch.as_tensor(mask, device=old.device).reshape((-1,) + (1,) * (old.ndim - 1))
            out[name] = torch.where(m, fresh[name], old)
    return out
