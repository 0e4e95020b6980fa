"""Episodes with plans that come late, in real time: server, twin, drive and runtime, each in a process of its own.

The server answers only when ``delay - 1/2`` control steps have passed since the request reached it, so that a plan is there for
the step ``delay`` after its observation, with half a step for the way. With 0 nothing is added; a runtime then asks one
step early, for no plan comes in no time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from policies.base import Execution, Plan, State
from robopolicy.bench import late_world
from robopolicy.bench.serve import process
from robopolicy.processes import announce

_OVER_S = 5.0  # after so long without a new episode there is none left


class Delayed:
    """A policy over numpy arrays whose every call takes at least ``seconds``; see ``policies.base.Policy``.

    Args:
        policy: What plans.
        seconds: Of a call.
    """

    def __init__(self, policy: Any, seconds: float) -> None:
        self.policy, self.seconds = policy, seconds
        self.spec, self.n_obs_steps = policy.spec, policy.n_obs_steps
        self.horizon, self.n_action_steps = policy.horizon, policy.n_action_steps
        self.initial_state, self.reset = policy.initial_state, policy.reset

    def act(self, obs: Mapping[str, np.ndarray], state: State, noise: np.ndarray, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan, then wait for what is left of the time."""
        from real.policy import act_numpy

        until = time.monotonic() + self.seconds
        out = act_numpy(self.policy, obs, state, noise, execution)
        time.sleep(max(until - time.monotonic(), 0.0))
        return out


def serve_delayed(file: str, checkpoint: str, method: str, seconds: float) -> None:
    """Serve a checkpoint whose plans take ``seconds``, until killed; the address goes to ``file``. The body of a process."""
    import torch

    from real.server import PolicyServer
    from robopolicy.execution import load_policy

    torch.set_num_threads(1)
    server = PolicyServer(Delayed(load_policy(checkpoint, method=method), seconds), "tcp://127.0.0.1:0", stats_s=0)
    server.warm_up()
    announce(file, server.address)
    server.serve()


def serve_world(file: str, seed0: int, episodes: int, limit: int) -> None:
    """Simulate :mod:`robopolicy.bench.late_world` in real time, until killed; the address goes to ``file``. The body of a process."""
    from robopolicy.twin.server import TwinServer
    from robopolicy.twin.world import World

    twin = TwinServer(World(late_world.make(1, limit), seed0, episodes), "tcp://127.0.0.1:0", lambda line: None)
    announce(file, twin.address)
    twin.serve()


def play(
    checkpoint: Path, method: str, delay: int, seed0: int, episodes: int, limit: int = late_world.LIMIT, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Play episodes ``seed0``, ``seed0 + 1``, ... in real time.

    Args:
        checkpoint: Of the policy.
        method: How it is executed, as text.
        delay: Control steps that a plan takes.
        seed0: Seed of the first episode.
        episodes: How many.
        limit: Control steps of an episode.
        say: Told after every episode.

    Returns:
        ``outcomes``: 0 or 1 for each episode; what runtime and drive counted that bears on it; the load average at the end.
    """
    from real.client import PolicyClient
    from real.drive import DriveOptions
    from real.runtime import Runtime, RuntimeOptions
    from robopolicy.deployment import open_drive

    rate_hz = late_world.make(1).spec.action.rate_hz
    with ExitStack() as stack:
        state = stack.enter_context(TemporaryDirectory(prefix="robopolicy-bench-", ignore_cleanup_errors=True))
        server = stack.enter_context(process(serve_delayed, str(checkpoint), method, max(delay - 0.5, 0.0) / rate_hz))
        twin = stack.enter_context(process(serve_world, seed0, episodes, limit))
        policy = PolicyClient(server)
        stack.callback(policy.close)
        robot = open_drive({"type": "twin", "address": twin}, stack, options=DriveOptions(state_dir=state))
        runtime, told, over_at = Runtime(robot, policy, RuntimeOptions(lead=max(delay, 1), timeout_s=2.0)), 0, time.monotonic()

        def stopped() -> bool:
            nonlocal told, over_at
            if say and len(runtime.summary.episodes) > told:
                told = len(runtime.summary.episodes)
                say(f"{told} of {episodes} episodes, {runtime.summary.successes} succeeded")
            if runtime.cause != "episode over":
                over_at = time.monotonic()
            return time.monotonic() - over_at > _OVER_S  # the runtime missed the end of an earlier one; the twin's records are complete

        summary = runtime.run(episodes=episodes, seconds=60.0 + 3 * episodes * limit / rate_hz, stopped=stopped)
    world = summary.drive.get("robot") or []
    return {
        "outcomes": [int(record["success"]) for record in world],
        "lengths": [record["length"] for record in world],
        "late_chunks": summary.late_chunks,
        "holds": dict(summary.holds),
        "on_time": summary.rate_held,
        "missed_ticks": summary.drive.get("missed_ticks", 0),
        "ticks": summary.drive.get("ticks", 0),
        "plan_ms": summary.latency.to_dict()["p50"],
        "episodes": [asdict(e) for e in summary.episodes],
        "ended": summary.ended,
        "load": os.getloadavg()[0],
    }
