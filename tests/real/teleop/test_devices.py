"""Devices at their lowest seam: characters of a pseudo-terminal, a virtual gamepad of SDL, HID reports, joint states over ROS 2."""

from __future__ import annotations

import os
import pty
import select
import struct
import termios
import time
from pathlib import Path

import numpy as np
import pytest

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from real.robot import RobotInfo
from real.teleop import DEVICES, device_class
from real.teleop.gamepad import GamepadConfig, GamepadSource
from real.teleop.keyboard import KeyboardConfig, KeyboardSource
from real.teleop.leader import LeaderConfig, LeaderSource
from real.teleop.scripted import ScriptedSource
from real.teleop.source import Input
from real.teleop.spacemouse import SpacemouseConfig, SpacemouseSource, is_spacemouse, open_hid
from real.teleop.together import Together
from tests.real.ros.domains import free_domain

INFO = RobotInfo("arm", 100.0, "holds", 0.25)
ARM = Spec(ObservationSpec({}), ActionSpec({"joints": Field((3,), unit="rad", kind="position", names=("a", "b", "c"))}))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_devices_are_found_by_name():
    for name in DEVICES:
        found = device_class(name)
        assert hasattr(found, "Config") and found.name
    with pytest.raises(InputError, match="did you mean 'gamepad'"):
        device_class("gamepd")


# ---- keyboard


@pytest.fixture
def typed():
    """A keyboard on a pseudo-terminal, what types on it, and its clock."""
    master, slave = pty.openpty()
    clock, before = Clock(), termios.tcgetattr(slave)
    source = KeyboardSource(KeyboardConfig(file=os.ttyname(slave)), clock)
    source.attach(ARM, INFO)

    def type_in(text: bytes) -> Input:
        os.write(master, text)
        deadline = time.monotonic() + 20
        while not select.select([slave], [], [], 0.05)[0]:
            assert time.monotonic() < deadline, "the terminal does not pass it on"
        return source.poll()

    yield source, type_in, clock, slave, before
    source.close()
    os.close(master)
    os.close(slave)


def test_a_held_key_moves_and_one_that_is_let_go_stops(typed):
    source, type_in, clock, *_ = typed
    assert type_in(b"w").twist.tolist() == [1, 0, 0, 0, 0, 0] and source.poll().clutch
    clock.now = 0.2
    assert not source.poll().clutch, "one press moves for a moment"
    for k in range(10):  # the keyboard repeats, every 33 ms, after its delay
        clock.now = 0.5 + 0.033 * k
        value = type_in(b"w")
        assert value.clutch and value.twist[0] == 1
    clock.now += 0.1
    assert source.poll().clutch
    clock.now += 0.1
    assert not source.poll().clutch and source.poll().age == 0.0


def test_keys_ask_turn_grip_choose_joints_and_set_the_speed(typed):
    source, type_in, clock, *_ = typed
    assert type_in(b"y").events == ("success",) and source.poll().events == ()
    assert type_in(b"\r").events == ("start",) and type_in(b"\x7f").events == ("discard",)
    assert type_in(b"\x1b").events == ()
    clock.now += 0.05
    assert source.poll().events == ("stop",), "escape alone"
    assert type_in(b"\x1b").events == () and type_in(b"[D").events == () and source.poll().twist[1] == 1, "an arrow in two pieces"
    clock.now += 1
    assert type_in(b"j").twist.tolist() == [0, 0, 0, 0, 0, 1]
    clock.now += 1
    assert type_in(b"\x1b[A").twist[0] == 1, "an arrow is no escape"
    clock.now += 1
    assert type_in(b"e").grip == 1.0
    clock.now += 1
    dial = source.poll().dial
    assert type_in(b"+").dial > dial
    type_in(b"2")
    value = type_in(b"s")
    assert value.joints is not None and value.joints.tolist() == [0, -1, 0] and not value.twist.any() and value.sound()


def test_a_terminal_that_closes_between_two_looks_ends_no_run():
    master, slave = pty.openpty()
    source = KeyboardSource(KeyboardConfig(file=os.ttyname(slave)))
    os.close(master)
    source.feedback("limit")  # nobody has polled since: it does not know yet
    assert source.poll().age == float("inf")
    source.close()
    os.close(slave)


def test_the_terminal_is_left_as_it_was_found(typed):
    source, _, _, slave, before = typed
    assert termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON) == 0
    assert termios.tcgetattr(slave)[3] & termios.ISIG, "Ctrl-C still interrupts"
    source.close()
    assert termios.tcgetattr(slave) == before
    source.close()


def test_without_a_terminal_there_is_one_clear_line(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="no terminal"):
        KeyboardSource(KeyboardConfig(file=str(file)))


# ---- gamepad


