"""Putting a policy to work: what a run is made of, and a server, a twin and a runtime closed into one loop.

Nothing here imports torch unless the policy runs in this process: ``robopolicy run`` works from the core install.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from policies.config import Config
from policies.hierarchy import WaypointPlanner
from policies.spec import InputError, Spec, suggest
from real.beside import StepRecorder
from real.calibration import require_same
from real.camera_robot import attach, own_options
from real.drive import Drive, DriveOptions
from real.drive_handle import DriveHandle
from real.drive_process import DriveProcess
from real.first_motion import preflight, require_passed
from real.planner import PlannerLevel
from real.policy import AsyncPolicy, trained_ranges
from real.robot import Robot
from real.robots import robot_class
from real.runtime import Runtime, RuntimeOptions
from real.summary import Summary
from real.teleop.takeover import IdlePolicy
from robopolicy.beside import counted_beside, watch_over
from robopolicy.config import apply_overrides, find_recipe, read_yaml, validate
from robopolicy.deployed_policy import open_policy, require_there
from robopolicy.json_output import emit_json
from robopolicy.processes import Background
from robopolicy.recording import RecordConfig, open_recorder
from robopolicy.teleoperation import NOBODY, TeleopConfig, check, counted, open_session

DEFAULT = "runtime/default"
_LONGEST_IPC = 100  # bytes of an address: Unix sockets have 107 for the path


class RunConfig(Config):
    """One run of the control runtime; see ``configs/runtime/default.yaml`` for what the keys mean."""

    robot: dict[str, Any]
    policy: str
    keys: str | None = None
    method: str | None = None
    drive: str | None = None
    drive_options: DriveOptions = DriveOptions()
    preflight: bool = True
    calibration_check: Literal["refuse", "warn"] = "refuse"
    shadow: bool = False
    speed: float = pydantic.Field(1.0, gt=0, le=1)
    approach: pydantic.PositiveFloat = 0.2
    approach_speed: float = pydantic.Field(0.2, gt=0, le=1)
    frozen_after: pydantic.PositiveFloat | None = 0.05
    planner: dict[str, Any] | None = None
    telemetry: str = "tcp://127.0.0.1:0"
    blackbox: str | None = None
    record: Annotated[RecordConfig | None, pydantic.BeforeValidator(RecordConfig.of)] = None
    teleop: Annotated[TeleopConfig | None, pydantic.BeforeValidator(TeleopConfig.of)] = None
    slow_on: dict[str, tuple[float, float]] = pydantic.Field(default_factory=dict)
    seconds: pydantic.PositiveFloat | None = None
    episodes: pydantic.PositiveInt | None = None
    json_file: str | None = pydantic.Field(None, alias="json")
    timeout_s: pydantic.PositiveFloat = 0.5
    lockstep_timeout_s: pydantic.PositiveFloat = 30.0
    max_age_s: pydantic.PositiveFloat = 0.5
    lead: pydantic.NonNegativeInt | None = None
    quantile: float = pydantic.Field(0.95, gt=0, le=1)
    noise_seed: int = 0
    threads: pydantic.PositiveInt = 1

    @pydantic.model_validator(mode="after")
    def _servers_have_their_own(self) -> RunConfig:
        if self.method is not None and "://" in self.policy:
            raise ValueError(f"method {self.method}: {self.policy} is a server, which executes its policy itself; give it to robopolicy serve --method")
        return self

    @pydantic.model_validator(mode="after")
    def _running_drives_have_their_own(self) -> RunConfig:
        given = sorted(self.drive_options.model_fields_set - {"state_dir"})
        if self.drive is not None and given:
            raise ValueError(f"drive_options.{given[0]}: {self.drive} runs already with options of its own; give it to robopolicy drive")
        return self

    @pydantic.field_validator("slow_on")
    @classmethod
    def _bounds_rise(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (full, none) in value.items():
            if not full < none:
                raise ValueError(f"slow_on.{name}: expected [full speed up to, hold from], rising, found [{full:g}, {none:g}]")
        return value

    @property
    def options(self) -> RuntimeOptions:
        """What of it the runtime itself takes."""
        return RuntimeOptions(**{f.name: getattr(self, f.name) for f in fields(RuntimeOptions) if hasattr(self, f.name)})


class WaypointsConfig(Config):
    """Goals in their order; see ``policies.hierarchy.WaypointPlanner``.

    Attributes:
        field: Observed field with what is brought to the goals, at ``indices`` of it.
        goals: The goals; None: they are read from ``goals_field``, ``count`` of them.
        reach: Distance at which a goal counts as reached.
        rate_hz: How often the planner is asked.
    """

    field: str
    indices: list[pydantic.NonNegativeInt]
    reach: pydantic.PositiveFloat
    goals: list[list[float]] | None = None
    goals_field: str = "observation.goals"
    count: pydantic.NonNegativeInt = 0
    rate_hz: pydantic.PositiveFloat = 1.0


def load_run_config(arguments: Sequence[str]) -> RunConfig:
    """Read ``[RECIPE] key=value ...``; the recipe is ``runtime/default`` unless named. Raises InputError."""
    named = [a for a in arguments if "=" not in a]
    if len(named) > 1:
        raise InputError(f"run takes one recipe and key=value, found {named[0]!r} and {named[1]!r}")
    path = find_recipe(named[0] if named else DEFAULT)
    return validate(RunConfig, apply_overrides(read_yaml(path), [TeleopConfig.long_form(RecordConfig.long_form(a)) for a in arguments if "=" in a]), str(path))


def open_robot(robot: dict[str, Any]) -> Robot:
    """Connect to the robot of a run: ``type`` is the driver, the rest its options and ``cameras`` beside it. Raises InputError."""
    kind = robot.get("type")
    if not isinstance(kind, str):
        raise InputError("robot: expected a type, e.g. robot=twin (see: robopolicy list robots)")
    driver: Any = robot_class(kind)
    return attach(driver(validate(driver.Config, own_options(robot), f"robot {kind!r}", "robot.")), robot)


def open_drive(robot: dict[str, Any], stack: ExitStack, address: str | None = None, options: DriveOptions = DriveOptions()) -> DriveHandle:
    """Return the handle of a robot's drive; what was opened for it is let go of by ``stack``.

    A world in lock-step is driven in this process, every other robot by a drive process of its own, which brakes, holds and
    requests the robot's stop when this process ends or dies.

    Args:
        robot: ``type`` is the driver, the rest its options.
        stack: Closes what was opened.
        address: Of a drive that runs already; None: one is started.
        options: Of the drive that is started.

    Raises:
        InputError: one line: no robot, no drive, another source commands it.
    """
    if address is not None:
        return stack.enter_context(DriveHandle(address))
    driver = open_robot(robot)
    if driver.info.lockstep:
        return stack.enter_context(DriveHandle(Drive(driver, options)))
    driver.close()  # the drive process connects anew, and alone
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robopolicy-", ignore_cleanup_errors=True)))
    room = f"ipc://{folder}/drive"  # of a folder that is this user's alone: nobody else on the machine can be its source
    bind = room if len(room) < _LONGEST_IPC else "tcp://127.0.0.1:0"
    process = stack.enter_context(DriveProcess(robot, folder, options, bind, linger_s=15.0))
    return stack.enter_context(DriveHandle(process.address()))


def open_planner(planner: dict[str, Any], robot: DriveHandle, policy: Spec) -> PlannerLevel:
    """Return the planner of a run: ``type: waypoints`` and its options (``robopolicy.deployment.WaypointsConfig``).

    Raises:
        InputError: for an unknown type, or goals that do not fit robot and policy.
    """
    kind = planner.get("type")
    if kind != "waypoints":
        raise InputError(f"planner.type: {kind!r} is unknown{suggest(str(kind), ['waypoints'])}")
    config = validate(WaypointsConfig, {k: v for k, v in planner.items() if k != "type"}, "planner 'waypoints'", "planner.")
    goals = None if config.goals is None else np.array(config.goals, np.float64)
    return PlannerLevel(
        WaypointPlanner(
            robot.spec.observation, (config.field, tuple(config.indices)), config.reach, goals,
            goals_field=config.goals_field, count=config.count, rate_hz=config.rate_hz,
        ),
        policy,
        lockstep_hz=robot.info.rate_hz if robot.info.lockstep else None,
    )  # fmt: skip


def _open_policy(config: RunConfig) -> AsyncPolicy:
    return open_policy(config.policy, config.threads, config.method, config.keys)


def _robot_takes_spec(config: RunConfig) -> bool:
    """Whether the driver brings its robot together with a spec, and none was named: then it is given the policy's."""
    kind = config.robot.get("type")
    if config.drive is not None or config.policy == NOBODY or not isinstance(kind, str) or config.robot.get("spec") is not None:
        return False
    driver: Any = robot_class(kind)
    return "spec" in driver.Config.model_fields


