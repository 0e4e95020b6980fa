"""The policy node: beside a channel and telemetry that are real, in a domain of its own; the run is a process that leaves its address."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from real.latch import Latch
from real.operator import OperatorChannel
from real.ros import api, run_link
from real.ros.api import message
from real.ros.policy_node import PolicyNode
from real.telemetry import Telemetry
from tests.real.ros.domains import free_domain

WAIT_S = 30.0
RUN = "import time, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:])); time.sleep(120)"


class Beside:
    """A policy node, a client beside it, and the channel and telemetry of a run that this process plays."""

    def __init__(self, folder: Path, domain: int, parameters: dict[str, Any]) -> None:
        self.state, self.started = folder / "state", folder / "started"
        self.telemetry = Telemetry("tcp://127.0.0.1:0")
        self.telemetry.info(robot="an arm", rate_hz=5.0, policy="some policy")
        self.latch = Latch(self.state / "an-arm")
        self.channel: OperatorChannel | None = None
        self.asked: list[str] = []
        self.ticking: dict[str, Any] | None = {"tick": 1, "state": "active", "cause": "", "drive": "active", "speed": 1.0, "counts": {"late plans": 3}}
        self.context = api.Context()
        api.init(args=[], context=self.context, domain_id=domain)
        given = {"state_dir": str(self.state), "policy": "tcp://127.0.0.1:5555", **parameters}
        overrides = [api.Parameter(name, value=value) for name, value in given.items()]
        self.node = PolicyNode(self.command, context=self.context, parameter_overrides=overrides)
        self.client = api.Node("client", context=self.context, start_parameter_services=False)
        self.executor = api.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node.node)
        self.executor.add_node(self.client)
        self.heard: list[Any] = []
        self.client.create_subscription(message("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics", self.heard.append, 10)

    def command(self, recipe: str, policy: str, overrides: Any) -> list[str]:
        return [sys.executable, "-c", RUN, str(self.started), recipe, policy, *overrides]

    def open_channel(self) -> None:
        self.channel = OperatorChannel(folder=self.state, telemetry=self.telemetry.address, latch=str(self.latch.path))

    def step(self) -> None:
        self.executor.spin_once(timeout_sec=0.01)
        if self.channel is not None:
            self.asked += [request.kind for request in self.channel.poll()]
            if self.ticking is not None:
                self.telemetry.tick(self.ticking)

    def until(self, done: Callable[[], Any]) -> Any:
        end = time.monotonic() + WAIT_S
        while not (found := done()):
            assert time.monotonic() < end, f"still waiting; asked {self.asked}, {len(self.heard)} diagnostics"
            self.step()
        return found

    def call(self, kind: str, name: str, **fields: Any) -> Any:
        service = api.service(kind)
        client = self.client.create_client(service, f"/robopolicy/{name}")
        self.until(client.service_is_ready)
        future = client.call_async(service.Request(**fields))
        self.until(future.done)
        self.client.destroy_client(client)
        return future.result()

    def trigger(self, name: str) -> Any:
        return self.call("std_srvs/srv/Trigger", name)

    def close(self) -> None:
        self.node.close()
        api.shutdown(context=self.context)
        if self.channel is not None:
            self.channel.close()
        self.telemetry.close()


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Beside]]:
    monkeypatch.setattr(run_link, "ANSWER_S", WAIT_S)  # on a busy machine an answer takes as long as it takes
    made: list[Beside] = []
    with free_domain() as domain:

        def start(**parameters: Any) -> Beside:
            made.append(Beside(tmp_path, domain, parameters))
            return made[-1]

        yield start
        for one in made:
            one.close()


def status(one: Beside, level: str) -> Any:
    """Return the newest status once it has the level."""
    kind = message("diagnostic_msgs/msg/DiagnosticStatus")
    return one.until(lambda: one.heard and one.heard[-1].status[0].level == getattr(kind, level) and one.heard[-1].status[0])


def publish(one: Beside, topic: str) -> None:
    publisher = one.client.create_publisher(message("std_msgs/msg/Empty"), topic, 10)
    one.until(publisher.get_subscription_count)
    publisher.publish(message("std_msgs/msg/Empty")())


def run_requests(one: Beside, act: Callable[[], Any]) -> Any:
    """Do ``act`` while another thread answers the operator's channel: the node waits for the answer."""
    import threading

    ended = threading.Event()

    def answer() -> None:
        while not ended.is_set():
            if one.channel is not None:
                one.asked += [request.kind for request in one.channel.poll()]
            time.sleep(0.002)

    channel_thread = threading.Thread(target=answer)
    step, one.step = one.step, lambda: one.executor.spin_once(timeout_sec=0.01)  # type: ignore[method-assign]
    channel_thread.start()
    try:
        return act()
    finally:
        ended.set()
        channel_thread.join()
        one.step = step  # type: ignore[method-assign]


