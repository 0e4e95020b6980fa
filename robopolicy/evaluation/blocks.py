"""One block of episodes: B worlds, one policy, stepped together until every row has ended.

Episode i runs in row i mod B of block i div B. The block is always B rows wide: rows that have ended, and rows past
the last episode, stay as padding, so the shapes that the network sees, and with them every rounding, depend on B alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from policies.base import Policy
from policies.spec import InputError
from robopolicy.evaluation.records import Episode
from sim.env import BatchEnv, Observation, StepResult

#: Called after every plan with the control steps done by, the ended flag of, and the success flag of the real rows.
Report = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


class Planner(Protocol):
    """What a block asks for actions."""

    n_obs_steps: int

    def begin(self, seeds: np.ndarray) -> None:
        """Start one stream per seed (B,)."""
        ...

    def plan(self, window: Observation, call: int) -> tuple[np.ndarray, np.ndarray]:
        """Return actions (B, Ta, Da) and network calls (B,) for the windows, field -> (B, To, *shape)."""
        ...


class PolicyPlanner:
    """Asks a policy, with noise keyed by (noise seed, episode seed, call): the same whatever else is in the batch."""

    def __init__(self, policy: Policy, noise_seed: int) -> None:
        """Take the policy and the key of its noise."""
        self.policy, self.noise_seed, self.n_obs_steps = policy, noise_seed, policy.n_obs_steps
        self._device = _torch_device(policy)

    def begin(self, seeds: np.ndarray) -> None:
        """Start one stream per seed (B,)."""
        self._seeds = seeds
        self._state = self.policy.initial_state(len(seeds))

    def plan(self, window: Observation, call: int) -> tuple[np.ndarray, np.ndarray]:
        """Return actions (B, Ta, Da) float32 and network calls (B,) float64."""
        from policies.noise import Noise, row_keys

        keys = row_keys(self.noise_seed, self._seeds, call)
        obs: dict[str, Any] = {name: window[name] for name in self.policy.spec.observation.fields}
        if self._device is None:
            plan, self._state = self.policy.act(obs, self._state, Noise(keys))
            actions, calls = plan.actions, plan.info["network_calls"]
        else:
            import torch

            # a fresh copy in torch's own, aligned memory: kernels may round differently on unaligned arrays
            obs = {name: torch.tensor(array, device=self._device) for name, array in obs.items()}
            with torch.no_grad():
                plan, self._state = self.policy.act(obs, self._state, Noise(keys, self._device))
            actions, calls = (torch.as_tensor(x).detach().cpu().numpy() for x in (plan.actions, plan.info["network_calls"]))
        return np.asarray(actions, np.float32), np.broadcast_to(np.asarray(calls, np.float64), (len(keys),))


class ExpertPlanner:
    """Asks the task's scripted expert: one action at a time, no network."""

    n_obs_steps = 1

    def __init__(self, env: BatchEnv) -> None:
        """Take the worlds whose expert is asked."""
        self.env = env

    def begin(self, seeds: np.ndarray) -> None:
        """Nothing to start: the expert reads the world's present state."""

    def plan(self, window: Observation, call: int) -> tuple[np.ndarray, np.ndarray]:
        """Return actions (B, 1, Da) float32 and zeros (B,)."""
        action = np.asarray(self.env.expert_action(), np.float32)
        return action[:, None], np.zeros(len(action))


def _torch_device(policy: Policy) -> Any:
    """Return the device of a policy that is a torch module, None for one over numpy (found out without torch)."""
    if not callable(getattr(policy, "parameters", None)):
        return None
    import torch

    module: Any = policy
    if not isinstance(module, torch.nn.Module):
        return None
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device


class History:
    """The last To observations of B rows; before there are that many, the first is repeated (edge padding)."""

    def __init__(self, first: Observation, n_obs_steps: int) -> None:
        """Begin with ``first``, field -> (B, *shape)."""
        self.window = {name: np.repeat(array[:, None], n_obs_steps, axis=1) for name, array in first.items()}

    def push(self, latest: Observation) -> None:
        """Drop the oldest observation and append ``latest``, field -> (B, *shape)."""
        for name, window in self.window.items():
            window[:, :-1] = window[:, 1:].copy()
            window[:, -1] = latest[name]


