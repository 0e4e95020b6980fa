"""Cameras beside a robot: stamps, newest wins, sources that stall, drop, freeze and die; as fields of any robot's observation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from real.calibration import Calibration
from real.camera import Camera
from real.camera_capture import CameraConfig, Capture, SourceError, differences
from real.camera_memory import FrameMemory
from real.camera_process import Grabber
from real.camera_robot import attach, camera_config, own_options
from real.drive import Drive
from real.drive_handle import DriveHandle
from real.drive_process import DriveProcess
from real.drive_server import open_driver
from real.latch import Latch
from real.observing import ObservationWindow
from tests.real.jointed import ROOT, Joints, Running
from tests.real.streams import FPS, HEIGHT, WIDTH, network_camera, number_of, picture, video_file
from tests.require import require

PATIENCE_S = 30.0


def until(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    require("libgl")
    return video_file(tmp_path_factory.mktemp("video") / "picture.avi")


def age(camera: Camera) -> float:
    return time.monotonic() - 1e-9 * camera.newest().capture_ns


# ---- what is shared


def test_newest_wins_and_nothing_is_seen_twice_as_new():
    writer = FrameMemory()
    writer.open((2, 3, 3))
    reader = FrameMemory(os.dup(writer.file), (2, 3, 3))
    assert reader.newest() is None
    for k in range(1, 8):
        writer.publish(np.full((2, 3, 3), k, np.uint8), 10 * k)
    found = reader.newest()
    assert (found.number, found.capture_ns, int(found.image[0, 0, 0])) == (7, 70, 7) and not found.image.flags.writeable
    assert reader.newest(after=7) is None
    writer.text = "x" * 3000
    assert len(reader.text) == 1023


def test_a_picture_that_is_overwritten_while_it_is_read_is_not_taken():
    memory = FrameMemory()
    memory.open((1, 1, 3))
    memory.publish(np.zeros((1, 1, 3), np.uint8), 1)
    about, _ = memory._slots[1]
    about[0] = 0  # the writer has begun with the next one that goes there
    memory["newest"] = 0  # so that the reader does not wait for its end
    assert memory.newest() is None


# ---- frozen or not


def grabber(**options):
    memory = FrameMemory()
    memory.open((HEIGHT, WIDTH, 3))
    return Grabber(CameraConfig(source=0, **options), memory), memory


def test_the_same_content_under_fresh_stamps_is_frozen_and_a_changed_pixel_is_not():
    grab, memory = grabber(frozen_s=0.5, frozen_frames=4)
    still, changed = picture(3), picture(3)
    changed[0, 0, 0] += 1
    stamps = []
    for k in range(20):
        grab.take(still, 10 + 0.1 * k, lambda p: p)
        stamps.append(memory.newest().capture_ns)
    assert memory["frozen"] == 1 and memory["freezes"] == 1 and memory["repeated"] == 19 and "frozen: the same picture" in memory.text
    assert stamps[4] == pytest.approx(10.4e9, abs=2) and stamps[-1] == stamps[4], "five pictures were handed on, then the stamp stood still"
    grab.take(changed, 12.0, lambda p: p)
    assert memory["frozen"] == 0 and memory.text == "" and memory.newest().capture_ns == 12_000_000_000
    for k in range(40):  # never twice the same: never frozen
        grab.take(still if k % 2 else changed, 13 + 0.1 * k, lambda p: p)
    assert memory["freezes"] == 1
    never, memory = grabber(frozen_s=None)
    for k in range(100):
        never.take(still, 10.0 + k, lambda p: p)
    assert memory["frames"] == 100 and memory["repeated"] == 0


def test_a_stream_that_says_it_is_enormous_reserves_nothing():
    memory = FrameMemory()
    before = os.fstat(memory.file).st_size
    huge = np.broadcast_to(np.zeros(3, np.uint8), (8192, 8192, 3))
    said = Grabber(CameraConfig(source="rtsp://x", frozen_s=None), memory).take(huge, 1.0, lambda picture: picture)
    assert "8192x8192 px are too large to hand on" in said and memory.shape is None and os.fstat(memory.file).st_size == before
    with pytest.raises(InputError, match="at most 33554432"):
        camera_config("front", {"source": 0, "size": [8192, 8192]})


def test_stamps_lack_the_latency_and_never_go_back():
    grab, memory = grabber(latency_ms=40.0, frozen_s=None)
    for stamp in (5.0, 4.9, 6.0):
        grab.take(picture(0), stamp, lambda p: p)
        newest = memory.newest().capture_ns
        assert newest == {5.0: 4_960_000_000, 4.9: 4_960_000_001, 6.0: 5_960_000_000}[stamp]
    assert "64x48 before" in grab.take(np.zeros((HEIGHT, 2 * WIDTH, 3), np.uint8), 7.0, lambda p: p)


# ---- files


def test_a_file_plays_at_its_rate_and_goes_stale_at_its_end(video):
    with Camera(CameraConfig(source=str(video), latency_ms=0), "wrist") as camera:
        seen = {}
        until(lambda: seen.setdefault(number_of(camera.newest().image), camera.newest().capture_ns) and "its end" in camera.fault, "played")
        assert camera.shape == (HEIGHT, WIDTH, 3) and len(seen) >= 3 and max(seen) == 14
        assert abs(int(camera.newest().image[0, -1, 0]) - 200) < 12, "RGB: the right half is red"
        for a, b in zip(sorted(seen), sorted(seen)[1:], strict=False):
            assert 1e-9 * (seen[b] - seen[a]) >= 0.99 * (b - a) / FPS - 1e-6, "never faster than its rate"
        last = age(camera)
        until(lambda: age(camera) > last + 0.3, "grows old")
        assert camera.counts()["frames"] == 15 and camera.counts()["reconnects"] == 0


def test_a_file_in_a_loop_cut_and_scaled(video):
    with Camera(CameraConfig(source=str(video), loop=True, size=(24, 24)), "wrist") as camera:
        until(lambda: camera.counts()["frames"] > 32, "played twice")
        assert camera.newest().image.shape == (24, 24, 3) and camera.counts()["losses"] == 0 and age(camera) < 5
        # the middle 48 of 64 columns: a third of them, scaled, is of the left half
        assert number_of(camera.newest().image[:, :10]) < 30 and camera.newest().image[5, 20, 0] > 150


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"source": "/dev/video97"}, "/dev/video97: there is no such device"),
        ({"source": "/nowhere/a.mp4"}, "/nowhere/a.mp4: there is no such file"),
        ({"source": __file__}, "cannot be opened: it is no video"),
        ({"source": "VIDEO", "exposure": 12}, "exposure: only V4L2 devices take it"),
    ],
)
def test_what_cannot_be_opened_is_one_line(video, options, words):
    with pytest.raises(SourceError) as error:
        Capture(CameraConfig(**{**options, "source": options["source"].replace("VIDEO", str(video))}))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_camera_that_is_not_as_asked_does_not_start(video):
    with pytest.raises(InputError, match=r"^camera 'x': .*: width: 640 asked for, 64 given; fps: 25 asked for, 60 given$"):
        Camera(CameraConfig(source=str(video), width=640, fps=25), "x")


def test_an_address_where_nothing_answers_is_named_without_its_password():
    require("libgl")
    with pytest.raises(SourceError, match=r"^http://\.\.\.@127\.0\.0\.1:9/a: cannot be opened: nothing answers there, or it is no video$"):
        Capture(CameraConfig(source="http://u:secret@127.0.0.1:9/a"))


def test_a_device_that_ignores_options_is_told_all_at_once():
    asked = CameraConfig(source=0, width=1280, height=720, fps=30, fourcc="MJPG", exposure=100)
    yuyv = float(sum(ord(letter) << 8 * k for k, letter in enumerate("YUYV")))
    given = {"width": 640.0, "height": 480.0, "fps": 15.0, "fourcc": yuyv, "exposure": 157.0}
    assert differences(asked, given) == [
        "width: 1280 asked for, 640 given",
        "height: 720 asked for, 480 given",
        "fps: 30 asked for, 15 given",
        "fourcc: MJPG asked for, YUYV given",
        "exposure: 100 asked for, 157 given",
    ]
    assert differences(CameraConfig(source=0, fps=30), {**given, "fps": 29.97}) == []


# ---- a camera on the network


def test_a_stream_that_stalls_drops_and_freezes_comes_back_each_time():
    require("libgl")
    with (
        network_camera() as server,
        Camera(CameraConfig(source=server.address, stall_s=0.5, frozen_s=0.3, frozen_frames=5, connect_s=30, retry_s=0.5), "net") as camera,
    ):

        def fresh() -> bool:
            return camera.fault == "" and age(camera) < 0.2

        until(fresh, "plays")
        server.mode = "stall"
        until(lambda: "no picture for 0.5 s" in camera.fault and age(camera) > 0.5, "the stall is noticed")
        server.mode = "play"
        until(lambda: fresh() and camera.counts()["reconnects"] == 1, "comes back from a stall")
        server.mode = "freeze"
        until(lambda: camera.frozen and age(camera) > 0.5, "fresh stamps of the source, old stamps here")
        assert "frozen" in camera.fault and camera.counts()["freezes"] == 1 and camera.counts()["reconnects"] == 1
        server.mode = "play"
        until(lambda: fresh() and not camera.frozen, "thaws")
        server.mode = "drop"
        until(lambda: camera.counts()["losses"] == 2 and "cannot be opened" in camera.fault, "the loss is noticed")
        server.mode = "play"
        until(fresh, "comes back from a loss")
        counts = camera.counts()
        assert counts["reconnects"] == 2 and server.served >= 3 and counts["repeated"] >= 5 and "secret" not in str(counts)


# ---- processes


def test_a_camera_process_that_dies_is_started_anew_and_its_reader_never_waits(video):
    with Camera(CameraConfig(source=str(video), loop=True), "wrist") as camera:
        first = camera._process
        os.kill(first.pid, signal.SIGKILL)
        before = camera.newest().number
        until(lambda: camera.newest().number > before + 5, "plays on")
        assert camera.restarts == 1 and camera._process is not first


def test_a_camera_process_ends_with_whoever_started_it(video):
    code = (
        "import sys, time\nfrom real.camera import Camera\nfrom real.camera_capture import CameraConfig\n"
        f"c = Camera(CameraConfig(source={str(video)!r}, loop=True), 'x')\nprint(c._process.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        pid = int(parent.stdout.readline())
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"  # where nobody reaps it
        except OSError:
            return True

    until(gone, "the camera's process has ended")


# ---- beside a robot


def test_a_robot_with_a_camera_keeps_its_own_abilities(video, tmp_path):
    calibration = Calibration({"kind": "robopolicy calibration", "format": 1, "cameras": {"wrist": {"latency": {"seconds": 0.035}}}})
    (tmp_path / "calibration.json").write_text(calibration.text)
    robot, joints = {"cameras": {"wrist": {"source": str(video), "loop": True}}, "calibration": str(tmp_path / "calibration.json")}, Joints()
    driver = attach(joints, robot)
    drive = Drive(driver, latch=Latch(tmp_path / "latch"))
    try:
        field = driver.spec.observation.fields["observation.images.wrist"]
        assert field.is_image and field.shape == (HEIGHT, WIDTH, 3)
        assert list(driver.spec.observation.fields) == ["observation.state", "observation.images.wrist"]
        assert driver.spec.meta["calibration"] == calibration.text and driver.spec.action == joints.spec.action
        drive.tick()
        reading = drive.reading.observation
        driver.spec.observation.validate(reading.fields)
        assert drive.offer(np.array([0.0, 0.0, 0.0]), drive.motion.reference, 1) == ""
        drive.tick()
        assert joints.words == ["write"], "what was told to the driver is what the drive said"
        assert drive.report()["cameras"]["wrist"]["frames"] >= 1
        assert camera_config("wrist", {"source": 0}, calibration).latency_ms == 35.0 and camera_config("other", {"source": 0}, calibration).latency_ms is None
    finally:
        drive.close()
    with pytest.raises(InputError, match=r"lock-step, whose time is no camera's"):
        attach(Joints(lockstep=True), {"cameras": {"wrist": {"source": 0}}})
    with pytest.raises(InputError, match=r"robot.cameras.wrist.sorce is unknown; did you mean 'source'"):
        attach(Joints(), {"cameras": {"wrist": {"sorce": 0}}})
    plain = Joints()
    assert attach(plain, {"type": "joints"}) is plain


def test_a_spec_that_a_robot_is_brought_together_with_is_shared_between_driver_and_cameras(video, tmp_path):
    camera = {"shape": [12, 16, 3], "dtype": "uint8", "unit": "px", "low": None, "high": None, "kind": "image", "names": []}
    whole = Joints().spec.to_dict()
    whole["observation"]["fields"]["observation.images.wrist"] = camera
    (tmp_path / "spec.json").write_text(json.dumps(whole))
    for given in (whole, str(tmp_path), str(tmp_path / "spec.json")):
        section = {"type": "ros2", "spec": given, "cameras": {"wrist": {"source": str(video)}}}
        assert list(own_options(section)["spec"]["observation"]["fields"]) == ["observation.state"]
        assert own_options({**section, "cameras": {}})["spec"] == given
    assert own_options({"type": "x", "spec": "/nowhere", "cameras": {"a": {}}}) == {"spec": "/nowhere"}
    driver = attach(Joints(), section)
    try:
        assert driver.spec.observation.fields["observation.images.wrist"].shape == (12, 16, 3), "as the policy wants it"
        driver.spec.observation.validate(driver.read().fields)
    finally:
        driver.close()


def test_a_drive_process_has_the_cameras_of_its_section_and_a_lost_one_is_stale(video, tmp_path):
    with pytest.MonkeyPatch.context() as patch, Running(tmp_path, "world", "twin", "--log", tmp_path / "log", "--max-steps", 1000) as twin:
        patch.setenv("ROBOPOLICY_STATE", str(tmp_path / "state"))
        section = {"type": "twin", "address": twin.ready(), "timeout_s": 1.0, "cameras": {"wrist": {"source": str(video), "size": [24, 32]}}}
        with DriveProcess(section, tmp_path) as process, DriveHandle(process.address()) as robot:
            window = ObservationWindow(robot.spec.observation, 1, max_age_s=0.5)
            readings = [robot.read()]
            assert readings[0].fields["observation.images.wrist"].shape == (24, 32, 3)

            def fault() -> str:
                readings.append(robot.read())
                window.push(readings[-1])
                return window.fault(readings[-1], time.monotonic())

            until(lambda: fault() == "stale observation", "the file has ended")
            stamps = [reading.capture_ns["observation.images.wrist"] for reading in readings]
            assert stamps == sorted(stamps)
            ages = {name: time.monotonic_ns() - stamp for name, stamp in readings[-1].capture_ns.items()}
            assert ages.pop("observation.images.wrist") > 0.4e9 > max(ages.values())
            assert robot.report()["cameras"]["wrist"]["losses"] == 1
        with pytest.raises(InputError, match=r"camera 'wrist': /nowhere.avi: there is no such file"):
            open_driver({**section, "cameras": {"wrist": {"source": "/nowhere.avi"}}})
