"""The loop closed between processes: what reaches the drive while servers die, stall and come back; and the commands."""

import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from policies.spec import InputError
from real.client import PolicyClient
from real.drive import Drive
from real.drive_handle import DriveHandle
from real.robots.twin import TwinConfig, TwinRobot
from real.runtime import Runtime, RuntimeOptions
from robopolicy.deployment import drive, load_run_config, run
from tests.real.toy import ROOT, STEP, PointWorld, Process, ReachPolicy, policy
from tests.robopolicy import forked


class Loop:
    """A runtime between a server process and a twin process, ticking in a thread."""

    def __init__(self, folder, *twin, serve=(), timeout_s=0.3):
        self.folder, self.log = folder, folder / "commands.jsonl"
        self.bind, self.serve = f"ipc://{folder}/serve", serve
        self.server = Process(folder, "serve", *serve, bind=self.bind)
        self.twin = Process(folder, "twin", "--log", self.log, "--max-steps", 100000, *twin)
        self.driver = TwinRobot(TwinConfig(address=self.twin.address, timeout_s=20))
        self.robot = DriveHandle(Drive(self.driver))
        self.client = PolicyClient(self.server.address, connect_s=30)
        self.returned = []  # (seconds from request to plan)
        self._watch_client()
        self.runtime = Runtime(self.robot, self.client, RuntimeOptions(timeout_s=timeout_s))
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.runtime.run, kwargs={"stopped": self.stop.is_set})
        self.thread.start()

    def _watch_client(self):
        request, poll, asked = self.client.request, self.client.poll, []

        def watched_request(*arguments, **options):
            asked.append(time.monotonic())
            return request(*arguments, **options)

        def watched_poll(wait_s=0.0):
            answer = poll(wait_s)
            if answer is not None:
                self.returned.append(time.monotonic() - asked[-1])
            return answer

        self.client.request, self.client.poll = watched_request, watched_poll

    def until(self, condition, seconds=30.0):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end and self.thread.is_alive(), f"{self.runtime.summary.line()} {self.runtime.summary.ended}"
            time.sleep(0.01)

    def commands(self):
        """Every message to the drive: {at, command (None: hold), episode, ended}."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stop.set()
        self.thread.join(30)
        self.robot.close()
        self.client.close()
        for process in (self.server, self.twin):
            process.__exit__()


def assert_safe(commands):
    """Finite, inside the limits, and within an episode no jump that the policy's plans would not make."""
    last = None
    for entry in commands:
        if entry["ended"] or entry["command"] is None:
            continue
        command = np.array(entry["command"])
        assert command.shape == (2,) and np.isfinite(command).all() and (np.abs(command) <= 1).all()
        if last is not None and last[0] == entry["episode"]:
            assert np.linalg.norm(command - last[1]) < 4 * STEP
        last = entry["episode"], command


def test_sigkill_holds_within_the_plan_and_resumes_with_a_new_session(tmp_path):
    with Loop(tmp_path, serve=("--delay", 0.02)) as loop:
        loop.until(lambda: loop.runtime.summary.plans >= 4)
        session = loop.client.session
        loop.server.signal(signal.SIGKILL)
        loop.server.process.wait()
        killed = time.monotonic()
        loop.until(lambda: loop.runtime.state == "hold" and loop.runtime.cause in ("late", "gone"))
        time.sleep(0.6)
        after = [e for e in loop.commands() if e["at"] > killed]
        sent = [e for e in after if e["command"] is not None]
        assert len(sent) <= 2 * ReachPolicy.n_action_steps  # the plan in play, and one that had just arrived
        assert [e["command"] for e in after[-5:]] == [None] * 5
        plans = loop.runtime.summary.plans
        loop.server = Process(tmp_path, "serve", *loop.serve, bind=loop.bind)
        assert loop.server.address
        loop.until(lambda: loop.runtime.summary.plans >= plans + 4)
        assert loop.client.session not in (0, session) and loop.client.sessions >= 2
        held = loop.runtime.summary.holds
        assert held["late"] + held["gone"] >= 5
        assert_safe(loop.commands())


