"""What browsers say to the teleoperation page is checked, and one of them has the controls."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real.teleop.page import matrix
from real.teleop.page_http import Gate
from real.teleop.page_input import AXES, EVENTS, JOINTS, SAFER, Beat, Controls, Event, Malformed, Wish, parse
from real.teleop.page_view import jpeg, plain

SECOND = 1_000_000_000


def beat(**changed):
    said = {"kind": "beat", "number": 1, "echo": 5, "axes": [0.0] * AXES, "gripper": 0, "clutch": False, "dial": 0.5}
    return json.dumps({**said, **changed})


def test_a_beat_is_read_and_brought_into_its_ranges():
    read = parse(beat(number=7, echo=3, axes=[2, -2, 0.5, 0, 0, 1e17], gripper=-9, clutch=True, dial=0, joints=[0.25] * JOINTS))
    assert read == Beat(7, 3000, (1, -1, 0.5, 0, 0, 1), (0.25,) * JOINTS, (), -1, True, 0.01)
    assert parse(beat(pose=[1, 2, 3, 1, 0, 0, 0])).pose == (1, 2, 3, 1, 0, 0, 0)
    assert parse('{"kind": "event", "name": "stop", "echo": 2}') == Event("stop", 2000)
    assert parse('{"kind": "drawn", "value": 12}') == Wish("drawn", 12)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "1", "{", "[" * 5000, "x" * 3000, b"{}", b"\xff\xfe", '{"kind": "quit"}', '{"kind": "beat"}', '{"kind": "beat", "kind": 3}',
        '{"kind": "event", "name": "reboot", "echo": 1}', '{"kind": "event", "name": ["stop"], "echo": 1}',
        '{"kind": "control"}', '{"kind": "drawn", "value": -1}',
        beat(axes=[0] * 5), beat(axes=[0] * 7), beat(axes="000000"), beat(axes=[0] * 1000), beat(joints=[0] * (JOINTS + 1)),
        beat(axes=[0] * 5 + [True]), beat(axes=[0] * 5 + ["1"]), beat(axes=[0] * 5 + [None]),
        beat(axes=[math.nan] + [0] * 5), beat(axes=[math.inf] + [0] * 5), beat(axes=[1e300] + [0] * 5), beat(axes=[10**400] + [0] * 5),
        beat(clutch=1), beat(clutch=None), beat(number=-1), beat(number=1.0), beat(number=True), beat(number=1 << 53), beat(echo="1"),
        beat(gripper=None), beat(dial=[]), beat(pose=[0] * 7), beat(pose=[0] * 6), beat(pose=[0, 0, 0, 2, 0, 0, 0]), beat(more=1),
    ],
)  # fmt: skip
def test_what_no_page_sends_is_malformed(text):
    with pytest.raises(Malformed):
        parse(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9), lambda x: st.lists(x, max_size=8) | st.dictionaries(st.text(max_size=6), x)
)
NAMES = ("kind", "number", "echo", "axes", "joints", "pose", "gripper", "clutch", "dial", "name", "value")


@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.sampled_from(["beat", "event", "control", "drawn", 3]))
def test_a_message_is_read_or_malformed_and_nothing_else(found, kind):
    try:
        read = parse(json.dumps({**found, "kind": kind}))
    except Malformed:
        return
    if isinstance(read, Beat):
        assert all(-1 <= v <= 1 for v in (*read.axes, *read.joints, read.gripper)) and 0 < read.dial <= 1 and len(read.axes) == AXES


@given(st.text() | st.binary())
def test_noise_is_malformed(text):
    with pytest.raises(Malformed):
        parse(text)


def test_who_moves_first_has_the_controls_and_others_look_on():
    controls = Controls()
    first, second, stranger = controls.join(True, 0), controls.join(True, 0), controls.join(False, 0)
    move = lambda number, at: Beat(number, at, (1.0,) * 6, clutch=True)  # noqa: E731
    assert controls.held(0) == (Beat(), 0)
    controls.beat(stranger, move(1, 10), 10)
    assert controls.holder is None and controls.held(10) == (Beat(), 0)  # whoever has no key is nobody
    controls.beat(first, Beat(1, 20), 20)  # it only says that it is there
    assert controls.holder is None and controls.held(20) == (Beat(), 20)
    controls.beat(second, move(1, 30), 40)
    controls.beat(first, move(2, 40), 50)
    assert controls.holder == second.number and controls.held(60) == (move(1, 30), 30)
    assert not controls.control(first, True, 60) and controls.event(first, Event("start", 60), 60) == "start: another browser has the controls"
    assert controls.control(second, False, 60) and controls.holder is None
    assert controls.control(first, True, 60) and controls.held(60)[0] == move(2, 40)
    controls.leave(first)
    assert controls.holder is None and controls.held(70) == (Beat(), 30)


def test_a_browser_that_is_not_heard_loses_the_controls():
    controls = Controls()
    first, second = controls.join(True, 0), controls.join(True, 0)
    controls.beat(first, Beat(1, 0, clutch=True), 0)
    controls.beat(second, Beat(1, SECOND, clutch=True), 2 * SECOND)
    assert controls.holder == first.number
    controls.beat(second, Beat(2, 2 * SECOND, clutch=True), 2 * SECOND + 2)
    assert controls.holder == second.number


def test_a_beat_proves_no_more_than_its_echo_and_an_older_one_changes_nothing():
    controls = Controls()
    browser = controls.join(True, 0)
    controls.beat(browser, Beat(5, 100, clutch=True), 900)
    assert controls.held(900)[1] == 100
    controls.beat(browser, Beat(4, 800), 950)
    assert controls.held(950) == (Beat(5, 100, clutch=True), 100)
    controls.beat(browser, Beat(6, 1 << 60, clutch=True), 1000)  # from the future
    assert controls.held(1000)[1] == 1000


def test_events_need_key_controls_and_freshness_unless_they_make_it_safer():
    controls = Controls()
    stranger, one = controls.join(False, 0), controls.join(True, 0)
    now = 10 * SECOND
    for name in EVENTS:
        refused = controls.event(stranger, Event(name, now), now)
        assert bool(refused) == (name not in SAFER), name
        now += SECOND
        assert bool(controls.event(one, Event(name, now - 2 * SECOND), now)) == (name not in SAFER), name
    assert controls.holder is None and [name for _, name in controls.events] == ["hold", "hold", "stop", "stop"]
    assert controls.event(one, Event("takeover", now), now) == "" and controls.holder == one.number
    now += SECOND
    for _ in range(1000):  # a flood is one stop: it pushes nothing out of the list
        assert controls.event(stranger, Event("stop"), now) == ""
    assert [name for _, name in controls.events] == ["hold", "hold", "stop", "stop", "takeover", "stop"]
    numbers = [number for number, _ in controls.events]
    assert numbers == sorted(set(numbers)) and controls.refused == 2 * (len(EVENTS) - len(SAFER))
    for n in range(100):
        controls.event(one, Event("stop"), now + n * SECOND)
    assert len(controls.events) == 32


def test_only_names_of_this_machine_are_answered_and_only_its_own_pages_connect():
    gate = Gate("k" * 16, secure=False)
    for host in ("127.0.0.1:80", "localhost", "localhost:9", "[::1]:8090", "192.168.1.7:8090", "LOCALHOST"):
        assert gate.own_host(host), host
    for host in (
        "",
        "example.org",
        "example.org:80",
        "127.0.0.1.example.org",
        "127.0.0.1:80:80",
        "a b",
        "localhost:999999",
        "[::1",
        "127.0.0.1/",
        "127.0.0.1@x",
    ):
        assert not gate.own_host(host), host
    assert gate.own_origin(["http://localhost:9"], "localhost:9")
    for origins in (
        [],
        ["http://localhost:8"],
        ["https://localhost:9"],
        ["http://localhost:9", "http://localhost:9"],
        ["null"],
        ["http://localhost:9.example.org"],
    ):
        assert not gate.own_origin(origins, "localhost:9"), origins
    assert Gate("k" * 16, secure=True).own_origin(["https://localhost:9"], "localhost:9")


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_poses_are_rotations_as_mujoco_has_them(q):
    import mujoco

    quaternion = np.array(q) / np.linalg.norm(q)
    wanted = np.empty(9)
    mujoco.mju_quat2Mat(wanted, quaternion)
    found = matrix([1.0, 2.0, 3.0, *quaternion])
    np.testing.assert_allclose(found[:3, :3], wanted.reshape(3, 3), atol=1e-12)
    assert found[:3, 3].tolist() == [1, 2, 3] and found[3].tolist() == [0, 0, 0, 1]


def test_what_is_shown_is_plain_and_bounded():
    deep = {"a": np.float32(0.5), "b": np.array([np.nan, 1.0]), "c": [math.inf, 3], "d": "x" * 1000, "e": object, "f": np.zeros((30, 30)), "g": True, 7: None}
    shown = plain(deep)
    text = json.dumps(shown, allow_nan=False)
    assert shown["a"] == 0.5 and shown["b"] == [None, 1.0] and shown["c"] == [None, 3] and len(shown["d"]) == 300 and len(shown["f"]) == 64
    assert shown["g"] is True and shown["7"] is None and len(text) < 3000


def test_images_become_jpeg_of_a_size_that_a_page_takes():
    import io

    from PIL import Image

    ramp = np.linspace(0, 255, 320 * 240 * 3).reshape(240, 320, 3).astype(np.uint8)
    back = np.asarray(Image.open(io.BytesIO(jpeg(ramp, 90))))
    assert back.shape == ramp.shape and np.abs(back.astype(int) - ramp).mean() < 2
    assert Image.open(io.BytesIO(jpeg(np.zeros((1080, 1920, 3), np.uint8), 75))).size == (960, 540)
    assert Image.open(io.BytesIO(jpeg(np.full((10, 12, 1), 200, np.uint8), 75))).mode == "L"
