"""A twin in this process, a program in the place of a person, and the runtime between them: closed loops for tests of teleoperation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policies.base import Plan
from policies.spec import Spec
from real.drive import Drive, DriveOptions
from real.drive_handle import DriveHandle
from real.latch import Latch
from real.policy import LocalPolicy
from real.robot import Observation, RobotInfo
from real.runtime import Runtime, RuntimeOptions
from real.teleop.episodes import Episodes
from real.teleop.jog import JogConfig, make_jog
from real.teleop.scripted import ScriptedConfig, ScriptedSource
from real.teleop.source import Input
from real.teleop.takeover import IdlePolicy, Takeover
from robopolicy.twin.world import World
from sim import registry


class WorldRobot:
    """The world of a twin as a robot in lock-step, without a network."""

    def __init__(self, world: World) -> None:
        self.world, self.spec, joints = world, world.env.spec, world.joints
        declared = (
            {}
            if joints is None
            else {"substeps": world.substeps, "motion": joints.motion, "model": joints.robot_model, "home": joints.home, "barriers": joints.barriers}
        )
        self.info = RobotInfo(f"twin of {world.env.task}", world.rate_hz, "holds", 0.25, lockstep=True, **declared)
        self.sent: list[np.ndarray] = []

    def read(self) -> Observation:
        world = self.world
        world.delivered |= world.ended
        fields = {n: a.copy() for n, a in world.observation.items()}
        return Observation(fields, dict.fromkeys(fields, 0), world.record.seed, world.ended, world.record.success)

    def write(self, command: np.ndarray) -> None:
        self.sent.append(np.array(command))
        self.world.write(command, 0.0)

    def hold(self) -> None:
        self.world.write(None, 0.0)

    def stop(self) -> None:
        self.world.write(None, 0.0)

    def reset(self) -> None:
        self.world.ended = self.world.delivered = True
        self.world.write(None, 0.0)

    def close(self) -> None:
        self.world.env.close()


class Kept:
    """A recorder in memory: finished episodes, each a list of (fields, action, taken), and what became of it."""

    def __init__(self) -> None:
        self.steps, self.episodes, self.words = [], [], []

    def begin(self, task: str | None = None) -> None:
        assert not self.steps, "an episode is open"
        self.words.append("begin")

    def step(self, reading: Observation, action: np.ndarray, taken: bool) -> None:
        assert self.words[-1] == "begin", "no episode is open"
        self.steps.append((reading, action.copy(), taken))

    def reading(self, reading: Observation) -> None:
        pass

    def ended(self, reading: Observation) -> None:
        pass

    def save(self, success: bool | None = None) -> None:
        self.words.append("success" if success else "failure")
        self.episodes.append(self.steps)
        self.steps = []

    def discard(self) -> None:
        self.words.append("discard")
        self.steps = []


class Acting:
    """The loop of one twin; ``tick(value)`` has the person do ``value`` from now on and lets one tick pass."""

    def __init__(self, folder: Path, task: str, policy=None, wanted: int | None = None, jog: JogConfig | None = None, stale_s: float = 0.3, **options) -> None:
        self.world = World(registry.make(task, 1, **options), lockstep=True)
        self.driver = WorldRobot(self.world)
        self.robot = DriveHandle(Drive(self.driver, DriveOptions(), Latch(folder)))
        self.now, self.kept = 0.0, Kept()
        clock = lambda: self.now  # noqa: E731
        self.source = ScriptedSource(ScriptedConfig(stale_s=stale_s), clock)
        self.source.attach(self.driver.spec, self.driver.info)
        self.jog = make_jog(self.driver.spec, self.driver.info, jog or JogConfig(dead_zone=0.0, expo=0.0))
        self.hand = Takeover(self.source, self.jog, policy is not None, clock)
        self.episodes = Episodes(self.hand, self.kept, reset=self.robot.reset, wanted=wanted, clock=clock)
        self.policy = IdlePolicy(self.driver.spec) if policy is None else LocalPolicy(policy)
        self.runtime = Runtime(self.robot, self.policy, RuntimeOptions(), operator=self.episodes, teleoperator=self.hand, recorder=self.episodes)
        self.episodes.runtime = self.runtime
        self.runtime.states.enter("hold", "starting")

    @property
    def seen(self) -> dict[str, np.ndarray]:
        """What the person sees."""
        return self.world.observation

    def tick(self, value: Input | None = None) -> bool:
        """Return whether the session is over."""
        if value is not None:
            self.source.say(value)
        self.runtime.tick()
        self.now += 1 / self.driver.info.rate_hz
        return self.episodes.turn()

    def close(self) -> None:
        self.policy.close()
        self.robot.close()


class AwayPolicy:
    """Turns the arm's base away, whatever it sees: a policy that is bad at everything."""

    n_obs_steps, horizon, n_action_steps = 1, 4, 4

    def __init__(self, spec: Spec, step: float = 0.04) -> None:
        self.spec, self.step = spec, step

    def initial_state(self, batch: int):
        return {}

    def reset(self, state, mask):
        return state

    def act(self, obs, state, noise, execution=None):
        now = np.asarray(obs["observation.state"])[:, -1, :7]
        ahead = np.zeros((len(now), self.horizon, 7), np.float32)
        ahead[:, :, 0] = self.step * np.arange(1, self.horizon + 1)
        return Plan(now[:, None] + ahead, {}), state


def towards(target: np.ndarray, at: np.ndarray, gain: float = 4.0) -> np.ndarray:
    """Return the twist (6,) of a person who pushes towards ``target`` (k,) from ``at`` (k,)."""
    out = np.zeros(6)
    out[: len(target)] = np.clip(gain * (np.asarray(target, np.float64) - at), -1, 1)
    return out
