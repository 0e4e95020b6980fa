"""Recording a run into a data set: what the key ``record`` of a run means, and how its recorder is opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

import pydantic

from policies.config import Config
from policies.spec import InputError, Spec, suggest
from real.child import environment, module_command
from real.drive_handle import DriveHandle
from real.record_ring import RecordRing, RingSize
from real.recorder import Recorder
from robopolicy.data.recording import RecordingOptions
from robopolicy.data.recording_process import ProcessOptions
from robopolicy.data.recording_streams import SYNCHRONISATIONS

_SAME_RATE = 1e-3


class RecordConfig(Config):
    """What a run is recorded into, and how.

    Attributes:
        path: Data set; made, or continued if its fields are the same.
        task: What is done, in words.
        fps: Rows a second; None: one for every policy step.
        encoder: Video encoder (``robopolicy.data.video.ENCODERS``); None: the first installed, H.264.
        codec: Its options, e.g. {crf: 23, preset: veryfast, g: 2}.
        fields: Observation fields to record; None: all of the robot's.
        lead: Camera whose images say when a row is due, where ``fps`` is less than the policy's rate; None: the first.
        sync: Sample of a stream for a row: ``before`` (newest captured by then) or ``nearest``.
        wait_s: Nearest: how long a row waits for samples later than itself.
        buffer_mb: Memory for images between run and recorder, MB.
        nice: Added to the priority number of the recorder's process: the control loop goes first.
    """

    path: str
    task: str = ""
    fps: pydantic.PositiveFloat | None = None
    encoder: str | None = None
    codec: dict[str, str | int] = pydantic.Field(default_factory=dict)
    fields: list[str] | None = None
    lead: str | None = None
    sync: str = pydantic.Field(default="before", pattern=f"^({'|'.join(SYNCHRONISATIONS)})$")
    wait_s: float = pydantic.Field(default=0.1, ge=0, le=5)
    buffer_mb: pydantic.PositiveFloat = 256.0
    nice: int = pydantic.Field(default=5, ge=0, le=19)

    @staticmethod
    def long_form(argument: str) -> str:
        """Return the argument ``record=PATH`` as ``record.path=PATH``, beside which ``record.task=...`` can stand; others as they are."""
        key, _, value = argument.partition("=")
        return f"record.path={value}" if key == "record" and value not in ("", "null") and not value.startswith("{") else argument

    @classmethod
    def of(cls, value: Any) -> Any:
        """Return ``value`` with a bare path written out."""
        return {"path": value} if isinstance(value, str) else value


def recorded_spec(config: RecordConfig, robot: Spec) -> tuple[Spec, float]:
    """Return what is recorded of a robot, and the interval between rows, s; 0: every policy step makes one.

    Raises:
        InputError: for a field that the robot does not have, or a rate that it cannot be recorded at.
    """
    spec = robot if config.fields is None else robot.subset(config.fields)
    rate = robot.action.rate_hz
    if config.fps is None or abs(config.fps / rate - 1) < _SAME_RATE:
        return spec, 0.0
    if config.fps > rate:
        raise InputError(f"record.fps {config.fps:g}: the policy acts {rate:g} times a second, and every row needs an action of its own")
    increments = [name for name, f in robot.action.fields.items() if f.kind == "delta"]
    if increments:
        raise InputError(f"record.fps {config.fps:g}: {increments[0]} is an increment {rate:g} times a second, none of which may be left out: leave fps out")
    slower = Spec(replace(spec.observation, rate_hz=config.fps), replace(spec.action, rate_hz=config.fps), spec.meta)
    return slower, 1 / config.fps


def open_recorder(
    config: RecordConfig, robot: DriveHandle, stack: ExitStack, say: Callable[[str], None] = print, manual: bool = False, policy: str = "",
    prefix: Sequence[str] = (),
) -> Recorder:  # fmt: skip
    """Start the recorder of a run; ``stack`` ends it, which waits until everything is on the disk.

    Args:
        config: See :class:`RecordConfig`.
        robot: What is recorded.
        stack: Closes what was opened.
        say: Told what a person should know.
        manual: Whether a person begins and ends episodes.
        policy: Name of what acts, kept with the data.
        prefix: Command that starts the process, e.g. with limits of its own; ends with what it is to execute.

    Raises:
        InputError: one line, before anything moves: the folder holds something else, another process writes into it, an
            encoder that is not there, too little memory.
    """
    spec, interval_s = recorded_spec(config, robot.spec)
    cameras, info = spec.observation.image_names, robot.info
    if config.lead is not None and config.lead not in spec.observation.fields:
        raise InputError(f"record.lead: {config.lead!r} is not recorded{suggest(config.lead, spec.observation.fields)}")
    lead = config.lead or (cameras[0] if cameras else "")
    drawn = info.name.startswith("twin of ")  # its episodes are named by their seeds, and it knows of success
    speed = info.rate_hz / info.substeps / robot.spec.action.rate_hz  # a twin may run faster than its task's clock
    size = RingSize.of(spec, info.rate_hz, config.buffer_mb)
    provenance: dict[str, Any] = {"recorded": {"robot": info.name, "rate_hz": info.rate_hz, "policy": policy, "sync": config.sync}}
    options = ProcessOptions(
        config.path, spec.to_dict(), size.messages, size.planes, spec.action.rate_hz, info.name, config.task or info.name.removeprefix("twin of "),
        config.encoder, dict(config.codec), config.nice, asdict(RecordingOptions(config.sync, config.wait_s, interval_s / speed, lead, drawn)), provenance,
    )  # fmt: skip
    ring = RecordRing.create(spec, size)
    try:
        recorder = Recorder(
            ring, [*prefix, *module_command("robopolicy.data.recording_process"), options.to_json()],
            manual=manual, tells_success=drawn, lockstep=info.lockstep, environment=environment(), say=say,
        )  # fmt: skip
    except BaseException:
        ring.close()
        raise
    stack.callback(recorder.close)
    recorder.await_ready()
    return recorder
