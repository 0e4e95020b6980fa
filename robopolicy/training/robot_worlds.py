"""Learning on a robot, or on its twin in exactly the same way: one world behind ``sim.env.BatchEnv`` that is a drive's handle.

Every action goes the way that a run's does: the level of the robot (``real.levels``: interpolation and safety filter), the drive, which
checks again, and only then the robot. Nothing here can command it otherwise. Success is what a reward classifier sees, or what a twin
says of itself; an episode of a robot begins with a slow way home, that of a twin with a new world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError, Spec
from real.drive_handle import DriveHandle
from real.levels import Command, make_level
from real.robot import RobotGone
from robopolicy.training.trial_worlds import Judge, classifier_judge, reward_of
from sim.env import Observation, StepResult

if TYPE_CHECKING:
    from robopolicy.recipe_trial import TrialRecipe

_HOME_SPEED, _HOME_S = 0.2, 30.0  # share of full speed of the way home, and how long it may take
_ARRIVED = 0.02  # rad or m from home


class RobotWorlds:
    """One robot as one world; ended episodes begin anew by themselves.

    Args:
        robot: Its drive.
        steps: Time limit, control steps of the policy.
        judge: Who says that the task is done, from what the robot sees; None: the robot says it (a twin).
        shown: Observation fields that the policy sees; None: all.
        timeout_s: Without a reading for so long the robot is gone.

    Attributes:
        interventions: Why commands were not what was asked for -> ticks, the safety filter's and the range's causes.
        ticks: Ticks of the drive so far, ``held`` of them without a command.

    Raises:
        InputError: if the robot's declarations do not fit together.
    """

    autoreset, num_worlds = True, 1

    def __init__(self, robot: DriveHandle, steps: int, judge: Judge | None = None, shown: Spec | None = None, timeout_s: float = 2.0) -> None:
        self.robot, self.max_episode_steps, self.judge, self._timeout_s = robot, steps, judge, timeout_s
        self.task, self.suite_version, self.spec = robot.info.name, "robot", shown or robot.spec
        self.level = make_level(robot.spec.observation, robot.spec.action, robot.info)
        self.interventions: Counter[str] = Counter()
        self.ticks = self.held = self._elapsed = self._episodes = self._successes = 0
        self._asked_to_hold, self._asked_speed = False, 1.0  # by an operator
        self._listen: Callable[[], None] = lambda: None
        self._closing = ExitStack()
        self._closing.callback(robot.close)
        self.reading = robot.read(timeout_s)

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        """Begin an episode: a twin's next one, or the robot's at home; it has no ``seeds`` (1,). Raises RobotGone."""
        if self._episodes or self.reading.ended:
            self._begin_again()
        self._episodes, self._elapsed = self._episodes + 1, 0
        self.level.start(self.reading)
        return self._shown(self._seen())

    def step(self, action: np.ndarray) -> StepResult:
        """Execute ``action`` (1, Da), robot units, for one control step: as many ticks of the drive as the robot says.

        Raises:
            RobotGone: if it does not answer, or was stopped.
        """
        wanted = np.asarray(action, np.float32)[0]
        if not self.robot.info.lockstep:  # time has passed while somebody learnt: the drive has braked, commands are for what it does now
            self.reading = self.robot.read(self._timeout_s)
        for _ in range(self.robot.info.substeps):
            self._tick(wanted)
            if self.reading.ended:
                break
        self._elapsed += 1
        next_obs = self._seen()
        success = np.array([self.reading.success])
        judged = success if self.judge is None else np.asarray(self.judge(next_obs), bool)
        truncated = ~judged & (self.reading.ended or self._elapsed >= self.max_episode_steps)
        self._successes += int(judged[0])
        shown = self._shown(next_obs)
        result = StepResult(shown, shown, judged.astype(np.float32), judged, truncated, {"success": success, "judged": judged})
        if judged[0] or truncated[0]:
            result.obs = self.reset(np.zeros(1, np.int64))
        return result

    def metrics(self) -> dict[str, float]:
        """Return the shares of the drive's ticks that the filter changed, and that had no command, so far."""
        ticks = max(self.ticks, 1)
        return {"filtered": self.interventions.total() / ticks, "held": self.held / ticks}

    def obey(self, wish: str, value: float) -> None:
        """Do what an operator asks for beside taking over: ``stop``, ``hold`` until ``resume``, ``speed`` (0 to 1), a ``deadman`` that is held."""
        if wish == "stop":
            self.robot.stop("operator")
        elif wish == "hold":
            self._asked_to_hold = True
            self.robot.hold()
        elif wish == "resume":
            self._asked_to_hold = False
            self.robot.resume()  # somebody may have held the drive itself
        elif wish == "speed":
            self._asked_speed = float(np.clip(value, 0.0, 1.0))
        elif wish == "deadman":
            self.robot.alive()

    def attend(self, listen: Callable[[], None]) -> None:
        """Call ``listen`` in every tick of the drive, also on the way home and while the robot is held: it says :meth:`obey`."""
        self._listen = listen

    def retire(self, mask: np.ndarray) -> None:
        """Refused: a robot never stays ended. Raises RuntimeError."""
        raise RuntimeError(f"robot {self.task!r}: retire() is for worlds without auto-reset")

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        """Return None: nobody films it."""
        return None

    def expert_action(self) -> np.ndarray:
        """Refused: a robot has no script (1, Da). Raises InputError."""
        raise InputError(f"robot {self.task!r} has no scripted expert; take over with training.takeover.source=operator")

    def close(self) -> None:
        """Hold the robot and let go of it; may be called twice."""
        self._closing.close()

    def keep(self, stack: ExitStack) -> RobotWorlds:
        """Close what is in ``stack`` with this, after the robot was let go of; returns this."""
        closing = stack.pop_all()
        closing.push(self._closing.pop_all())
        self._closing = closing
        return self

    def _tick(self, wanted: np.ndarray, speed: float = 1.0) -> None:
        """Let one tick pass: filter, send, read; ``wanted`` (Da,) is what the policy last asked for. While an operator holds the robot, wait."""
        self._listen()
        while self._is_held() and not self.reading.ended:
            self._require_running()
            self.level.drop()
            self._send(None)
            self.reading = self.robot.read(self._timeout_s)
            self._listen()
        self._require_running()
        command = self.level.step(wanted, self.reading, speed * self._asked_speed)
        self._send(command)
        self.reading = self.robot.read(self._timeout_s)

    def _is_held(self) -> bool:
        """Whether an operator wants no motion; where a robot cannot be slower than full speed, also by asking for less."""
        return self._asked_to_hold or self._asked_speed <= 0.0 or (self._asked_speed < 1.0 and not self.level.slows)

    def _require_running(self) -> None:
        if self.reading.drive_state == "stopped":
            raise RobotGone(f"robot {self.task!r} was stopped: {self.reading.cause}")

    def _send(self, command: Command | None) -> None:
        self.ticks += 1
        if command is None:
            self.held += 1
            self.robot.hold()
            return
        self.interventions.update(command.causes)
        self.robot.write(command.values, command.reference)

    def _begin_again(self) -> None:
        """Have a twin begin its next episode; bring a robot home, slowly. Raises RobotGone if it does not get there."""
        info = self.robot.info
        if info.lockstep or self.reading.ended:
            self.robot.reset()
            self.reading = self.robot.read(self._timeout_s)
            return
        if not info.home:
            return
        home = np.asarray(info.home, np.float32)
        self.level.start(self.reading)
        for _ in range(round(_HOME_S * info.rate_hz)):
            reference = self.reading.reference
            if reference is not None and np.abs(reference.position - home).max() < _ARRIVED:
                return
            self._tick(home, _HOME_SPEED)
        raise RobotGone(f"robot {self.task!r} did not come home within {_HOME_S:g} s")

    def _seen(self) -> Observation:
        return {name: np.array(value)[None] for name, value in self.reading.fields.items()}

    def _shown(self, obs: Mapping[str, np.ndarray]) -> Observation:
        return {name: obs[name] for name in self.spec.observation.fields}