def test_sigstop_then_sigcont_executes_nothing_late(tmp_path):
    with Loop(tmp_path, serve=("--delay", 0.02)) as loop:
        loop.until(lambda: loop.runtime.summary.plans >= 4)
        for _ in range(2):
            loop.server.signal(signal.SIGSTOP)
            loop.until(lambda: loop.runtime.state == "hold" and loop.runtime.cause in ("late", "gone"))
            time.sleep(1.0)
            stopped_at = len(loop.returned)
            loop.server.signal(signal.SIGCONT)
            loop.until(lambda before=stopped_at: loop.runtime.state == "active" and len(loop.returned) >= before + 2)
        assert max(loop.returned) <= loop.runtime.options.timeout_s
        assert loop.runtime.summary.failed_requests["late"] >= 2 and loop.client.sessions >= 3
        assert_safe(loop.commands())


@pytest.mark.parametrize("bad", ["nan", "huge", "shape", "raise"])
def test_bad_policies_never_reach_the_drive(tmp_path, bad):
    with Loop(tmp_path, serve=("--policy", bad)) as loop:
        loop.until(lambda: loop.runtime.summary.ticks >= 40)
        loop.stop.set()
        loop.thread.join(30)
        commands = loop.commands()
        summary = loop.runtime.summary
    assert not any(e["command"] is not None and not np.isfinite(e["command"]).all() for e in commands)
    if bad == "nan":
        assert summary.bad_actions > 0 and summary.actions > 0
    if bad == "huge":
        assert summary.clamped > 0 and all(np.abs(e["command"]).max() <= 1 for e in commands if e["command"] is not None)
    if bad in ("shape", "raise"):
        assert summary.actions == 0 and summary.failed_requests["error"] > 0


def test_the_twin_holds_when_the_runtime_is_gone(tmp_path):
    with Process(tmp_path, "twin", "--max-steps", 100000) as twin:
        robot = TwinRobot(TwinConfig(address=twin.address))
        target = np.clip(robot.read().fields["observation.state"] + STEP, -1, 1)
        robot.write(target)
        time.sleep(1.2)  # no command for four times silence_s
        reading = robot.read()
        np.testing.assert_allclose(reading.fields["observation.state"], target, atol=1e-6)
        robot.reset()
        (record,) = robot.report()
        robot.close()
    assert record["silent"] >= 3 and record["repeated"] >= 1


def test_a_run_ends_when_the_twin_is_killed(tmp_path):
    with Loop(tmp_path) as loop:
        loop.driver.config = TwinConfig(address=loop.twin.address, timeout_s=0.5)
        loop.until(lambda: loop.runtime.summary.actions >= 5)
        loop.twin.signal(signal.SIGKILL)
        loop.thread.join(20)
        assert loop.runtime.summary.failed and loop.runtime.summary.ended.startswith("robot gone: twin tcp://")


def reach_world(num_worlds):
    return PointWorld(num_worlds)


def test_lockstep_run_reproduces_the_evaluation(tmp_path):
    from robopolicy.evaluation.rollout import evaluate

    expected = evaluate(ReachPolicy(), reach_world, episodes=6, seed0=2_000_000, block=3, noise_seed=4, latency_calls=0, progress=False)
    with Process(tmp_path, "serve") as server, Process(tmp_path, "twin", "--lockstep", "--episodes", 6, "--seed0", 2_000_000) as twin:
        robot, client = DriveHandle(Drive(TwinRobot(TwinConfig(address=twin.address)))), PolicyClient(server.address)
        summary = Runtime(robot, client, RuntimeOptions(noise_seed=4)).run()
        records = robot.report()["robot"]
        robot.close()
        client.close()
    assert [(e.seed, e.success, e.length, e.network_calls) for e in expected.episodes] == [
        (s.index, s.success, s.steps, s.network_calls) for s in summary.episodes
    ]
    assert [(r["seed"], r["success"], r["length"]) for r in records] == [(e.seed, e.success, e.length) for e in expected.episodes]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("what", ["serve", "twin"])
