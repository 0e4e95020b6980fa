"""The teleoperation page in a real browser: what a person does arrives, what they let go of ends, and STOP is always there."""

from __future__ import annotations

import json
import math
import subprocess
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest

from policies.motion import MotionLimits
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.latch import Latch, robot_folder
from real.robot import RobotInfo
from real.teleop.page import PageConfig, PageSource
from real.teleop.source import Status
from tests.browser import chromium
from tests.real.teleop.page_run import LIMIT_S, Run
from tests.require import require

#: A gamepad as the browser would tell of it; tests set axes and buttons of ``window.pad``.
GAMEPAD = """
window.pad = {axes: [0, 0, 0, 0], buttons: Array(17).fill(0), shaken: []};
const actuator = {playEffect: (kind, how) => { window.pad.shaken.push(how.duration); return Promise.resolve("complete"); }};
const buttons = () => window.pad.buttons.map((v) => ({pressed: v > 0.5, touched: v > 0, value: v}));
const about = {index: 1, id: "test pad", mapping: "standard", connected: true, vibrationActuator: actuator};
navigator.getGamepads = () => [null, {...about, axes: window.pad.axes, buttons: buttons()}];
"""


@pytest.fixture(scope="module", name="chromium")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def shared():
    made = Run()
    made.join()
    yield made
    made.close()


@pytest.fixture
def run(shared):
    shared.events.clear()
    shared.asked.clear()
    shared.state = "active"
    return shared


@pytest.fixture
def visit(chromium):
    """Open a page in a browser of its own; what it says to the console must be nothing."""
    said = []
    with ExitStack() as stack:

        def opened(url, **options):
            context = chromium.new_context(viewport={"width": 1000, "height": 900}, **options)
            stack.callback(context.close)
            context.add_init_script(GAMEPAD)
            page = context.new_page()
            page.set_default_timeout(1e3 * LIMIT_S)
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("dialog", lambda dialog: said.append(dialog.message))
            page.goto(url)
            if "key=" in url:
                # it has been answered, and the page of the test before has gone
                until(
                    page, "window.robopolicy && window.robopolicy.latency > 0 && window.robopolicy.status && window.robopolicy.status.control.holder === null"
                )
            return page

        yield opened
    assert said == []


def until(page, expression):
    """Wait for a condition of the page; its policy forbids the evaluation of texts inside it, so it is asked from outside."""
    limit = time.monotonic() + LIMIT_S
    while not page.evaluate(expression):
        assert time.monotonic() < limit, f"{expression}: {page.evaluate('window.robopolicy && window.robopolicy.status')}"
        time.sleep(0.02)


def test_the_page_shows_the_robot_and_words_from_outside_stay_words(run, visit):
    page = visit(run.source.url)
    assert "key=" not in page.url  # it is a cookie now
    until(page, "document.getElementById('state').textContent === 'ACTIVE'")
    until(page, "document.getElementById('task').textContent === 'push <b>it</b>'")
    until(page, "document.getElementById('facts').textContent.includes('toy <i>robot</i>')")
    until(page, "document.getElementById('facts').textContent.includes('4 of 9') && document.getElementById('facts').textContent.includes('2 good')")
    until(
        page, "[...document.querySelectorAll('canvas')].some((c) => c.dataset.camera === 'observation.images.<top>' && c.dataset.drawn > 3 && c.width === 80)"
    )
    until(page, "(window.robopolicy.status.readings['observation.state'] || [])[1] === null")
    until(page, "window.robopolicy.latency > 0")
    run.status = Status(recording=True, taken=True, line="<script>alert(1)</script>")
    until(page, "document.getElementById('recording').classList.contains('on') && document.getElementById('takeover').classList.contains('on')")
    until(page, "document.getElementById('line').textContent === '<script>alert(1)</script>'")
    assert page.locator("main script, main b, main i:not(.pad i)").count() == 0
    run.status = Status()