def open_robot_worlds(recipe: TrialRecipe, options: Mapping[str, Any]) -> RobotWorlds:
    """Connect to the robot that ``recipe`` is to learn on.

    Args:
        recipe: Says the reward and the time limit; its observations are what the robot has.
        options: ``type`` is the driver, the rest its options; or ``drive``, the address of a drive that runs.

    Raises:
        InputError: one line: no robot, no limits of its actions, or a classifier of other cameras.
    """
    from robopolicy.deployment import open_drive

    reward, wanted = reward_of(recipe), dict(options)
    judge: Judge | None = None
    with ExitStack() as stack:
        handle = open_drive(wanted, stack, wanted.pop("drive", None))
        shown = handle.spec
        if reward.classifier is not None:
            judge, reads, _ = classifier_judge(reward.classifier, reward.threshold)
            missing = [name for name in reads.observation.fields if name not in shown.observation.fields]
            if missing:
                raise InputError(f"training.reward.classifier {reward.classifier}: reads {missing[0]!r}, robot {handle.info.name!r} has no such field")
            if "image" not in recipe.env.observations:
                shown = shown.subset([name for name in shown.observation.fields if name not in shown.observation.image_names])
        steps = recipe.env.max_episode_steps or 200
        return RobotWorlds(handle, steps, judge, shown).keep(stack)
    raise AssertionError("unreachable")
