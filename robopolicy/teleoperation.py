"""A person's session beside a run: what the key ``teleop`` means, and how device, jog, takeover and episodes are put together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import pydantic

from policies.config import Config
from policies.spec import InputError
from real.drive_handle import DriveHandle
from real.operator import OperatorChannel
from real.recorder import Recorder
from real.telemetry import Telemetry
from real.teleop import DEVICES, device_class
from real.teleop.episodes import Episodes
from real.teleop.jog import JogConfig, make_jog
from real.teleop.source import Source
from real.teleop.takeover import Takeover
from robopolicy.config import validate

if TYPE_CHECKING:
    from robopolicy.deployment import RunConfig

#: The policy of a robot that a person alone moves.
NOBODY = "none"


class TeleopConfig(Config):
    """Who moves the robot, and how.

    Attributes:
        type: The device (``real.teleop.DEVICES``); its own options stand beside.
        options: Those of the device.
        jog: How it moves the robot.
        start: What begins an episode: the first ``motion`` or the ``event`` start; None: motion in a twin, the event at a robot.
        resets: Whether the robot's world begins anew after an episode; None: if it is a twin.
        task: What is done, in words; also of what is recorded.
        keys: Whether keys of the terminal, where there is one, end episodes beside another device.
    """

    type: str
    options: dict[str, Any] = pydantic.Field(default_factory=dict)
    jog: JogConfig = JogConfig()
    start: Literal["motion", "event"] | None = None
    resets: bool | None = None
    task: str = ""
    keys: bool = True

    @staticmethod
    def long_form(argument: str) -> str:
        """Return the argument ``teleop=DEVICE`` as ``teleop.type=DEVICE``, beside which options can stand; others as they are."""
        key, _, value = argument.partition("=")
        return f"teleop.type={value}" if key == "teleop" and value not in ("", "null") and not value.startswith("{") else argument

    @classmethod
    def of(cls, value: Any) -> Any:
        """Return ``value`` with a bare device written out, and the device's options apart."""
        if isinstance(value, str):
            return {"type": value}
        if not isinstance(value, Mapping):
            return value
        own = {key: v for key, v in value.items() if key in cls.model_fields}
        rest = {key: v for key, v in value.items() if key not in cls.model_fields}
        return {**own, "options": {**own.get("options", {}), **rest}} if rest else own


def open_source(config: TeleopConfig, robot: DriveHandle) -> Source:
    """Open the device, for that robot.

    Raises:
        InputError: one line: no such device or option, nothing is connected, it cannot move this robot.
    """
    device: Any = device_class(config.type)
    source: Source = device(_options(config))
    try:
        if config.keys and config.type not in ("keyboard", "scripted") and sys.stdin.isatty():
            from real.teleop.keyboard import KeyboardSource
            from real.teleop.together import Together

            source = Together(source, KeyboardSource())
        source.attach(robot.spec, robot.info)
    except BaseException:
        source.close()
        raise
    return source


def open_session(
    config: RunConfig, robot: DriveHandle, stack: ExitStack, recorder: Recorder | None = None, watch: Telemetry | None = None,
    operator: OperatorChannel | None = None, say: Callable[[str], None] = lambda line: None,
) -> Episodes:  # fmt: skip
    """Return what stands beside the runtime for a person: operator, teleoperator (its ``takeover``) and recorder in one.

    Args:
        config: The run; its ``teleop`` is set.
        robot: Whose actions they choose.
        stack: Closes what was opened.
        recorder: Keeps the episodes; None: nothing is.
        watch: Of a run in real time, for devices that show it.
        operator: Of a run in real time, for devices that stop it by themselves.
        say: Told what a person should read.

    Raises:
        InputError: one line: no device, or it cannot move this robot.
    """
    teleop = config.teleop
    assert teleop is not None
    jog = make_jog(robot.spec, robot.info, teleop.jog)
    source = open_source(teleop, robot)
    stack.callback(source.close)
    join = getattr(source, "join", None)
    if join is not None and watch is not None and operator is not None:
        join(watch.address, operator.address, operator.token, str(robot.latch))
    for line in getattr(source, "notes", ()):
        say(line)
    twin = robot.info.name.startswith("twin of ") if teleop.resets is None else teleop.resets
    task = teleop.task or (config.record.task if config.record is not None else "")
    session = Episodes(
        Takeover(source, jog, config.policy != NOBODY), recorder, reset=robot.reset if twin else None,
        auto=twin if teleop.start is None else teleop.start == "motion", task=task, wanted=config.episodes, operator=operator, say=say,
    )  # fmt: skip
    stack.callback(session.close)
    return session


def counted(session: Episodes) -> dict[str, Any]:
    """Return what a session counted, JSON-ready."""
    return {**{name: session.counts[name] for name in ("success", "failure", "discard")}, **session.takeover.counts}


def _options(config: TeleopConfig) -> Config:
    """Return the options of the device. Raises InputError for a device or an option that there is not."""
    return validate(device_class(config.type).Config, config.options, f"device {config.type!r}", "teleop.")  # type: ignore[attr-defined]


def check(config: RunConfig) -> None:
    """Refuse what does not go together, before anything is opened. Raises InputError."""
    if config.teleop is not None:
        _options(config.teleop)
    if config.policy == NOBODY and config.teleop is None:
        raise InputError("policy=none: nobody moves the robot; name a policy, or a device with teleop=keyboard")
    if config.teleop is not None and config.shadow:
        raise InputError("teleop: a shadow run sends nothing, so nobody can move the robot; leave one of the two out")


def session_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of ``robopolicy run`` for those of ``robopolicy teleop``: words are the task, ``device`` and ``jog`` are keys of ``teleop``.

    Raises:
        InputError: if no device is named, or it is named twice.
    """
    words = [a for a in arguments if "=" not in a]
    out, devices = [], []
    for argument in (a for a in arguments if "=" in a):
        key, _, value = argument.partition("=")
        first, dot, rest = key.partition(".")
        if key in ("device", "teleop", "teleop.type"):
            devices.append(value)
        elif first == "device" and dot:
            out.append(f"teleop.{rest}={value}")
        elif first == "jog" and dot:
            out.append(f"teleop.jog.{rest}={value}")
        else:
            out.append(argument)
    if len(devices) != 1:
        found = "none" if not devices else " and ".join(devices)
        raise InputError(f"teleop: expected one device, e.g. device=keyboard ({', '.join(DEVICES)}), found {found}")
    if not any(a.startswith("policy=") for a in out):
        out.insert(0, f"policy={NOBODY}")
    task = [f"teleop.task={json.dumps(' '.join(words))}"] if words else []
    return [f"teleop.type={devices[0]}", *task, *out]