def test_held_keys_move_and_a_page_that_is_not_looked_at_lets_go(run, visit):
    page = visit(run.source.url)
    run.still()
    for key, axis, sign in (("w", 0, 1), ("s", 0, -1), ("a", 1, 1), ("f", 2, -1), ("i", 4, 1), ("l", 5, -1)):
        page.keyboard.down(key)
        run.moves(axis, sign)
        page.keyboard.up(key)
        run.still()
    page.keyboard.down("e")
    run.wait(lambda: run.now.grip == 1 and run.now.clutch, "gripper")
    page.keyboard.up("e")
    page.keyboard.down("w")
    page.keyboard.down("r")
    run.wait(lambda: run.now.twist.tolist() == [1, 0, 1, 0, 0, 0], "two keys")
    for lost in ("window.dispatchEvent(new Event('blur'))", "window.dispatchEvent(new Event('pagehide'))"):
        page.evaluate(lost)
        run.still()  # though the keys are still down
        page.keyboard.up("w")
        page.keyboard.down("w")
        run.moves(0, 1)
    page.keyboard.up("w")
    page.keyboard.up("r")
    before = run.now.dial
    page.keyboard.press("+")
    run.wait(lambda: run.now.dial == pytest.approx(before + 0.1), "dial")
    page.locator("#dial").fill("25")
    run.wait(lambda: run.now.dial == 0.25, "dial by hand")


def test_every_key_and_button_asks_for_its_event_once(run, visit):
    page = visit(run.source.url)
    keys = {
        "Enter": "start", "y": "success", "n": "failure", "Backspace": "discard", "t": "takeover", "g": "release",
        "h": "home", "c": "frame", " ": "grip", "z": "hold", "v": "resume",
    }  # fmt: skip
    for key in keys:
        page.keyboard.press(key)
    run.wait(lambda: len(run.events) >= len(keys), "keys")
    assert run.events == list(keys.values())
    run.events.clear()
    for name in ("start", "discard", "takeover"):
        page.locator(f'[data-event="{name}"]').click()
    page.locator("#quit").click()
    page.locator("#quit").click()
    run.wait(lambda: len(run.events) >= 4, "buttons")
    assert run.events == ["start", "discard", "takeover", "quit"]
    run.wait(lambda: run.asked == ["hold", "resume"], "the run itself")


def test_a_gamepad_moves_while_its_shoulder_is_held_and_is_shaken(run, visit):
    page = visit(run.source.url)
    page.evaluate("window.pad.axes = [0, -1, 0, 0]")
    run.still()
    page.evaluate("window.pad.buttons[4] = 1")
    run.moves(0, 1)
    page.evaluate("window.pad.axes = [0, 0, 0, -0.56]")
    run.wait(lambda: run.now.twist[2] == pytest.approx(0.5) and run.now.twist[0] == 0, "half way, less the dead zone")
    page.evaluate("window.pad.buttons[5] = 1")  # the other shoulder: the stick tilts
    run.moves(4, 1)
    page.evaluate("window.pad.buttons[7] = 0.5")
    run.wait(lambda: run.now.grip == -0.5, "trigger")
    page.evaluate("window.pad.axes = [NaN, Infinity, 0, 0]")
    run.wait(lambda: not run.now.twist.any() and run.now.clutch, "an axis that is none")
    page.evaluate("window.pad.buttons.fill(0); window.pad.buttons[0] = 1")
    run.wait(lambda: run.events == ["success"], "button")
    run.still()
    assert run.events == ["success"]  # held, it is pressed once
    page.evaluate("window.pad.buttons[0] = 0; window.pad.buttons[8] = 1")
    run.wait(lambda: run.events == ["success", "stop"] and run.asked == ["stop"], "stop")
    page.evaluate("window.pad.buttons[8] = 0")
    run.source.feedback("limit")
    until(page, "window.robopolicy.cues.includes('limit') && window.pad.shaken.length === 1")
    run.source.feedback("recording")
    until(page, "window.robopolicy.cues.includes('recording')")


def test_two_fingers_hold_two_pads_and_lifting_one_leaves_the_other(run, visit):
    page = visit(run.source.url, has_touch=True, is_mobile=True)
    page.locator("#touch").scroll_into_view_if_needed()
    devtools = page.context.new_cdp_session(page)
    middle = lambda name: (lambda box: (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))(page.locator(name).bounding_box())  # noqa: E731
    (lx, ly), (rx, ry) = middle("#left"), middle("#right")
    touch = lambda kind, *points: devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y, "id": n} for n, x, y in points]})  # noqa: E731
    touch("touchStart", (1, lx, ly))
    touch("touchMove", (1, lx, ly - 75))
    run.wait(lambda: run.now.clutch and run.now.twist[0] > 0.95, "left pad")
    touch("touchStart", (1, lx, ly - 75), (2, rx, ry))
    touch("touchMove", (1, lx, ly - 75), (2, rx, ry + 37.5))
    run.wait(lambda: run.now.twist[0] > 0.95 and run.now.twist[2] == pytest.approx(-0.5, abs=0.1), "both pads")
    touch("touchEnd", (2, rx, ry + 37.5))
    run.wait(lambda: run.now.clutch and run.now.twist[0] > 0.95 and run.now.twist[2] == 0, "one is lifted")
    touch("touchEnd")
    run.still()


