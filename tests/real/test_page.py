"""The operator's page, in a real browser: it shows the state, its buttons arrive, and nothing of it moves a robot by being gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request as WebRequest
from urllib.request import urlopen

import numpy as np
import pytest

from real.latch import Latch, robot_folder
from real.operator import OperatorChannel
from real.page import OperatorPage
from real.page_guard import guarded_server
from real.page_operator import Deadman, Requests
from real.page_scene import RobotScene, quaternion
from real.page_text import History, Interventions, facts_html, state_html, told_html
from real.telemetry import Telemetry
from real.telemetry_wire import Record
from robopolicy.commands.page import _found
from tests.browser import opened
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
<mujoco><worldbody><body name="a"><joint name="one" axis="0 0 1"/><geom type="capsule" fromto="0 0 0 0 0 0.4" size="0.05"/>
<body name="b" pos="0 0 0.4"><joint name="two" axis="0 1 0"/><geom type="box" size="0.05 0.04 0.2" pos="0 0 0.2" euler="10 20 30"/>
<geom type="sphere" size="0.06" pos="0 0 0.45"/><geom type="cylinder" size="0.02 0.1"/><geom type="ellipsoid" size="0.02 0.03 0.04"/></body></body>
<geom type="plane" size="1 1 1"/></worldbody></mujoco>
"""


@pytest.fixture
def keep():
    with ExitStack() as stack:
        yield lambda one: (stack.callback(one.close), one)[1]


class Robot:
    """Stands for a runtime: speaks 30 times a second and does what is asked, in a thread."""

    def __init__(self, folder: Path) -> None:
        self.telemetry = Telemetry()
        self.channel = OperatorChannel(folder=folder, telemetry=self.telemetry.address)
        self.telemetry.info(robot="toy", joints=["one", "two"], model=MODEL, rate_hz=100.0)
        self.asked: list[tuple[str, float]] = []
        self.state, self.cause, self.beats = "active", "", 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
        n = 0
        while not self._done.is_set():
            n += 1
            for kind, value in self.channel.poll():
                if kind == "deadman":
                    self.beats += 1
                    continue
                self.asked.append((kind, value))
                self.state = {"stop": "stopped", "hold": "hold", "resume": "active"}.get(kind, self.state)
                self.cause = "operator" if self.state != "active" else ""
            q = np.array([np.sin(min(n, 60) / 20), 0.3])  # it soon stands still: a browser without a graphics card draws slowly
            values = {"state": self.state, "cause": self.cause, "speed": self.channel.speed, "latency_ms": 12.0 + n % 5}
            self.telemetry.tick(values, tick=n, measured=q, command=q)
            self.telemetry.observation({"observation.images.top": picture})
            if n % 10 == 0:
                self.telemetry.event("intervention", "velocity <limit>", q, q)
            time.sleep(0.03)

    def wait(self, condition, what):
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until, f"{what}: {self.asked}"
            time.sleep(0.02)

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.channel.close()
        self.telemetry.close()