def test_signals_end_cleanly(tmp_path, what, signal_number):
    with Process(tmp_path, what) as process:
        assert process.address
        process.signal(signal_number)
        assert process.process.wait(10) == 0
        assert process.out.read_text().splitlines()[-1] == "ended"


def test_torch_policy_of_another_process_equals_local(tmp_path):
    from policies.noise import row_keys
    from real.policy import act_numpy
    from tests.real.sockets import observation

    local = policy("torch")
    with Process(tmp_path, "serve", "--policy", "torch") as server:
        client = PolicyClient(server.address)
        ours, theirs = client.initial_state(1), local.initial_state(1)
        for call in range(4):
            obs, keys = observation(local, 1, call), row_keys(0, 7, call)
            served, ours = client.act(obs, ours, keys)
            expected, theirs = act_numpy(local, obs, theirs, keys)
            np.testing.assert_allclose(served.actions, expected.actions, atol=1e-5, rtol=0)
        client.close()


# The commands -----------------------------------------------------------------------------------------------------


def robopolicy(*arguments, timeout=120):
    return forked.command([str(word) for word in arguments], ROOT, timeout=timeout)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small flow policy for two-route with random weights."""
    import torch

    from policies import registry
    from policies.checkpoint import save
    from sim.registry import make

    env = make("two-route")
    spec = env.spec
    stats = {"action": spec.action.low, **{n: f.low for n, f in spec.observation.fields.items()}}
    stats = {n: {"min": -np.ones(np.size(low)), "max": np.ones(np.size(low))} for n, low in stats.items()}
    config = registry.config_class("flow")(steps=2)
    torch.manual_seed(0)
    made = registry.create("flow", config, spec, registry.policy_class("flow").fit_normalizer(config, spec, stats, []))
    folder = tmp_path_factory.mktemp("checkpoint") / "flow"
    save(folder, made, recipe={"env": {"observations": "state", "max_episode_steps": 30}}, extra={})
    return folder


def test_drive_in_lockstep_equals_an_evaluation(checkpoint):
    from robopolicy.evaluation.rollout import evaluate

    options = {"env": {"max_episode_steps": 30}, "noise_seed": 3, "latency_calls": 0, "progress": False}
    expected = evaluate(checkpoint, "two-route", episodes=3, seed0=2_000_005, block=1, **options)
    summary = drive(checkpoint, "two-route", 3, 2_000_005, lockstep=True, noise_seed=3)
    assert summary["ended"] == "3 episodes done" and summary["lockstep"] is True
    assert [(r["seed"], r["success"], r["length"]) for r in summary["world"]] == [(e.seed, e.success, e.length) for e in expected.episodes]
    assert summary["network_calls"] == sum(e.network_calls for e in expected.episodes)


BEYOND_CORE = ["torch", "mujoco", "gymnasium", "scipy", "cv2", "av", "pyarrow", "safetensors", "matplotlib", "accelerate", "tensorboard"]


def test_serve_twin_run_from_the_command_line(checkpoint, tmp_path):
    serve, twin = f"ipc://{tmp_path}/serve", f"ipc://{tmp_path}/twin"
    world = ["twin", "two-route", "--bind", twin, "--episodes", 2, "--max-steps", 20, "--json", tmp_path / "twin.json"]
    commands = [["serve", checkpoint, "--bind", serve], world]
    logs = [tmp_path / "serve.log", tmp_path / "twin.log"]
    processes = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("wb") as out:
                processes.append(subprocess.Popen([sys.executable, "-m", "robopolicy", *map(str, command)], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT))
        until = time.monotonic() + 60
        while not all("ready:" in log.read_text() for log in logs):
            assert time.monotonic() < until and all(p.poll() is None for p in processes), [log.read_text() for log in logs]
            time.sleep(0.05)
        arguments = ["run", f"policy={serve}", "robot=twin", f"robot.address={twin}", "--json", str(tmp_path / "run.json")]
        code = f"import sys; sys.modules.update(dict.fromkeys({BEYOND_CORE!r})); from robopolicy.cli import main; sys.exit(main({arguments!r}))"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        for process in processes:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert "2 episodes done; the robot holds" in done.stdout
    run, world = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("run", "twin"))
    assert len(run["episodes"]) == len(world["episodes"]) == 2 and run["plans"] >= 4
    assert {"rate_held", "late_chunks", "ms_per_chunk", "network_calls", "holds", "overruns", "jitter_ms"} <= set(run)
    assert "plans" in logs[0].read_text() and "ended:" in logs[0].read_text() and "episode 1 (seed 1)" in logs[1].read_text()


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["serve", "CHECKPOINT", "--bind", "tcp://0.0.0.0:5555"], "only loopback is served"),
        (["serve", "nowhere"], "nowhere"),
        (["twin", "two-rout"], "did you mean 'two-route'"),
        (["twin", "two-route", "--bind", "tcp://*:5556"], "only loopback is served"),
        (["run", "spead=0.3"], "unknown key 'spead'; did you mean 'speed'?"),
        (["run", "speed=fast"], "speed"),
        (["run", "speed=1.5"], "speed"),
        (["run", "robot=twn"], "did you mean 'twin'"),
        (["run", "robot.adress=tcp://127.0.0.1:1"], "did you mean 'address'"),
        (["run", "robot.address=tcp://127.0.0.1:9", "robot.connect_s=0.1"], "start one with: robopolicy twin"),
        (["run", "runtime/defalt"], "did you mean"),
    ],
)
def test_bad_input_is_one_line(checkpoint, capsys, arguments, text):
    from robopolicy.cli import main

    assert main([str(checkpoint) if a == "CHECKPOINT" else a for a in arguments]) == 2
    said = capsys.readouterr().err
    assert text in said and len(said.strip().splitlines()) == 1


def test_a_policy_that_does_not_fit_the_robot_is_refused_before_anything_moves(checkpoint, tmp_path):
    log = tmp_path / "commands.jsonl"
    with Process(tmp_path, "twin", "--log", log) as twin:
        done = robopolicy("run", f"robot.address={twin.address}", f"policy={checkpoint}")
    assert done.returncode == 2 and "action fields: the policy expects ['velocity'], robot 'twin of point' has ['action']" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    moved = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert all(entry["command"] is None for entry in moved)


def test_a_process_that_does_not_come_up_says_why(checkpoint):
    with pytest.raises(InputError, match=r"robopolicy twin two-rout ended: task 'two-rout' does not exist; did you mean 'two-route'"):
        drive(checkpoint, "two-rout", 1)
    with pytest.raises(InputError, match="no such checkpoint"):
        drive(checkpoint / "none", "two-route", 1)


@pytest.mark.parametrize("policy", ["nowhere", "nowhere.onnx"])
def test_a_policy_that_is_not_there_is_said_before_a_robot_is_waited_for(policy, monkeypatch):
    def wait(*_):
        raise AssertionError("a robot was asked for")

    monkeypatch.setattr("robopolicy.deployment.open_drive", wait)
    with pytest.raises(InputError, match=f"{policy}: no such"):
        run(load_run_config([f"policy={policy}"]))


def test_run_config_reads_recipe_and_overrides():
    config = load_run_config(["runtime/default", "speed=0.5", "robot.timeout_s=1", "json=out.json", "policy=runs/x"])
    assert config.speed == 0.5 and config.robot == {"type": "twin", "timeout_s": 1} and config.json_file == "out.json" and config.policy == "runs/x"