def test_a_phone_turns_the_hand_while_its_button_is_held(run, visit):
    page = visit(run.source.url, has_touch=True, is_mobile=True)
    tell = "(a) => window.dispatchEvent(Object.assign(new Event('deviceorientation'), {alpha: a[0], beta: a[1], gamma: a[2]}))"
    button = page.locator("#phone")
    button.dispatch_event("pointerdown", {"pointerId": 1})
    page.evaluate(tell, [30.0, 0.0, 0.0])
    run.wait(lambda: run.now.pose is not None, "pose")
    np.testing.assert_allclose(run.now.pose[:3, 1], [1, 0, 0], atol=1e-6)  # wherever its top pointed at first is forward
    first = run.now.pose[:3, :3]
    page.evaluate(tell, [75.0, 0.0, 0.0])
    turned = np.array([[1, -1, 0], [1, 1, 0], [0, 0, math.sqrt(2)]]) / math.sqrt(2)
    run.wait(lambda: run.now.pose is not None and np.abs(run.now.pose[:3, :3] @ first.T - turned).max() < 1e-6, "45 degrees to the left")
    assert run.now.sound()
    button.dispatch_event("pointerup", {"pointerId": 1})
    run.wait(lambda: run.now.pose is None and not run.now.clutch, "let go")
    pose = page.evaluate("""async () => { const p = await import("/phone.js"); return [
        p.fromAngles(90, 90, 0), p.upright({x: 1, y: 2, z: 3}, {x: 0.1, y: 0.2, z: 0.3, w: 0.9}), p.facing([1, 0, 2, 1, 0, 0, 0], Math.PI / 2)]; }""")
    np.testing.assert_allclose(pose[0], [0.5, 0.5, 0.5, 0.5], atol=1e-9)
    assert pose[1] == [1, -3, 2, 0.9, 0.1, -0.3, 0.2]
    np.testing.assert_allclose(pose[2], [0, -1, 2, math.sqrt(0.5), 0, 0, -math.sqrt(0.5)], atol=1e-9)


def test_silence_opens_the_clutch_within_its_time(run, visit):
    page = visit(run.source.url)
    page.keyboard.down("w")
    run.moves(0, 1)
    followed, opened, ended = [], threading.Event(), threading.Event()

    def look():
        while not ended.wait(0.002):
            now = run.now
            followed.append(now.age if now.clutch else 0.0)
            if not now.clutch:
                opened.set()

    thread = threading.Thread(target=look)
    thread.start()
    page.evaluate("() => { const begun = Date.now(); while (Date.now() - begun < 1500); }")  # it hangs, though its connection stands
    ended.set()
    thread.join()
    assert opened.is_set() and max(followed) <= run.source.stale_s  # older input was never followed
    page.keyboard.up("w")
    run.still()
    page.keyboard.down("w")
    run.moves(0, 1)
    page.close()
    run.wait(lambda: not run.now.clutch and run.now.age == math.inf, "a closed page")


def test_one_browser_has_the_controls_and_the_others_look_on(run, visit):
    first, second = visit(run.source.url), visit(run.source.url)
    first.keyboard.down("w")
    run.moves(0, 1)
    second.keyboard.down("s")
    until(second, "document.body.classList.contains('watching') && !window.robopolicy.status.control.yours")
    until(second, "document.getElementById('facts').textContent.includes('you look on')")
    second.keyboard.press("Enter")
    until(second, "document.getElementById('line').textContent === 'start: another browser has the controls'")
    run.moves(0, 1)  # on a busy machine input may have been too old for a moment
    assert run.events == []
    first.keyboard.up("w")
    second.keyboard.up("s")
    first.locator("#control").click()
    until(second, "window.robopolicy.status.control.holder === null")
    second.keyboard.down("s")
    run.moves(0, -1)
    first.get_by_role("button", name="STOP").click()  # anybody may
    run.wait(lambda: "stop" in run.events and "stop" in run.asked, "stop")
    second.close()
    until(first, "window.robopolicy.status.control.holder === null")


