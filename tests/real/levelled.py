"""A policy over numpy, an operator with a plan, and a runtime closed over a robot of joints, for tests of the levels."""

import numpy as np

from policies.base import Execution, Plan
from real.drive import Drive, DriveOptions
from real.drive_handle import DriveHandle
from real.latch import Latch
from real.operator import Request
from real.policy import LocalPolicy
from real.runtime import Runtime, RuntimeOptions
from tests.real.jointed import Joints, spec


class Sweep:
    """A policy over numpy that moves all joints from where they are towards ``goal`` at ``speed`` rad/s, 16 actions a plan."""

    n_obs_steps, horizon, n_action_steps = 2, 16, 16

    def __init__(self, goal=(0.6, -0.5, 0.4), speed=1.0, first_offset=0.0, doubt=0.0):
        self.spec, self.goal, self.speed = spec(), np.array(goal), speed
        self.first_offset, self.doubt, self.seen = first_offset, doubt, []

    def initial_state(self, batch):
        return {}

    def reset(self, state, mask):
        return state

    def act(self, obs, state, noise, execution=Execution()):
        at = obs["observation.state"][0, -1].astype(np.float64)
        self.seen.append(obs["observation.state"][0].copy())
        way = np.clip(self.goal - at, -1, 1)
        steps = np.arange(1, 17)[:, None] * self.speed / 20
        actions = at + np.sign(way) * np.minimum(np.abs(way), steps) + self.first_offset
        return Plan(actions[None].astype(np.float32), {"network_calls": np.ones(1), "energy": np.array([self.doubt])}), state


class Wishes:
    """An operator who wants things at given ticks."""

    speed = 1.0

    def __init__(self, **at):
        self.at, self.polls = at, 0

    def poll(self):
        self.polls += 1
        due = {kind: when if isinstance(when, tuple) else (when, 0.0) for kind, when in self.at.items()}
        return [Request(kind, value) for kind, (tick, value) in due.items() if tick == self.polls]


LOCAL = []


def local(policy, *clock):
    LOCAL.append(LocalPolicy(policy, *clock))
    return LOCAL[-1]


def closed(tmp_path, policy, options=RuntimeOptions(), robot=None, **parts):
    robot = robot or Joints(lockstep=True)
    handle = DriveHandle(Drive(robot, DriveOptions(), Latch(tmp_path)))
    return Runtime(handle, local(policy), options, **parts), robot


def go(runtime, ticks):
    if runtime.state == "idle":
        runtime.states.enter("hold", "starting")
    for _ in range(ticks):
        runtime.tick()
    return runtime