@pytest.fixture
def pad(monkeypatch):
    """A gamepad source, and SDL itself, which can make virtual gamepads."""
    import ctypes

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    import pygame

    libraries = sorted((Path(pygame.__file__).parents[1] / "pygame.libs").glob("libSDL2-2*"))
    assert libraries, "pygame's wheel brings its own SDL"
    sdl = ctypes.CDLL(str(libraries[0]))
    sdl.SDL_JoystickOpen.restype = ctypes.c_void_p
    source = GamepadSource(GamepadConfig(dial=0.4), clock := Clock())

    def plug():
        index = sdl.SDL_JoystickAttachVirtual(1, 6, 15, 0)
        assert index >= 0
        return index, ctypes.c_void_p(sdl.SDL_JoystickOpen(index))

    yield source, sdl, plug, clock
    while sdl.SDL_NumJoysticks() > 0 and sdl.SDL_JoystickDetachVirtual(0) == 0:
        pass
    source.close()


def test_sticks_move_while_the_shoulder_is_held_and_unplugging_lets_go(pad):
    source, sdl, plug, clock = pad
    value = source.poll()
    assert not value.clutch and value.age == float("inf") and value.dial == 0.4, "there is none"
    assert source.notes == ("no gamepad is connected yet; plug it in at any time",)
    index, stick = plug()
    clock.now = 2.0
    value = source.poll()
    assert value.age == 0.0 and not value.clutch
    sdl.SDL_JoystickSetVirtualAxis(stick, 1, -32768)  # left stick forward
    sdl.SDL_JoystickSetVirtualAxis(stick, 0, 16384)  # and half right
    assert not source.poll().clutch
    sdl.SDL_JoystickSetVirtualButton(stick, 10, 1)  # right shoulder
    value = source.poll()
    assert value.clutch and value.sound()
    np.testing.assert_allclose(value.twist, [1, -0.5, 0, 0, 0, 0], atol=1e-3)
    sdl.SDL_JoystickSetVirtualButton(stick, 9, 1)  # left shoulder: the same stick turns
    np.testing.assert_allclose(source.poll().twist, [0, 0, 0, 0.5, 1, 0], atol=1e-3)
    sdl.SDL_JoystickDetachVirtual(index)
    value = source.poll()
    assert not value.clutch and value.age == float("inf") and not value.twist.any()
    _, stick = plug()
    clock.now = 4.0
    source.poll()
    sdl.SDL_JoystickSetVirtualButton(stick, 10, 1)
    assert source.poll().clutch, "plugged in again"


def test_buttons_of_the_gamepad_ask_once(pad):
    source, sdl, plug, clock = pad
    _, stick = plug()
    clock.now = 2.0
    source.poll()
    for button, event in ((3, "success"), (2, "failure"), (1, "discard"), (0, "grip"), (6, "start"), (4, "release"), (5, "stop")):
        sdl.SDL_JoystickSetVirtualButton(stick, button, 1)
        assert source.poll().events == (event,)
        assert source.poll().events == ()
        sdl.SDL_JoystickSetVirtualButton(stick, button, 0)
        assert source.poll().events == ()
    sdl.SDL_JoystickSetVirtualAxis(stick, 5, 32767)  # right trigger
    assert source.poll().grip == pytest.approx(1.0, abs=1e-3)
    sdl.SDL_JoystickSetVirtualButton(stick, 11, 1)  # cross up
    assert source.poll().dial == pytest.approx(0.5)
    source.feedback("saved")


# ---- spacemouse


class Hid:
    """Gives the reports that it was given."""

    def __init__(self) -> None:
        self.reports: list[bytes] = []
        self.gone = self.closed = False

    def read(self, max_length: int) -> list[int]:
        if self.gone:
            raise OSError("read error")
        return list(self.reports.pop(0)) if self.reports else []

    def close(self) -> None:
        self.closed = True


def test_reports_of_a_spacemouse_become_twists():
    device, clock = Hid(), Clock()
    source = SpacemouseSource(SpacemouseConfig(), clock, lambda path: device)
    assert not source.poll().clutch
    device.reports = [b"\x01" + struct.pack("<3h", 350, -175, 0), b"\x02" + struct.pack("<3h", 0, 0, -350)]
    value = source.poll()
    # the cap is pushed right and half away from the person, and turned left seen from above
    np.testing.assert_allclose(value.twist, [0.5, -1, 0, 0, 0, 1], atol=1e-6)
    assert value.clutch and value.sound() and value.age == 0.0
    clock.now = 0.5
    assert source.poll().age == pytest.approx(0.5), "a deflected cap that says nothing has been lost"
    device.reports = [b"\x01" + struct.pack("<6h", 0, 0, 0, 0, 0, 0)]
    value = source.poll()
    assert not value.clutch and value.age == 0.0
    device.reports = [b"\x01" + struct.pack("<6h", 0, 0, -700, 0, 0, 0)]
    assert source.poll().twist.tolist() == [0, 0, 1, 0, 0, 0], "pulled up, never more than full"
    device.reports = [b"\x03\x01\x00", b"\x03\x00\x00", b"\x03\x02\x00", b"\x17garbage", b"\x01\x02"]
    assert source.poll().events == ("grip", "release")


