"""A small world, small policies and the processes that serve them, for tests of the runtime.

``python tests/real/toy.py serve|twin ...`` is such a process; :class:`Process` starts one and waits until it is ready.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from policies.base import Execution, Plan, select_rows
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from sim.env import StepResult

ROOT = Path(__file__).resolve().parents[2]
STEP = 0.05  # m, how far the point moves in a step at most


def spec(rate_hz: float = 25.0) -> Spec:
    plane = {"unit": "m", "low": (-1, -1), "high": (1, 1), "names": ("x", "y")}
    observation = {"observation.state": Field((2,), **plane), "observation.environment_state": Field((2,), unit="m", kind="goal", names=("goal_x", "goal_y"))}
    return Spec(ObservationSpec(observation, rate_hz), ActionSpec({"action": Field((2,), kind="position", **plane)}, rate_hz))


class PointWorld:
    """N points that follow position commands at a limited speed towards a goal; implements sim.env.BatchEnv."""

    task, suite_version, autoreset = "point", "1", False

    def __init__(self, num_worlds: int = 1, rate_hz: float = 25.0, max_episode_steps: int = 60) -> None:
        self.spec, self.num_worlds, self.max_episode_steps = spec(rate_hz), num_worlds, max_episode_steps
        self.position, self.goal = np.zeros((num_worlds, 2)), np.zeros((num_worlds, 2))
        self.elapsed, self.done = np.zeros(num_worlds, int), np.zeros(num_worlds, bool)

    def reset(self, seeds, mask=None):
        for row in np.flatnonzero(np.ones(self.num_worlds, bool) if mask is None else mask):
            generator = np.random.default_rng(int(seeds[row]))
            self.position[row], self.goal[row] = generator.uniform(-0.9, 0.9, 2), generator.uniform(-0.9, 0.9, 2)
            self.elapsed[row], self.done[row] = 0, False
        return self.observe()

    def observe(self):
        return {"observation.state": self.position.astype(np.float32), "observation.environment_state": self.goal.astype(np.float32)}

    def step(self, action):
        moving = ~self.done
        towards = np.clip(action, -1, 1) - self.position
        distance = np.linalg.norm(towards, axis=1, keepdims=True)
        self.position[moving] += (towards * np.minimum(1, STEP / np.maximum(distance, 1e-9)))[moving]
        self.elapsed += moving
        near = np.linalg.norm(self.position - self.goal, axis=1) < STEP
        truncated = ~near & (self.elapsed >= self.max_episode_steps)
        self.done |= near | truncated
        obs = self.observe()
        return StepResult(obs, obs, near.astype(np.float32), near, truncated, {"success": near})

    def retire(self, mask):
        self.done |= mask

    def render(self, worlds=None):
        return None

    def close(self):
        pass


class ReachPolicy:
    """Numpy policy: walks to the goal; the noise key shifts every action a little, the state counts the calls."""

    n_obs_steps, horizon, n_action_steps = 2, 16, 8

    def __init__(self, delay_s: float = 0.0, rate_hz: float = 25.0, bad: str = "") -> None:
        self.spec, self.delay_s, self.bad, self.calls = spec(rate_hz), delay_s, bad, 0

    def initial_state(self, batch):
        return {"calls": np.zeros(batch, np.int64)}

    def reset(self, state, mask):
        return select_rows(state, mask, self.initial_state(len(mask)))

    def act(self, obs, state, noise, execution=Execution()):
        if self.delay_s:
            time.sleep(self.delay_s)
        self.calls += 1
        keys = np.asarray(getattr(noise, "keys", noise))
        position, goal = obs["observation.state"][:, -1], obs["observation.environment_state"][:, -1]
        towards = goal - position
        length = np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-6)
        reach = np.minimum(STEP * np.arange(1, self.n_action_steps + 1)[None, :] / length, 1)
        actions = position[:, None] + reach[..., None] * towards[:, None] + 1e-3 * np.sin(keys % 1000)[:, None, None]
        actions = actions.astype(np.float32)
        if self.bad == "raise":
            raise ValueError("this policy cannot plan")
        if self.bad == "nan" and self.calls % 2 == 0:
            actions[:, 3:] = np.nan
        if self.bad == "huge":
            actions *= 1e30
        if self.bad == "shape":
            actions = actions[:, :-1]
        info = {"network_calls": np.full(len(keys), 3.0), "call": state["calls"].astype(np.float64)}
        return Plan(actions, info), {"calls": state["calls"] + 1}


def torch_policy():
    """A torch policy with random weights, images and noise; the same in every process."""
    import torch

    class TorchPolicy(torch.nn.Module):
        n_obs_steps, horizon, n_action_steps = 2, 16, 8

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            fields = {"observation.state": Field((5,), unit="rad"), "observation.images.top": Field((24, 32, 3), "uint8", "px", kind="image")}
            self.spec = Spec(ObservationSpec(fields, 10), ActionSpec({"action": Field((3,), kind="velocity", low=(-1,) * 3, high=(1,) * 3)}, 10))
            self.net = torch.nn.Sequential(torch.nn.Linear(2 * 5 + 3 + 24 + 24, 64), torch.nn.Tanh(), torch.nn.Linear(64, 24))

        def initial_state(self, batch):
            return {"last": torch.zeros(batch, 24)}

        def reset(self, state, mask):
            return select_rows(state, mask, self.initial_state(len(mask)))

        def act(self, obs, state, noise, execution=Execution()):
            rows = len(obs["observation.state"])
            picture = obs["observation.images.top"][:, -1].float().mean((1, 2)) / 255
            x = torch.cat([obs["observation.state"].reshape(rows, -1), picture, noise.normal(24), state["last"]], 1)
            flat = torch.tanh(self.net(x))
            return Plan(flat.reshape(rows, 8, 3), {"network_calls": torch.ones(rows)}), {"last": flat}

    return TorchPolicy()


def policy(name: str, delay_s: float = 0.0, rate_hz: float = 25.0):
    return torch_policy() if name == "torch" else ReachPolicy(delay_s, rate_hz, "" if name == "reach" else name)


class Process:
    """A toy server or twin in a process of its own; a context manager that leaves nothing running."""

    def __init__(self, folder: Path, *arguments: object, bind: str = "tcp://127.0.0.1:0") -> None:
        number = len(list(folder.glob("*.out")))
        self.file, self.out = folder / f"{number}.address", folder / f"{number}.out"
        command = [sys.executable, __file__, *map(str, arguments), "--bind", bind, "--announce", str(self.file)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def address(self) -> str:
        until = time.monotonic() + 60
        while not self.file.exists():
            assert self.process.poll() is None and time.monotonic() < until, f"not ready: {self.out.read_text()}"
            time.sleep(0.01)
        return self.file.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


def main() -> None:
    from real.server import PolicyServer
    from robopolicy.processes import announce, stop_signals
    from robopolicy.twin.server import TwinServer
    from robopolicy.twin.world import World

    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("serve", "twin"))
    parser.add_argument("--bind", default="tcp://127.0.0.1:0")
    parser.add_argument("--announce")
    parser.add_argument("--policy", default="reach")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--idle", type=float, default=60.0)
    parser.add_argument("--lockstep", action="store_true")
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--seed0", type=int, default=0)
    parser.add_argument("--max-steps", type=int, default=60)
    parser.add_argument("--log")
    options = parser.parse_args()

    class LoggedWorld(World):
        """Writes every command that arrives: seconds, command or null for hold, episode, ended."""

        def write(self, command, now):
            if options.log:
                with Path(options.log).open("a") as file:
                    body = None if command is None else np.asarray(command).tolist()
                    file.write(json.dumps({"at": now, "command": body, "episode": self.record.index, "ended": self.ended}) + "\n")
            super().write(command, now)

    with stop_signals(with_parent=True) as stopped:
        if options.what == "serve":
            server = PolicyServer(policy(options.policy, options.delay, options.rate), options.bind, idle_s=options.idle, stats_s=0)
            server.warm_up(1) if options.policy in ("reach", "torch") else None
        else:
            world = LoggedWorld(PointWorld(1, options.rate, options.max_steps), options.seed0, options.episodes, options.lockstep)
            server = TwinServer(world, options.bind)
        announce(options.announce, server.address)
        server.serve(stopped)
        print("ended", flush=True)


if __name__ == "__main__":
    main()