def test_anyone_may_hold_and_stop_and_nobody_may_start_without_control(beside) -> None:
    one = beside(autostart=False)
    one.open_channel()
    one.node.begin()

    def ask() -> None:
        one.until(lambda: one.node.link.connected)
        publish(one, "/robopolicy/hold")
        one.until(lambda: "hold" in one.asked)
        publish(one, "/robopolicy/stop")
        one.until(lambda: "stop" in one.asked)
        assert one.call("std_srvs/srv/SetBool", "hold", data=True).success
        assert one.trigger("stop").success and one.trigger("end").success
        for refused in (one.trigger("start"), one.call("std_srvs/srv/SetBool", "hold", data=False)):
            assert not refused.success and "control:=true" in refused.message
        change = message("lifecycle_msgs/msg/Transition")
        assert not one.call("lifecycle_msgs/srv/ChangeState", "change_state", transition=change(id=change.TRANSITION_ACTIVATE)).success

    run_requests(one, ask)
    assert sorted(one.asked) == ["hold", "hold", "stop", "stop"] and not one.started.exists()


def test_with_control_a_run_is_started_resumed_and_ended(beside) -> None:
    one = beside(control=True, overrides=["robot.namespace=/left"], recipe="runtime/mine")
    one.node.begin()
    assert one.trigger("start").success
    one.until(one.started.exists)
    assert one.until(one.started.read_text).split() == [
        "runtime/mine",
        "tcp://127.0.0.1:5555",
        "robot.namespace=/left",
        f"drive_options.state_dir={one.state}",
    ]
    again = one.trigger("start")
    assert not again.success and "is there already" in again.message
    one.open_channel()
    assert run_requests(one, lambda: one.call("std_srvs/srv/SetBool", "hold", data=False)).success and one.asked == ["resume"]
    process = one.node._run
    assert process is not None and one.trigger("end").success and process.poll() is not None


def test_a_run_that_ends_by_itself_leaves_the_node_inactive(beside) -> None:
    one = beside(autostart=True)
    one.command = lambda *given: [sys.executable, "-c", "raise SystemExit(3)"]  # type: ignore[method-assign]
    one.node._command = one.command
    one.node.begin()
    assert one.until(lambda: one.node._ended) == "ended with code 3"
    state = one.call("lifecycle_msgs/srv/GetState", "get_state").current_state
    assert state.label == "inactive"
    assert {"last run": "ended with code 3"}.items() <= {v.key: v.value for v in status(one, "STALE").values}.items()


def test_checkpoints_are_names_of_one_folder(beside, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "reach").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    one = beside(control=True, checkpoints=str(folder))
    for wrong in ("../elsewhere", str(tmp_path / "elsewhere"), "reach/", ".", "..", "raech"):
        result = one.node.node.set_parameters([api.Parameter("checkpoint", value=wrong)])[0]
        assert not result.successful and "is none of" in result.reason, wrong
    assert "did you mean 'reach'" in result.reason
    assert one.node.node.set_parameters([api.Parameter("checkpoint", value="reach")])[0].successful
    one.node.begin()
    assert one.trigger("start").success
    one.until(one.started.exists)
    assert str(folder / "reach") in one.until(one.started.read_text)
    busy = one.node.node.set_parameters([api.Parameter("checkpoint", value="")])[0]
    assert not busy.successful and "end it first" in busy.reason
    fixed = one.node.node.set_parameters([api.Parameter("control", value=False)])[0]
    assert not fixed.successful


def test_without_control_no_checkpoint_is_chosen_and_without_a_policy_nothing_is_configured(beside) -> None:
    one = beside(policy="")
    assert not one.node.node.set_parameters([api.Parameter("checkpoint", value="reach")])[0].successful
    one.node.begin()
    assert one.call("lifecycle_msgs/srv/GetState", "get_state").current_state.label == "unconfigured"