class Tally:
    """Adds up what the episodes of a block do, and stops adding where a row has ended."""

    def __init__(self, rows: int, padded: int, action_dim: int, max_steps: int) -> None:
        """Begin ``padded`` rows of which the first ``rows`` count."""
        self.active = np.arange(padded) < rows
        self.success = np.zeros(padded, bool)
        self.length = np.zeros(padded, np.int64)
        self.return_ = np.zeros(padded)
        self.network_calls = np.zeros(padded)
        self.chunks = np.zeros(padded, np.int64)
        self.score: np.ndarray | None = None
        self.info: dict[str, np.ndarray] = {}
        self.actions = np.zeros((padded, max_steps, action_dim), np.float32)

    def planned(self, calls: np.ndarray) -> None:
        """Count one plan, with network calls (B,), for every active row."""
        self.network_calls[self.active] += calls[self.active]
        self.chunks[self.active] += 1

    def stepped(self, action: np.ndarray, result: StepResult) -> None:
        """Add one control step with ``action`` (B, Da) of every active row; rows end on success, termination or the time limit."""
        on = self.active.copy()
        self.actions[on, self.length[on]] = action[on]
        self.length[on] += 1
        self.return_[on] += result.reward[on].astype(np.float64)
        self.success[on] |= np.asarray(result.info["success"], bool)[on]
        for name, values in result.info.items():
            if name == "score":
                self.score = np.full(len(on), -np.inf) if self.score is None else self.score
                self.score[on] = np.maximum(self.score[on], np.asarray(values, np.float64)[on])
            elif name != "success" and np.ndim(values) == 1 and np.asarray(values).dtype != object:
                self.info.setdefault(name, np.zeros(len(on)))[on] = np.asarray(values, np.float64)[on]
        self.active = on & ~(self.success | result.terminated | result.truncated)

    def episodes(self, first: int, seeds: np.ndarray) -> list[Episode]:
        """Return the records of the real rows; ``first`` is the index of row 0, ``seeds`` (rows,). What else is told and is no number is left out.

        Raises:
            InputError: if a return or a score is not finite: no mean of it would be.
        """
        out = []
        for row, seed in enumerate(seeds):
            score = None if self.score is None else float(self.score[row])
            for what, value in (("rewards sum up", self.return_[row]), ("score comes", score)):
                if value is not None and not np.isfinite(value):
                    raise InputError(f"the world's {what} to {value} in episode seed {seed} after {self.length[row]} steps: expected a finite number")
            info = {name: float(values[row]) for name, values in sorted(self.info.items()) if np.isfinite(values[row])}
            numbers = float(self.return_[row]), int(self.length[row]), score, float(self.network_calls[row]), int(self.chunks[row])
            out.append(Episode(first + row, int(seed), bool(self.success[row]), *numbers, info))
        return out


@dataclass(frozen=True)
class BlockResult:
    """Records of one block and what was commanded in it.

    Attributes:
        episodes: One record per real row.
        actions: Per real row (length, Da) float32, robot units, as given to the world: enough to replay the episode.
        seconds: Wall time that it took.
    """

    episodes: list[Episode]
    actions: list[np.ndarray]
    seconds: float = field(default=0.0, compare=False)


def run_block(env: BatchEnv, planner: Planner, seeds: np.ndarray, first: int, report: Report | None = None) -> BlockResult:
    """Run the episodes of one block.

    Args:
        env: ``num_worlds`` is B; auto-reset off.
        planner: Gives the actions; Ta steps of a plan are executed before the next is asked for (receding horizon).
        seeds: (n,) int64 episode seeds, n <= B. Rows past n repeat the last seed and are not recorded.
        first: Index of the first episode.
        report: Told after every plan how far the rows are.

    Raises:
        InputError: if a plan for a row that has not ended holds a number that is not finite.
    """
    rows, padded, began = len(seeds), env.num_worlds, time.perf_counter()
    all_seeds = np.concatenate([seeds, np.full(padded - rows, seeds[-1], np.int64)])
    tally = Tally(rows, padded, env.spec.action.dim, env.max_episode_steps)
    history = History(env.reset(all_seeds), planner.n_obs_steps)
    env.retire(~tally.active)  # padding costs no physics
    planner.begin(all_seeds)
    call = 0
    while tally.active.any():
        actions, calls = planner.plan(history.window, call)
        _require_finite(actions, tally.active, all_seeds, call)
        tally.planned(calls)
        for action in np.moveaxis(actions, 1, 0):
            result = env.step(action)
            tally.stepped(action, result)
            env.retire(~tally.active)
            history.push(result.next_obs)
            if not tally.active.any():
                break
        call += 1
        if report:
            report(tally.length[:rows], ~tally.active[:rows], tally.success[:rows])
    episodes = tally.episodes(first, seeds)
    return BlockResult(episodes, [tally.actions[row, : e.length].copy() for row, e in enumerate(episodes)], time.perf_counter() - began)


def _require_finite(actions: np.ndarray, active: np.ndarray, seeds: np.ndarray, call: int) -> None:
    """Refuse a plan that is not finite where it will be executed; padding rows are set to zero, in place."""
    bad = ~np.isfinite(actions).all(axis=(1, 2))
    if (bad & active).any():
        seed = int(seeds[np.flatnonzero(bad & active)[0]])
        raise InputError(f"the policy planned an action that is not finite in episode seed {seed}, call {call}: its weights or its normaliser are broken")
    actions[bad] = 0


def split(seeds: np.ndarray, block: int) -> Sequence[tuple[int, np.ndarray]]:
    """Return (index of the first episode, seeds) of every block of at most ``block`` episodes."""
    return [(first, seeds[first : first + block]) for first in range(0, len(seeds), block)]
