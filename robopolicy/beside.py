"""Who stands beside the loop of a run: telemetry, the operator's channel, the black box; what they counted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real import blackbox
from real.drive_handle import DriveHandle
from real.latch import state_folder
from real.operator import OperatorChannel
from real.planner import PlannerLevel
from real.recorder import Recorder
from real.telemetry import Telemetry
from robopolicy.processes import end

if TYPE_CHECKING:
    from robopolicy.deployment import RunConfig


def watch_over(robot: DriveHandle, config: RunConfig, stack: ExitStack, say: Callable[[str], None]) -> tuple[Telemetry, OperatorChannel, blackbox.Watch | None]:
    """Return what a run in real time is watched, stopped and recorded by; the recorder is started if a black box is asked for.

    Raises:
        InputError: for an address or a folder that cannot be used.
    """
    info = robot.info
    telemetry = Telemetry(config.telemetry, image_rate_hz=10.0 if config.teleop is None else 30.0)
    stack.callback(telemetry.close)
    limits = {} if info.motion is None else {"joints": list(info.motion.names), "limits": info.motion.to_dict()}
    telemetry.info(robot=info.name, rate_hz=info.rate_hz, model=info.model, policy=config.policy, latch=str(robot.latch), **limits)
    operator = OperatorChannel(folder=state_folder(config.drive_options.state_dir), telemetry=telemetry.address, latch=str(robot.latch))
    stack.callback(operator.close)
    if config.blackbox is None:
        return telemetry, operator, None
    recorder = blackbox.start(telemetry.address, Path(config.blackbox))
    stack.callback(end, recorder)
    blackbox.await_start(recorder, telemetry)
    return telemetry, operator, blackbox.Watch(recorder, say)


def counted_beside(
    telemetry: Telemetry | None, operator: OperatorChannel | None, planner: PlannerLevel | None, box: blackbox.Watch | None, recorder: Recorder | None = None
) -> dict[str, dict[str, Any]]:
    """Return what is counted by the parts beside the loop, JSON-ready."""
    out: dict[str, dict[str, Any]] = {}
    if telemetry is not None:
        out["telemetry"] = {"dropped": telemetry.dropped, "refused": telemetry.refused}
    if operator is not None:
        out["operator"] = {"refused": dict(operator.refused)}
    if box is not None:
        out["recorder"] = {"ended_early": box.ended}
    if recorder is not None:
        out["recording"] = recorder.status().to_dict()
    if planner is not None:
        out["planner"] = {**planner.counts, "error": planner.error}
    return out
