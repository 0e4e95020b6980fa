"""What the runtime asks of a policy: the policy protocol over numpy, and a request that does not block the control loop.

:class:`LocalPolicy` gives that to a policy in this process, learnt (torch, imported only then) or numpy;
``real.client.PolicyClient`` gives it to one behind a server. The noise of a call is an array of row keys
(``policies.noise.row_keys``), so both compute the same actions.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from policies.base import Execution, Plan, Policy, State
from policies.spec import Spec

Observations = Mapping[str, np.ndarray]
_ENDS_WITHIN_S = 5.0  # the longest that closing waits for a call

#: Name of a field -> (low, high) of the data that a policy was trained on, (*shape) each.
Ranges = Mapping[str, tuple[np.ndarray, np.ndarray]]


def trained_ranges(policy: Any) -> Ranges | None:
    """Return where the training data of a policy's observations lay, as its normaliser knows; None: nobody knows.

    Args:
        policy: Learnt, a method of execution or a local policy around one, or a client, whose server has said it.
    """
    inner = policy
    while inner is not None and not hasattr(inner, "normalizer"):
        if hasattr(inner, "ranges"):
            return inner.ranges
        inner = getattr(inner, "policy", None)
    if inner is None:
        return None
    names = [name for name in inner.spec.observation.state_names if name in inner.normalizer.names]
    return {name: inner.normalizer.trained_range(name) for name in names}


def ranges_to_json(ranges: Ranges | None) -> str:
    """Return ranges as JSON text; null for None and for what is unbounded."""
    sides = None if ranges is None else {n: [[v if np.isfinite(v) else None for v in side.ravel().tolist()] for side in pair] for n, pair in ranges.items()}
    return json.dumps(sides)


def ranges_from_json(text: str, spec: Spec) -> Ranges | None:
    """Return the ranges in ``text``. Raises ValueError if it is not what :func:`ranges_to_json` makes for a policy of ``spec``."""
    found = json.loads(text)
    if found is None:
        return None
    if not isinstance(found, dict) or not set(found) <= set(spec.observation.state_names):
        raise ValueError("ranges of fields that the policy does not read")
    out = {}
    for name, pair in found.items():
        shape = spec.observation.fields[name].shape
        low, high = (np.array([fill if v is None else float(v) for v in side], np.float64) for side, fill in zip(pair, (-np.inf, np.inf), strict=True))
        out[name] = low.reshape(shape), high.reshape(shape)
    return out


class RequestFailed(Exception):
    """A requested plan will not come.

    Attributes:
        cause: ``late`` (not before the deadline), ``gone`` (no server), ``refused`` (the server would not) or ``error``.
    """

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class AsyncPolicy(Protocol):
    """A policy over numpy arrays that can also be asked without waiting; one request in flight.

    Attributes:
        spec, n_obs_steps, horizon, n_action_steps: as ``policies.base.Policy``.
    """

    spec: Spec
    n_obs_steps: int
    horizon: int
    n_action_steps: int

    @property
    def in_flight(self) -> bool:
        """Whether a request waits for its plan."""
        ...

    @property
    def connected(self) -> bool:
        """Whether a request can be made now."""
        ...

    def initial_state(self, batch: int) -> State:
        """Return the state of streams that have just begun."""
        ...

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Return ``state`` with the masked streams begun anew."""
        ...

    def request(
        self, obs: Observations, state: State, noise: np.ndarray, execution: Execution = Execution(), *,
        budget_s: float, ages_s: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """Ask for a plan within ``budget_s`` seconds. ``obs`` is field -> (B, To, *shape), not to be changed until answered.

        Raises:
            RequestFailed: ``gone`` when it cannot be asked now.
        """
        ...

    def poll(self, wait_s: float = 0.0) -> tuple[Plan, State] | None:
        """Return the plan and the next state if they are there (within ``wait_s``), else None.

        Raises:
            RequestFailed: once, when the request in flight has failed or its deadline has passed.
        """
        ...

    def abandon(self) -> None:
        """Forget the request in flight; its plan is never returned."""
        ...

    def close(self) -> None:
        """Release sockets and threads."""
        ...


def is_torch(policy: Any) -> bool:
    """Whether ``policy`` computes with torch; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(policy, torch.nn.Module)


def act_numpy(policy: Policy, obs: Observations, state: State, noise: np.ndarray, execution: Execution = Execution()) -> tuple[Plan, State]:
    """Call ``policy.act`` with numpy observations (B, To, *shape) and row keys (B,); the plan comes back in numpy.

    A torch policy is called without gradients (one that needs them inside, like an energy policy, switches them on) and
    gets tensors and ``policies.noise.Noise``; its state stays torch.
    """
    if not is_torch(policy):
        return policy.act(obs, state, np.asarray(noise, np.int64), execution)
    import torch

    from policies.noise import Noise

    device = next((p.device for p in policy.parameters()), torch.device("cpu"))  # type: ignore[attr-defined]
    with torch.no_grad():
        tensors = {name: torch.from_numpy(_writable(array)).to(device) for name, array in obs.items()}
        numbers = (execution.delay, execution.frozen, execution.elapsed)
        when = Execution(*(torch.as_tensor(v).to(device) if isinstance(v, np.ndarray) else v for v in numbers))
        plan, state = policy.act(tensors, state, Noise(np.asarray(noise, np.int64), device), when)
        actions = plan.actions.to("cpu", torch.float32).numpy()
        info = {name: np.asarray(v.detach().cpu() if isinstance(v, torch.Tensor) else v) for name, v in plan.info.items()}
    return Plan(actions, info), state


def _writable(array: np.ndarray) -> np.ndarray:
    """Torch warns about views that cannot be written; received frames can, other read-only arrays are copied."""
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array)


class LocalPolicy:
    """A policy of this process behind the runtime's interface; requests are computed in a thread of their own.

    Args:
        policy: Learnt or numpy policy.
        clock: Monotonic seconds.
    """

    def __init__(self, policy: Policy, clock: Any = time.monotonic) -> None:
        self.policy = policy
        self.spec, self.n_obs_steps = policy.spec, policy.n_obs_steps
        self.horizon, self.n_action_steps = policy.horizon, policy.n_action_steps
        self._clock = clock
        self._wake = threading.Condition()
        self._job: tuple[Any, ...] | None = None
        self._ticket = 0  # of the request in flight; a result with another one is never returned
        self._deadline: float | None = None
        self._result: tuple[int, Any] | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="policy", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> bool:
        """Whether a request waits for its plan."""
        return self._deadline is not None

    @property
    def connected(self) -> bool:
        """A local policy is always there."""
        return True

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams that have just begun."""
        return self.policy.initial_state(batch)

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Return ``state`` with the masked streams begun anew."""
        return self.policy.reset(state, mask)

    def act(self, obs: Observations, state: State, noise: np.ndarray, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan now, in this thread."""
        return act_numpy(self.policy, obs, state, noise, execution)

    def request(
        self, obs: Observations, state: State, noise: np.ndarray, execution: Execution = Execution(), *,
        budget_s: float, ages_s: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        """See :class:`AsyncPolicy`."""
        if self.in_flight:
            raise RuntimeError("one request is in flight already")
        with self._wake:
            self._ticket += 1
            self._deadline = self._clock() + budget_s
            self._job = (self._ticket, obs, state, noise, execution)
            self._wake.notify_all()

    def poll(self, wait_s: float = 0.0) -> tuple[Plan, State] | None:
        """See :class:`AsyncPolicy`."""
        if self._deadline is None:
            return None
        with self._wake:
            until = min(self._clock() + wait_s, self._deadline)
            while not self._mine() and self._clock() < until:
                self._wake.wait(max(until - self._clock(), 0.0))
            if self._clock() >= self._deadline:  # also when the plan has come since: it is late
                self._deadline = None
                self._ticket += 1
                raise RequestFailed("late", "the policy did not answer before the deadline")
            if not self._mine():
                return None
            result, self._result, self._deadline = self._result[1], None, None  # type: ignore[index]
        if isinstance(result, Exception):
            raise RequestFailed("error", f"{type(result).__name__}: {result}") from result
        return result

    def _mine(self) -> bool:
        return self._result is not None and self._result[0] == self._ticket

    def abandon(self) -> None:
        """See :class:`AsyncPolicy`."""
        with self._wake:
            self._ticket += 1
            self._job, self._deadline = None, None

    def close(self) -> None:
        """End the thread. A call that is running is waited for, but not for ever: the robot's connections are closed after this."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join(_ENDS_WITHIN_S)
        if self._thread.is_alive():
            warnings.warn(f"the policy's last call has not come back in {_ENDS_WITHIN_S:g} s; its thread is left behind", RuntimeWarning, stacklevel=2)

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._job is None and not self._closing:
                    self._wake.wait()
                if self._closing or self._job is None:
                    return
                (ticket, *arguments), self._job = self._job, None
            started = time.perf_counter()
            result: Any
            try:
                plan, state = self.act(*arguments)
                plan.info["inference_s"] = np.full(len(plan.actions), time.perf_counter() - started)
                result = (plan, state)
            except Exception as error:  # whatever a policy raises becomes a failed request, never the end of the control loop
                result = error
            with self._wake:
                self._result = (ticket, result)
                self._wake.notify_all()