def test_a_spacemouse_may_be_pulled_out_and_put_back():
    first, second, clock = Hid(), Hid(), Clock()
    devices = [first]
    source = SpacemouseSource(SpacemouseConfig(clutch="button", button=0), clock, lambda path: devices.pop() if devices else None)
    first.reports = [b"\x03\x01\x00", b"\x01" + struct.pack("<3h", 0, -350, 0)]
    value = source.poll()
    assert value.clutch and value.twist[0] == 1 and value.events == (), "the clutch's button asks for nothing"
    first.gone = True
    value = source.poll()
    assert not value.clutch and value.age == float("inf") and first.closed and not source.connected
    devices.append(second)
    clock.now = 2.0
    source.poll()
    second.reports = [b"\x03\x01\x00"]
    assert source.poll().clutch
    source.close()
    assert second.closed


def test_the_library_itself_finds_what_is_there_and_names_what_may_not_be_opened():
    found = open_hid(None)  # of this machine: usually none
    if found is not None:
        found.close()
    with pytest.raises(InputError, match=r"/dev/no-such-hidraw may not be opened .*udev rule"):
        SpacemouseSource(SpacemouseConfig(path="/dev/no-such-hidraw"))


def test_spacemice_are_told_from_other_devices():
    assert is_spacemouse({"vendor_id": 0x256F, "product_id": 0xC635, "usage_page": 1, "usage": 8})
    assert is_spacemouse({"vendor_id": 0x046D, "product_id": 0xC626, "usage_page": 0, "usage": 0})
    assert not is_spacemouse({"vendor_id": 0x046D, "product_id": 0xC077, "usage_page": 1, "usage": 2}), "a mouse"
    assert not is_spacemouse({"vendor_id": 0x256F, "product_id": 0xC652, "usage_page": 1, "usage": 6}), "its receiver's keyboard"


# ---- leader arm


@pytest.fixture
def domain():
    with free_domain() as number:
        yield number


def test_a_leader_arm_is_heard_mapped_and_goes_stale(domain):
    from real.ros import api
    from real.ros.connection import Connection, best_effort

    clock = Clock()
    config = LeaderConfig(domain=domain, joints={"a": "lead_1", "b": "lead_2"}, sign={"b": -1}, scale={"c": 2.0}, offset={"a": 0.1})
    source, speaker = LeaderSource(config, clock), None
    try:
        source.attach(ARM, INFO)
        assert source.notes == ("the leader's joint states are heard on /leader/joint_states; press t to follow, g to let go",)
        speaker = Connection("leader_arm", "leader", domain, "")
        out = speaker.publisher("sensor_msgs/msg/JointState", "joint_states", best_effort())
        speaker.listen()
        message = api.message("sensor_msgs/msg/JointState")()
        message.name, message.position = ["c", "lead_2", "spare", "lead_1"], [0.5, 0.25, 9.0, 1.0]
        until = time.monotonic() + 30
        while source.poll().positions is None:
            assert time.monotonic() < until, source.problem
            out.publish(message)
            time.sleep(0.01)
        value = source.poll()
        np.testing.assert_allclose(value.positions, [1.1, -0.25, 1.0])
        assert not value.clutch and value.age == 0.0
        source.told("takeover")
        assert source.poll().clutch
        clock.now = 1.0
        assert source.poll().age == 1.0 > source.stale_s
        source.told("release")
        assert not source.poll().clutch
        message.name = ["c", "lead_2", "spare", "other"]
        while not source.problem:
            assert time.monotonic() < until
            out.publish(message)
            time.sleep(0.01)
        assert "no joint 'lead_1'" in source.problem
    finally:
        source.close()
        if speaker is not None:
            speaker.close()


def test_the_clutch_of_a_leader_is_held_by_a_pedal_alone(domain):
    for clutch in (None, "pedal"):
        source = LeaderSource(LeaderConfig(domain=domain, clutch=clutch))
        try:
            assert source.held == (clutch is not None) and Together(source, ScriptedSource()).held == source.held
        finally:
            source.close()


def test_a_leader_is_not_mapped_to_joints_that_are_not_there(domain):
    source = LeaderSource(LeaderConfig(domain=domain, sign={"d": -1}))
    try:
        with pytest.raises(InputError, match=r"sign\.d: robot 'arm' has no such joint"):
            source.attach(ARM, INFO)
    finally:
        source.close()


# ---- together


def test_the_keyboard_beside_a_device_ends_episodes_and_moves_nothing():
    main, keys = ScriptedSource(), ScriptedSource()
    both = Together(main, keys)
    main.say(Input(twist=np.array([1.0, 0, 0, 0, 0, 0]), clutch=True, events=("grip",)))
    keys.say(Input(twist=np.array([0, 1.0, 0, 0, 0, 0]), clutch=True, events=("success",)))
    value = both.poll()
    assert value.twist.tolist() == [1, 0, 0, 0, 0, 0] and value.events == ("grip", "success")
    keys.say(Input(clutch=True))
    main.say(Input())
    assert not both.poll().clutch
    both.close()
    assert main.closed and keys.closed
