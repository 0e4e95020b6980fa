"""A numpy policy that drives an arm between random joint targets, and everything bad that a policy can answer instead.

``python tests/faults/policies.py TASK --bind ADDRESS --announce FILE --control ADDRESS`` serves it in a process of its own.
What it answers is switched while it runs by :class:`PolicyControl`.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections import deque
from pathlib import Path

import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from policies.base import Execution, Plan, select_rows
from policies.motion import MotionLimits, joint_columns
from policies.spec import Spec

#: What :class:`TourPolicy` can be told to answer.
MODES = ("good", "nan", "inf", "huge", "shape", "bang", "corners", "noise", "raise")


class TourPolicy:
    """Drives the joints together towards a random target, the slowest at ``speed`` of its limit, and to the next one when they are there.

    The last joint is left where it was at the start: should it move, somebody executed a chunk that this policy did not mean.

    Attributes:
        mode: One of ``MODES``.
        delay_s: How long it thinks.
        fed: Chunks (any shape) that are answered first, in order.
        begun, served: Plans begun; fed chunks answered.
    """

    n_obs_steps, horizon, n_action_steps = 1, 16, 16

    def __init__(self, spec: Spec, limits: MotionLimits, delay_s: float = 0.0, speed: float = 0.5) -> None:
        self._joints, self._columns = joint_columns(spec.observation, limits.names)
        self.spec, self.limits, self.delay_s, self._speed = spec.subset([self._joints]), limits, delay_s, speed
        self.mode, self.begun, self.served = "good", 0, 0
        self.fed: deque[np.ndarray] = deque()
        self._random = np.random.default_rng(0)

    def initial_state(self, batch: int) -> dict[str, np.ndarray]:
        return {"target": np.full((batch, self.limits.n), np.nan)}

    def reset(self, state, mask):
        return select_rows(state, mask, self.initial_state(len(mask)))

    def act(self, obs, state, noise, execution=Execution()):
        self.begun += 1
        if self.delay_s:
            time.sleep(self.delay_s)
        rows = np.asarray(obs[self._joints])[:, -1][:, self._columns].astype(np.float64)
        low, high, speed = self.limits.low, self.limits.high, self._speed * self.limits.velocity / self.spec.action.rate_hz
        target = state["target"].copy()
        there = ~(np.abs(rows - target).max(axis=1) > 0.1)  # also where there is none yet
        new = self._random.uniform(0.65 * low + 0.35 * high, 0.35 * low + 0.65 * high, rows.shape)
        new[:, -1] = np.where(np.isnan(target[:, -1]), rows[:, -1], target[:, -1])
        target[there] = new[there]
        towards = target - rows
        steps = np.maximum(np.abs(towards) / speed, 1e-9).max(axis=1)  # all joints arrive together
        part = np.minimum(np.arange(1, self.n_action_steps + 1)[None, :, None] / steps[:, None, None], 1)
        actions = self._spoiled((rows[:, None] + part * towards[:, None]).astype(np.float32))
        return Plan(actions, {"network_calls": np.ones(len(rows))}), {"target": target}

    def _spoiled(self, actions: np.ndarray) -> np.ndarray:
        """Return what is answered instead of ``actions`` (B, Ta, n)."""
        low, high, random = self.limits.low.astype(np.float32), self.limits.high.astype(np.float32), self._random
        if self.fed:
            self.served += 1
            return self.fed.popleft()
        if self.mode in ("nan", "inf"):
            hit = random.random(actions.shape) < 0.05
            return np.where(hit, np.float32(np.nan if self.mode == "nan" else np.inf), actions)
        if self.mode == "huge":
            return actions * np.float32(1e30)
        if self.mode == "shape":
            return actions[:, :-1, :-1]
        if self.mode == "bang":  # from end to end at every step
            return np.where((np.arange(actions.shape[1]) % 2)[None, :, None], low, high) + 0 * actions
        if self.mode == "corners":
            return np.where(random.random(actions.shape[::2])[:, None] < 0.5, low, high) + 0 * actions
        if self.mode == "noise":
            return random.uniform(2 * low, 2 * high, actions.shape).astype(np.float32)
        if self.mode == "raise":
            raise ValueError("this policy cannot plan")
        return actions


class PolicyControl:
    """The test's end of the switch."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.setsockopt(zmq.RCVTIMEO, 30_000)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(address)

    def say(self, mode: str = "", delay_s: float = -1.0, chunk: np.ndarray | None = None) -> tuple[int, int]:
        """Switch what is named; returns how many plans were begun, and how many fed chunks were answered."""
        chunk = np.zeros(0, np.float32) if chunk is None else np.ascontiguousarray(chunk, np.float32)
        self._socket.send_multipart([mode.encode(), repr(delay_s).encode(), ",".join(map(str, chunk.shape)).encode(), chunk.tobytes()])
        begun, served = self._socket.recv_multipart()
        return int(begun), int(served)

    def close(self) -> None:
        self._context.destroy(linger=0)


def _listen(policy: TourPolicy, address: str) -> None:
    socket = zmq.Context.instance().socket(zmq.REP)
    socket.bind(address)
    while True:
        mode, delay_s, shape, data = socket.recv_multipart()
        policy.mode = mode.decode() or policy.mode
        policy.delay_s = float(delay_s) if float(delay_s) >= 0 else policy.delay_s
        if data:
            policy.fed.append(np.frombuffer(data, np.float32).reshape([int(n) for n in shape.split(b",")]))
        socket.send_multipart([b"%d" % policy.begun, b"%d" % policy.served])


def main() -> None:
    from real.server import PolicyServer
    from robopolicy.processes import announce, stop_signals
    from sim.registry import make

    parser = argparse.ArgumentParser()
    parser.add_argument("task")
    parser.add_argument("--bind", required=True)
    parser.add_argument("--announce", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--speed", type=float, default=0.5)
    options = parser.parse_args()
    env = make(options.task, 1)
    policy = TourPolicy(env.spec, env.motion, options.delay, options.speed)  # type: ignore[attr-defined]
    env.close()
    with stop_signals(with_parent=True) as stopped:
        server = PolicyServer(policy, options.bind, stats_s=0)
        threading.Thread(target=_listen, args=(policy, options.control), daemon=True).start()
        announce(options.announce, server.address)
        server.serve(stopped)


if __name__ == "__main__":
    main()