class PageProcess:
    """``robopolicy page`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file, self.out = folder / "page.address", folder / "page.out"
        command = [sys.executable, "-m", "robopolicy", "page", "--file", str(folder / "operator.json"), "--port", "0", "--announce", str(self.file)]
        with self.out.open("wb") as out:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "ROBOPOLICY_STATE": str(folder)}
            self.process = subprocess.Popen([*command, "--with-parent"], stdout=out, stderr=subprocess.STDOUT, env=environment)
        until = time.monotonic() + 60
        while not self.file.exists():
            assert self.process.poll() is None and time.monotonic() < until, self.out.read_text()
            time.sleep(0.02)
        self.url = self.file.read_text()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def test_in_a_browser_the_state_is_seen_the_buttons_arrive_and_a_closed_page_holds_no_deadman(tmp_path, keep):
    require("chromium")
    robot = keep(Robot(tmp_path))
    page_process = keep(PageProcess(tmp_path))
    with opened(page_process.url) as page:
        seen = lambda text: page.get_by_text(text, exact=True).first.wait_for()  # noqa: E731
        seen("ACTIVE")
        seen("velocity <limit>")  # as text, not as markup
        page.get_by_role("button", name="Hold", exact=True).click()
        robot.wait(lambda: ("hold", 0.0) in robot.asked, "hold")
        seen("HOLD")
        seen("operator")
        page.get_by_role("button", name="Resume", exact=True).click()
        robot.wait(lambda: ("resume", 0.0) in robot.asked, "resume")
        assert robot.beats == 0  # nobody has said that the deadman is held
        assert page.locator("img").count() >= 1
        page.screenshot(path=str(tmp_path / "page.png"))
        page.get_by_role("button", name="STOP").click()
        robot.wait(lambda: ("stop", 0.0) in robot.asked, "stop")
        seen("STOPPED")
        held = page.get_by_role("checkbox")
        hold_deadman(robot, held, 10)
        page.evaluate("() => { const begun = Date.now(); while (Date.now() - begun < 2500); }")  # it hangs, though its connection stands
        assert robot.channel.deadman_age_s > 1.0
        hold_deadman(robot, held, robot.beats + 3)
        page.close()
        robot.wait(lambda: robot.channel.deadman_age_s > 1.0, "the end of the heartbeat")
    assert [kind for kind, _ in robot.asked] == ["hold", "resume", "stop"]
    assert set(robot.channel.refused) <= {"stale"}  # heartbeats of a browser that got no processor time


def hold_deadman(robot, held, beats):
    """Hold the deadman for so many heartbeats; a browser that is too slow to answer is let go, and tries again."""
    until = time.monotonic() + 60
    while robot.beats <= beats:
        assert time.monotonic() < until
        if not held.is_checked():
            held.click()
        time.sleep(0.2)


def test_the_page_turns_to_the_next_run(tmp_path, keep):
    first = Robot(tmp_path)
    page = keep(PageProcess(tmp_path))
    first.wait(lambda: first.telemetry.readers == 1, "the page reads")
    first.close()
    second = keep(Robot(tmp_path))
    second.wait(lambda: second.telemetry.readers == 1, "the page reads the second run")
    assert page.process.poll() is None


@pytest.fixture(scope="module")
def server():
    made, url = guarded_server(0)
    yield made, url
    made.stop()


def test_a_port_that_is_taken_is_said(server, capsys):
    made, _ = server
    second, url = guarded_server(made.get_port())
    second.stop()
    assert capsys.readouterr().err == f"port {made.get_port()} is taken: the page is at port {second.get_port()}\n"
    assert f":{second.get_port()}/" in url and second.get_port() != made.get_port()


def fetch(url, cookie=""):
    try:
        with urlopen(WebRequest(url, headers={"Cookie": cookie} if cookie else {}), timeout=20) as answer:
            return answer.status, answer.headers
    except HTTPError as error:
        return error.code, error.headers


def test_only_who_has_the_key_opens_the_page_and_only_its_own_page_connects(server):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    _, url = server
    base, _, key = url.partition("?key=")
    assert fetch(base)[0] == 403 and fetch(f"{base}?key=x")[0] == 403 and fetch(f"{base}?key=")[0] == 403
    status, headers = fetch(url)
    assert status == 200 and "HttpOnly" in headers["Set-Cookie"] and "SameSite=Strict" in headers["Set-Cookie"] and headers["X-Frame-Options"] == "DENY"
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert fetch(base, cookie)[0] == 200
    assert fetch(base, cookie.replace(key, "x" * len(key)))[0] == 403 and fetch(base, '=;;"')[0] == 403
    address = base.replace("http", "ws")
    own = base.rstrip("/")

    def opens(**options):
        try:
            with connect(address, subprotocols=["viser-v1.1.1"], open_timeout=20, **options):
                return True
        except InvalidStatus as error:
            assert error.response.status_code == 403
            return False

    with_key = {"Cookie": cookie}
    assert opens(additional_headers=with_key, origin=own)
    assert not opens(additional_headers=with_key, origin="https://example.org")
    assert not opens(additional_headers=with_key, origin="http://127.0.0.1.example.org")
    assert not opens(additional_headers=with_key)
    assert not opens(origin=own)


def test_the_robot_stands_where_its_joints_say(server):
    import mujoco

    scene = RobotScene(server[0].scene, MODEL, ["one", "two"])
    assert scene.problem == "" and scene.n == 2 and len(scene._handles) == 5  # no plane
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    for q in (np.array([0.7, -1.1]), np.array([3.0, 2.0])):
        data.qpos[:] = q
        mujoco.mj_forward(model, data)
        scene.move(q)
        for geom, handle in scene._handles.items():
            np.testing.assert_allclose(handle.position, data.geom_xpos[geom], atol=1e-6)
            wxyz = np.empty(4)
            mujoco.mju_mat2Quat(wxyz, data.geom_xmat[geom])
            assert abs(wxyz @ handle.wxyz) == pytest.approx(1, abs=1e-6)
    for odd in (np.zeros(3), np.array([np.nan, 0]), "x", None):
        scene.move(odd)
    np.testing.assert_allclose(scene._handles[1].position, data.geom_xpos[1], atol=1e-6)
    assert "no model" in RobotScene(server[0].scene, "").problem
    assert "not a model" in RobotScene(server[0].scene, "<mujoco><wrong/></mujoco>").problem
    assert "no hinge or slide 'three'" in RobotScene(server[0].scene, MODEL, ["three"]).problem


def test_quaternions_against_mujoco():
    import mujoco

    generator = np.random.default_rng(0)
    for _ in range(200):
        given = generator.normal(size=4) * generator.choice([1, 1e-4], 4)
        given /= np.linalg.norm(given)
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, given)
        assert abs(quaternion(matrix.reshape(3, 3)) @ given) == pytest.approx(1, abs=1e-9)


def test_the_heartbeat_lasts_as_long_as_the_browser_answers(keep):
    channel = keep(OperatorChannel())
    alive, ended = {7: True}, []
    deadman = keep(Deadman(channel.address, channel.token, lambda browser, s: alive.get(browser, False), ended.append))
    beats = 0

    def listen(seconds, wanted=None):
        nonlocal beats
        until = time.monotonic() + seconds
        while time.monotonic() < until and not (wanted and wanted()):
            beats += sum(kind == "deadman" for kind, _ in channel.poll())
            time.sleep(0.005)

    listen(0.3)
    assert beats == 0
    deadman.hold(7)
    listen(20, lambda: beats > 3)
    assert beats > 3 and channel.deadman_age_s < 5
    deadman.hold(None)
    listen(20, lambda: channel.deadman_age_s == np.inf)
    listen(0.2)
    before = beats
    listen(0.3)
    assert beats == before and not ended
    deadman.hold(7)
    listen(20, lambda: beats > before + 3)
    alive[7] = False  # it hangs
    listen(20, lambda: ended)
    assert ended == ["the browser that held it no longer answers"] and deadman.holder is None
    deadman.hold(8)  # a browser that is not there
    listen(20, lambda: len(ended) == 2)
    assert deadman.holder is None


def test_a_stop_that_the_runtime_does_not_hear_is_latched_for_the_drive(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path))
    requests = Requests(f"ipc://{tmp_path}/nobody", "")
    assert "USE THE ROBOT'S OWN STOP" in requests.stop()
    requests.latch = str(robot_folder("toy") / "estop.json")
    assert "stopped by the drive's latch" in requests.stop()
    record = Latch(robot_folder("toy")).read()
    assert record is not None and record.who == "operator's page"
    assert "nobody listens" in requests.ask("hold")
    Latch(robot_folder("toy")).clear()
    requests.close()
    assert "has ended" in requests.ask("resume")
    assert "stopped by the drive's latch" in requests.stop() and Latch(robot_folder("toy")).read() is not None


def test_words_from_outside_are_text():
    bad = "<script>alert(1)</script>"
    values = {"state": bad, "cause": bad, "drive": "holding", "speed": 0.5, "tick": bad, "counts": {bad: 2, "none": 0}}
    html = state_html(values, 0.0) + facts_html(values, {"robot": bad, "rate_hz": 100.0}, 3) + told_html(bad, bad)
    assert "<script" not in html and html.count("&lt;script") == 6 and "50 %" in html and "<b>3</b>" in html and "none" not in html
    assert html.count("&lt;SCRIPT") == 1 and "holding" in html and "100 Hz" in html
    assert "NO TELEMETRY" in state_html(values, None) and "last state: active" in state_html({"state": "active"}, 2.0)
    list_ = Interventions()
    for n in range(3000):
        list_.take(Record("event", 1, n, 0, n * 10**9, {"event": "intervention", "cause": f"{bad}{n % 1500}"}))
    list_.take(Record("event", 1, 1, 0, 5 * 10**9, {"event": "state", "cause": bad}))
    list_.take(Record("event", 1, 1, 0, 5 * 10**9, {}))
    assert "<script" not in list_.html() and "<td><b>" not in list_.html() and len(list_.counts) == 1000 and "5.0 s" in list_.html()


def test_the_history_is_bounded_and_says_what_is_missing():
    history = History(seconds=2.0)
    for n in range(1000):
        history.take(n * 0.01, {"a": float(n)} if n % 2 else {"a": float(n), "b": 1.0})
    times, a, _ = history.arrays(["a", "b"], points=50)
    assert len(times) == len(a) <= 70 and times[0] == pytest.approx(-2.0, abs=0.05) and times[-1] <= 0
    assert (np.diff(a) > 0).all() and history.names == ["a", "b"]
    assert np.isnan(History().arrays(["x"])[1]).all()
    wide = History()
    wide.take(0.0, {str(n): 0.0 for n in range(100)})
    assert len(wide.names) == 64


def test_a_stop_of_a_run_that_has_never_spoken_is_latched_where_its_file_says(tmp_path, keep):
    """The page is opened because the run hangs: there is no telemetry that could tell where the drive looks."""
    latch = Latch(tmp_path / "toy")
    keep(OperatorChannel(folder=tmp_path, telemetry=f"ipc://{tmp_path}/nobody", latch=str(latch.path)))
    page = keep(OperatorPage(_found(tmp_path / "operator.json", None, None, strict=True), 0))
    assert "stopped by the drive's latch" in page._requests.stop() and latch.read() is not None