def test_a_start_that_cannot_be_is_refused_and_ends_no_node(beside, tmp_path: Path) -> None:
    one = beside(control=True, policy="", checkpoints=str(tmp_path), log=str(tmp_path / "nowhere" / "log"))
    one.node.begin()
    assert "the node is unconfigured" in one.trigger("start").message
    (tmp_path / "reach").mkdir()
    assert one.node.node.set_parameters([api.Parameter("checkpoint", value="reach")])[0].successful
    assert not one.trigger("start").success and not one.started.exists(), "its log cannot be written"
    change = message("lifecycle_msgs/msg/Transition")
    assert one.call("lifecycle_msgs/srv/ChangeState", "change_state", transition=change(label="shutdown")).success
    assert "the node is shut down" in one.trigger("start").message and one.trigger("end").success


def test_diagnostics_say_state_cause_rates_and_counts(beside) -> None:
    one = beside()
    assert status(one, "STALE").message == "no run"
    one.open_channel()
    found = status(one, "OK")
    values = {value.key: value.value for value in found.values}
    assert found.hardware_id == "an arm" and found.message == "active" and found.name == "/robopolicy: run"
    assert values["policy"] == "some policy" and values["count: late plans"] == "3" and float(values["rate, 1/s"]) > 0
    one.ticking = {"tick": 2, "state": "hold", "cause": "late", "counts": {}}
    assert one.until(lambda: one.heard[-1].status[0].message.startswith("hold: late"))
    one.ticking = {"tick": 3, "state": "stopped", "cause": "operator", "counts": {}}
    assert status(one, "ERROR").message == "stopped: operator"
    one.ticking = None
    assert status(one, "STALE").message == "the run says nothing"


def test_a_wall_clock_that_is_set_back_does_not_silence_the_node(beside, monkeypatch: pytest.MonkeyPatch) -> None:
    one = beside()
    back = SimpleNamespace(time_ns=lambda: time.time_ns() - 3600 * 10**9, monotonic_ns=time.monotonic_ns)
    monkeypatch.setattr("real.ros.dds.clock._time", back)
    one.open_channel()
    one.until(lambda: one.node.link.connected)
    before = len(one.heard)
    one.until(lambda: len(one.heard) > before + 1)


def test_the_last_event_is_named_with_its_kind_and_cause(tmp_path: Path) -> None:
    telemetry = Telemetry("tcp://127.0.0.1:0")
    channel = OperatorChannel(folder=tmp_path, telemetry=telemetry.address)
    link = run_link.RunLink(str(tmp_path))
    end = time.monotonic() + WAIT_S
    while not link.view.event:
        assert time.monotonic() < end
        link.look()
        telemetry.event("state", "active -> hold: late")
        time.sleep(0.01)
    assert link.view.event == "state: active -> hold: late"
    link.close(), channel.close(), telemetry.close()


def test_a_stop_reaches_the_latch_when_the_run_does_not_answer(beside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_link, "ANSWER_S", 0.3)
    one = beside()
    one.open_channel()
    one.until(lambda: one.node.link.connected)
    channel, one.channel = one.channel, None  # it is there, and answers nobody
    publish(one, "/robopolicy/stop")
    record = one.until(one.latch.read)
    assert "did not answer" in record.cause and "/robopolicy" in record.who
    one.channel = channel
    assert status(one, "ERROR").message.startswith("stopped: ")
    one.latch.clear()
    status(one, "OK")


def test_hold_and_stop_end_a_run_that_is_not_ready_yet(beside) -> None:
    """It has left no address: there is nobody to ask, and what it would do next is move."""
    one = beside(control=True)
    one.node.begin()
    for ask in (lambda: publish(one, "/robopolicy/hold"), lambda: one.call("std_srvs/srv/SetBool", "hold", data=True)):
        assert one.trigger("start").success
        ask()
        one.until(lambda: one.node._run is None)
    assert one.latch.read() is None
    assert one.trigger("start").success
    publish(one, "/robopolicy/stop")
    one.until(lambda: one.node._run is None)
    assert one.latch.read() is not None, "every robot that was ever driven from here is stopped"


def test_the_node_of_the_command_line_goes_with_a_signal(tmp_path: Path) -> None:
    import signal
    import subprocess

    with free_domain() as domain:
        words = ["ros2", "node", "--domain", str(domain), "--ros-args", "-r", "__node:=other", "-p", "policy:=tcp://127.0.0.1:1"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3]), "HOME": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-m", "robopolicy", *words], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline(), process.stdout.readline()]
            assert "ROS 2 over" in lines[0] and lines[1] == "ready: /other\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
            process.wait()