def run(
    config: RunConfig, stopped: Callable[[], bool] = lambda: False, watch: Callable[[Any], Any] | None = None,
    say: Callable[[str], None] = lambda line: None, acting: AsyncPolicy | None = None, steps: StepRecorder | None = None,
) -> Summary:  # fmt: skip
    """Run the control runtime as ``config`` says; robot and policy are let go of whatever happens.

    Args:
        config: The run; its ``policy`` is ``none`` where a person alone moves the robot.
        stopped: Asked before every tick.
        watch: Called with the runtime (a person's session, if there is one) before it starts; a context manager that it returns is open while it runs.
        say: Told what the pre-flight found, line by line.
        acting: The policy, in the place of the one that ``config`` names.
        steps: Given every reading and executed step, where nothing is recorded.

    Raises:
        InputError: one line, before anything moves: no robot, no policy, or they do not fit.
    """
    check(config)
    with ExitStack() as stack:
        if config.shadow and config.drive is not None:
            raise InputError(f"shadow: the drive at {config.drive} sends what it is told; leave drive= out, then one is started that only reads")
        if acting is None:
            require_there(config.policy)  # before a robot is waited for
        fits = _robot_takes_spec(config)
        policy = acting or (_open_policy(config) if fits else None)
        if policy is not None:
            stack.callback(policy.close)
        options = config.drive_options.model_copy(update={"watch": config.shadow or config.drive_options.watch})
        robot = open_drive({**config.robot, **({"spec": policy.spec.to_dict()} if policy and fits else {})}, stack, config.drive, options)
        if config.shadow and robot.info.lockstep:
            raise InputError(f"shadow: robot {robot.info.name!r} is in lock-step, its time passes by commands alone; run it in real time")
        if policy is None:
            policy = IdlePolicy(robot.spec) if config.policy == NOBODY else _open_policy(config)
            stack.callback(policy.close)
        require_same(policy.spec, robot.spec, config.calibration_check == "warn", say)
        if robot.info.lockstep and (config.blackbox is not None or config.drive_options.deadman_s is not None):
            asked = "blackbox" if config.blackbox is not None else "drive_options.deadman_s"
            raise InputError(f"{asked}: robot {robot.info.name!r} is in lock-step, which has no clock and nobody beside it; leave it out, or run in real time")
        watcher, operator, box = (None, None, None) if robot.info.lockstep else watch_over(robot, config, stack, say)
        planner = None if config.planner is None else stack.enter_context(closing(open_planner(config.planner, robot, policy.spec)))
        recorder = None if config.record is None else open_recorder(config.record, robot, stack, say, manual=config.teleop is not None, policy=config.policy)
        session = None if config.teleop is None else open_session(config, robot, stack, recorder, watcher, operator, say)
        runtime = Runtime(
            robot, policy, config.options, watcher=watcher, operator=session or operator, planner=planner,
            teleoperator=session and session.takeover, recorder=session or recorder or steps,
        )  # fmt: skip
        if session is not None:
            session.runtime = runtime
        if config.preflight:
            seen = policy.spec.subset([name for name in policy.spec.observation.fields if planner is None or name != planner.field])
            findings = preflight(robot, seen, trained_ranges(policy), max_age_s=config.max_age_s)
            for finding in findings:
                say(f"pre-flight: {finding.what}: {finding.line}")
            require_passed(findings)
        if watch is not None:
            stack.enter_context(watch(session or runtime))
        gc.freeze()  # what exists now lives on: collections during the run need not walk it
        stack.callback(gc.unfreeze)

        def ended() -> bool:
            if box is not None:
                box.look()
            return stopped() or (session is not None and session.turn())

        summary = runtime.run(seconds=config.seconds, episodes=config.episodes if session is None else None, stopped=ended)
        if session is not None:
            session.close()
        if recorder is not None:
            recorder.close()  # what is counted is all of it
        summary.beside = {**counted_beside(watcher, operator, planner, box, recorder), **({"teleop": counted(session)} if session else {})}
    if config.json_file:
        emit_json(summary.to_dict(), Path(config.json_file))
    return summary