def test_without_the_key_there_is_a_page_that_can_stop_and_nothing_else(run, visit):
    page = visit(run.source.url.partition("?")[0])
    until(page, "document.body.dataset.connected === 'yes'")
    assert page.locator("button").all_inner_texts() == ["STOP", "Hold"]
    page.get_by_role("button", name="STOP").click()
    page.get_by_role("button", name="Hold").click()
    run.wait(lambda: run.asked == run.events == ["stop", "hold"], "stop and hold")  # by two ways: either may be first
    answer = page.evaluate("""() => new Promise((done) => { const s = new WebSocket(`ws://${location.host}/socket`); const heard = []; s.onopen = () => {
        s.send(JSON.stringify({kind: "beat", number: 1, echo: 0, axes: [1, 0, 0, 0, 0, 0], gripper: 0, clutch: true, dial: 1}));
        s.send(JSON.stringify({kind: "event", name: "takeover", echo: 0})); s.send(JSON.stringify({kind: "control", value: 1})); };
        s.onmessage = (m) => { heard.push(JSON.parse(m.data)); if (heard.filter((x) => x.kind === "line").length === 2) { s.close(); done(heard); } }; })""")
    assert {"kind": "line", "text": "takeover: needs the key of this page", "refused": True} in answer
    status = next(said for said in answer if said["kind"] == "status")
    assert set(status) == {"kind", "trusted", "you", "events"} and status["events"] == ["stop", "hold"]  # it is told nothing of the robot
    assert not run.now.clutch and run.events == ["stop", "hold"]


def test_a_stop_is_sent_however_much_waits_before_it(run, visit):
    page = visit(run.source.url)
    said = page.evaluate("""async () => { const { Connection } = await import("/connection.js"); const sent = [], full = Object.create(Connection.prototype);
        full.socket = { readyState: WebSocket.OPEN, bufferedAmount: 1e6, send: (text) => sent.push(JSON.parse(text).name) };
        Object.assign(full, { pending: [], echo: 0 });
        return [full.press("stop"), full.press("start"), full.press("hold"), sent, full.pending]; }""")
    assert said == [True, False, True, ["stop", "hold"], []]


def test_a_stop_that_the_run_does_not_hear_is_latched_for_the_drive(tmp_path, monkeypatch, visit):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path))
    with ExitStack() as stack:
        run = Run()
        stack.callback(run.close)
        run.join(str(robot_folder("toy") / "estop.json"))
        run.answers = False
        page = visit(run.source.url)
        page.keyboard.press("Escape")
        until(page, "document.getElementById('line').textContent.includes(\"stopped by the drive's latch\")")
        assert Latch(robot_folder("toy")).read() is not None


def test_https_lets_the_phone_move_and_says_what_http_costs(tmp_path, visit):
    require("openssl")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    with ExitStack() as stack:
        source = PageSource(PageConfig(port=0, bind="0.0.0.0", certificate=str(certificate), certificate_key=str(key)))
        stack.callback(source.close)
        assert source.url.startswith("https://") and len(source.notes) == 1
        motion = MotionLimits.from_dict(
            {"names": ["one"], "low": [-1.0], "high": [1.0], "velocity": [1.0], "acceleration": [1.0], "jerk": [9.0]}
            | {"stop_acceleration": [2.0], "stop_jerk": [20.0], "tracking": [0.1]}
        )
        spec = Spec(ObservationSpec({"observation.state": Field((1,), names=("one",))}), ActionSpec({"joints": Field((1,), unit="rad", names=("one",))}, 20.0))
        source.attach(spec, RobotInfo("toy", 100.0, "holds", 0.2, motion=motion))
        page = visit(f"https://localhost:{source.url.rpartition(':')[2]}", ignore_https_errors=True)
        assert page.evaluate("window.isSecureContext") and page.locator("#phone").is_enabled()
        until(page, "window.robopolicy.status.about.name === 'toy' && !document.getElementById('jointwise').hidden")
        page.locator("#joints").check(force=True)
        page.keyboard.down("s")
        limit = time.monotonic() + LIMIT_S
        while (now := source.poll()).joints is None or not now.joints.any():
            assert time.monotonic() < limit
        assert now.joints.tolist() == [-1.0]
        cookie = next(c for c in page.context.cookies() if c["name"].startswith("robopolicy-"))
        assert cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Strict"
        page.close()
    plain = PageSource(PageConfig(port=0, bind="0.0.0.0"))
    plain.close()
    assert len(plain.notes) == 2 and "HTTPS" in plain.notes[1] and "certificate=" in plain.notes[1]
    assert json.dumps(plain.notes).count("key=") == 2
