"""``robopolicy teleop`` and the key ``teleop`` of a run: arguments, one clear line for a mistake, and everything put together."""

from __future__ import annotations

import json
import threading

import pytest

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.deployment import load_run_config, run
from robopolicy.teleoperation import TeleopConfig, session_arguments
from robopolicy.twin.server import TwinServer
from robopolicy.twin.world import World
from sim import registry


def test_words_are_the_task_and_device_and_jog_are_keys_of_the_session():
    given = ["push", "the", "T", "device=page", "device.port=0", "jog.linear=0.1", "robot.address=tcp://127.0.0.1:1", "record=data/x", "record.fps=10"]
    config = load_run_config(session_arguments(given))
    assert config.teleop is not None and config.record is not None
    assert (config.teleop.type, config.teleop.options, config.teleop.task, config.policy) == ("page", {"port": 0}, "push the T", "none")
    assert config.teleop.jog.linear == 0.1 and config.record.path == "data/x" and config.robot["address"] == "tcp://127.0.0.1:1"
    assert load_run_config(session_arguments(["device=keyboard", "policy=runs/x"])).policy == "runs/x"
    short = load_run_config(["teleop=gamepad", "teleop.dial=0.3", "policy=none"]).teleop
    assert short == TeleopConfig(type="gamepad", options={"dial": 0.3})
    assert load_run_config(["policy=runs/x"]).teleop is None


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["teleop"], "expected one device, e.g. device=keyboard"),
        (["teleop", "device=keyboard", "device=page"], "found keyboard and page"),
        (["teleop", "--twin", "arm/reach", "device=gamepd"], "did you mean 'gamepad'"),
        (["teleop", "--twin", "arm/reach", "device=gamepad", "device.dail=1"], "unknown key 'teleop.dail'; did you mean 'dial'"),
        (["teleop", "--twin", "arm/rech", "device=gamepad"], "did you mean 'arm/reach'"),
        (["teleop", "device=gamepad", "jog.liner=1"], "did you mean 'linear'"),
        (["run", "policy=none"], "policy=none: nobody moves the robot"),
        (["run", "teleop=keyboard", "shadow=true"], "a shadow run sends nothing"),
    ],
)
def test_mistakes_get_one_line(capsys, monkeypatch, arguments, said):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert main(arguments) == 2
    out = capsys.readouterr().err.strip()
    assert said in out and "Traceback" not in out


def test_a_device_without_its_hardware_is_refused_before_anything_moves():
    """Standard input of the tests is no terminal."""
    world = World(registry.make("two-route", 1), lockstep=True)
    with _served(world) as address, pytest.raises(InputError, match="no terminal"):
        run(load_run_config(["teleop=keyboard", "policy=none", f"robot.address={address}", "preflight=false"]))
    assert world.record.length == 0


class _served:
    """A twin that answers in a thread."""

    def __init__(self, world: World) -> None:
        self.server, self.stop = TwinServer(world, "tcp://127.0.0.1:0", log=lambda line: None), threading.Event()
        self.thread = threading.Thread(target=self.server.serve, args=(self.stop.is_set,), daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        return self.server.address

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        self.thread.join(20)


def test_a_run_with_a_device_and_nobody_who_moves_it_holds(tmp_path):
    """Everything that ``run`` puts together: the session is operator, teleoperator and recorder; nothing is recorded of no motion."""
    world, seen = World(registry.make("two-route", 1), lockstep=True), []
    arguments = ["teleop=scripted", "policy=none", "seconds=0.4", f"record={tmp_path / 'set'}", f"json={tmp_path / 'counts.json'}", "teleop.task=drive"]
    with _served(world) as address:
        summary = run(load_run_config([*arguments, f"robot.address={address}"]), watch=lambda session: _Seen(session, seen))
    (session,) = seen
    assert session.task == "drive" and session.runtime.state == "idle" and session.takeover.source.status is not None and session.takeover.source.closed
    assert not summary.failed and summary.ended == "0.4 s done" and summary.actions == 0 and world.record.length == 0
    counts = json.loads((tmp_path / "counts.json").read_text())["beside"]
    assert counts["teleop"] == {"success": 0, "failure": 0, "discard": 0, "takeovers": 0, "steps": 0, "stale": 0, "unsound": 0}
    assert counts["recording"]["episodes"] == 0


class _Seen:
    def __init__(self, session, seen: list) -> None:
        seen.append(session)

    def __enter__(self):
        return self

    def __exit__(self, *exception: object) -> None:
        pass