def drive(
    checkpoint: str | Path,
    task: str,
    episodes: int = 10,
    seed0: int = 0,
    *,
    lockstep: bool = False,
    speed: float = 1.0,
    noise_seed: int = 0,
    threads: int = 1,
    env: dict[str, Any] | None = None,
    max_episode_steps: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Serve ``checkpoint``, simulate ``task`` as a robot, each in its own process, and close the loop between them.

    Args:
        checkpoint: Folder of the policy, or of a training run (its last checkpoint).
        task: Registered name.
        episodes: How many, with seeds ``seed0``, ``seed0 + 1``, ...
        seed0: Seed of the first episode.
        lockstep: Whether the world waits for the policy; success then equals an evaluation's at batch 1.
        speed: Real time: how many times faster than the task's rate.
        noise_seed: Seed of the policy's noise.
        threads: Torch threads of the server.
        env: Options of ``sim.registry.make``; None: those of the checkpoint's recipe.
        max_episode_steps: Time limit, if not the one of ``env``.
        progress: Whether to draw the state and the counts while it runs, where there is a terminal.

    Returns:
        ``Summary.to_dict`` and ``world``: the twin's own records of the episodes.

    Raises:
        InputError: if the checkpoint, the task or their fit is wrong.
    """
    from policies.checkpoint import read_manifest
    from robopolicy.training.run_folder import find_checkpoint

    checkpoint = find_checkpoint(checkpoint)
    env = dict(read_manifest(checkpoint)["recipe"].get("env") or {} if env is None else env)
    env["max_episode_steps"] = max_episode_steps or env.get("max_episode_steps")
    world = ["twin", task, "--episodes", str(episodes), "--seed0", str(seed0), "--speed", str(speed)]
    world += ["--lockstep"] if lockstep else []
    for key, option in (("observations", "--observations"), ("image_size", "--image-size"), ("max_episode_steps", "--max-steps"), ("engine", "--engine")):
        world += [option, str(env[key])] if env.get(key) is not None else []
    with tempfile.TemporaryDirectory(prefix="robopolicy-") as name:
        folder = Path(name)
        with ExitStack() as stack:
            server = stack.enter_context(Background(["serve", str(checkpoint), "--threads", str(threads)], folder, "serve"))
            twin = stack.enter_context(Background(world, folder, "twin"))
            address = twin.address()
            policy = open_policy(server.address())
            stack.callback(policy.close)
            robot = open_drive({"type": "twin", "address": address}, stack)
            runtime = Runtime(robot, policy, RuntimeOptions(noise_seed=noise_seed))
            if progress:
                from robopolicy.commands.run import status

                stack.enter_context(status(runtime))
            summary = runtime.run(episodes=episodes)
            if summary.ended != f"{episodes} episodes done":
                raise InputError(f"the run ended early: {summary.ended}")
            return {**summary.to_dict(), "world": summary.drive["robot"]}
