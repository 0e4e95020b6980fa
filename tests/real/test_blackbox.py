"""The black box: what telemetry says is on the disk within a second, whatever happens to the recorder or to the disk."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader

from policies.spec import InputError
from real.blackbox import Recorder, Watch, await_start, start
from real.blackbox_format import image_array, json_bytes
from real.blackbox_ring import Ring, RingLimits, segments
from real.mcap import Channel, McapReader
from real.telemetry import Telemetry
from real.telemetry_wire import Record
from robopolicy.data.blackbox import describe, recover
from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
TICK = Channel("/tick", "robopolicy.tick", "jsonschema", b'{"type":"object"}', "json")
PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.fixture
def keep():
    """Closes whatever it is given, however the test ends."""
    with ExitStack() as stack:
        yield lambda one: (stack.callback(one.close), one)[1]


class RecorderProcess:
    """The recorder as it is run, in a process of its own."""

    def __init__(self, telemetry: Telemetry, folder: Path, *options: str, prefix: str = "") -> None:
        self.out = folder.parent / f"{folder.name}.{time.monotonic_ns()}.out"
        code = f"{prefix}\nimport sys\nfrom real.blackbox import main\nsys.exit(main())"
        command = [sys.executable, "-c", code, "--address", telemetry.address, "--folder", str(folder), *options]
        with self.out.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        until = time.monotonic() + 60
        while not telemetry.readers:
            assert self.process.poll() is None and time.monotonic() < until, self.said
            telemetry.tick()
            time.sleep(0.01)

    @property
    def said(self) -> str:
        return self.out.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def ticks_of(path: Path) -> list[int]:
    """The numbers of the ticks in a file or folder, in order."""
    found = [path] if path.is_file() else segments(path)
    out = []
    for file in found:
        out += [json.loads(bytes(m.data)).get("n") for m in McapReader(file) if m.channel.topic == "/tick"]
    return [n for n in out if n is not None]


def wait_for(folder: Path, number: int) -> None:
    """Wait until tick ``number`` is on the disk."""
    until = time.monotonic() + 30
    while not (found := ticks_of(folder)) or found[-1] < number:
        assert time.monotonic() < until, found[-1:]
        time.sleep(0.05)


def speak(telemetry: Telemetry, first: int, last: int, pause: float = 0.001) -> None:
    for n in range(first, last):
        telemetry.tick(n=n, state="active", command=np.full(7, n, float))
        if n % 10 == 0:
            telemetry.observation({"observation.images.top": PICTURE, "observation.state": np.zeros(7, np.float32)}, {"observation.images.top": 5})
        time.sleep(pause)


def test_what_was_said_is_read_back_by_the_reference_library(tmp_path, keep):
    telemetry = keep(Telemetry())
    telemetry.info(robot="arm", model="<mujoco/>")
    recorder = keep(RecorderProcess(telemetry, tmp_path / "box"))
    speak(telemetry, 0, 200)
    telemetry.event("clamp", "velocity", before=np.full(7, np.nan), after=np.zeros(7))
    assert recorder.stop() == 0, recorder.said
    (segment,) = segments(tmp_path / "box")
    with segment.open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().library == "robopolicy"
        summary = reader.get_summary()
        assert summary is not None and summary.statistics is not None
        found = [(schema.name, channel.topic, message) for schema, channel, message in reader.iter_messages()]
    assert summary.statistics.message_count == len(found)
    assert summary.statistics.message_start_time == min(m.log_time for *_, m in found)
    ticks = [json.loads(m.data) for _, topic, m in found if topic == "/tick"]
    assert [t["n"] for t in ticks if "n" in t] == list(range(200)) and ticks[-1]["command"] == [199.0] * 7
    (event,) = [json.loads(m.data) for _, topic, m in found if topic == "/event"]
    assert event["cause"] == "velocity" and event["before"] == ["NaN"] * 7 and event["after"] == [0.0] * 7
    assert next(json.loads(m.data) for _, topic, m in found if topic == "/info")["model"] == "<mujoco/>"
    pictures = [m for name, topic, m in found if topic == "/image/top" and name == "sensor_msgs/msg/Image"]
    assert len(pictures) == 20
    camera, _, image = image_array(pictures[0].data)
    np.testing.assert_array_equal(image, PICTURE)
    assert camera == "observation.images.top"
    assert all(abs(m.log_time - time.time_ns()) < 60e9 for *_, m in found)
    times = [m.log_time for *_, m in found]
    assert times == sorted(times)


def test_kill_9_loses_at_most_the_open_chunk(tmp_path, keep):
    telemetry, box = keep(Telemetry()), tmp_path / "box"
    telemetry.info(robot="arm")
    recorder = keep(RecorderProcess(telemetry, box, "--flush-seconds", "0.3", "--segment-seconds", "0.9"))
    speak(telemetry, 0, 1000)
    wait_for(box, 999)  # these chunks are closed
    speak(telemetry, 1000, 1030, 0)  # these are on the way, or in the open chunk
    assert recorder.stop(signal.SIGKILL) == -signal.SIGKILL
    before = {path: path.read_bytes() for path in segments(box)}
    contents = recover(box)
    assert {path: path.read_bytes() for path in segments(box)} == before
    numbers = ticks_of(contents.out)
    assert numbers[:1000] == list(range(1000)) and numbers[1000:] == list(range(1000, len(numbers)))
    assert contents.unfinished == 1 and contents.damaged == 0 and contents.segments == len(before) > 1
    with contents.out.open("rb") as file:  # and the new file is one that any reader opens
        assert len(list(make_reader(file).iter_messages())) == contents.messages


def test_the_ring_keeps_the_last_minutes_within_its_bytes(tmp_path):
    now = [0.0]
    limits = RingLimits(minutes=1.0, max_bytes=1 << 20, segment_s=5.0, flush_s=1.0)
    ring = Ring(tmp_path, limits, clock=lambda: now[0])
    sizes = []
    for n in range(300):  # 300 s of a message a second
        ring.add(TICK, 10**18 + n * 10**9, [json_bytes({"n": n})])
        now[0] += 1.0
        ring.due()
        sizes.append(len(segments(tmp_path)))
    numbers = ticks_of(tmp_path)
    assert numbers == list(range(numbers[0], 300)) and 60 <= len(numbers) <= 80
    assert max(sizes) <= 16
    for n in range(300, 400):  # 5 MB: now the bytes are what limits
        ring.add(TICK, 10**18 + n * 10**9, [json_bytes({"n": n, "x": "x" * 50_000})])
        now[0] += 1.0
        ring.due()
        assert sum(p.stat().st_size for p in segments(tmp_path)) <= limits.max_bytes
    numbers = ticks_of(tmp_path)
    assert numbers == list(range(numbers[0], 400)) and len(numbers) * 50_000 > limits.max_bytes // 2
    ring.close()
    assert all(McapReader(p).path and describe(p).unfinished == 0 for p in segments(tmp_path))


def test_segments_that_somebody_removes_end_nothing(tmp_path):
    ring = Ring(tmp_path, RingLimits())
    for n in range(4):
        ring.add(TICK, 10**18 + n, [json_bytes({"n": n})])
        ring.flush()
        if n < 2:
            for path in segments(tmp_path):
                path.unlink()
        ring.end_segment()
    ring.close()
    assert ticks_of(tmp_path) == [2, 3]


def test_a_recorder_that_restarts_often_does_not_push_out_what_was_recorded(tmp_path):
    limits = RingLimits(minutes=1.0, segment_s=5.0)
    now = [0.0]
    for begun in range(30):
        ring = Ring(tmp_path, limits, clock=lambda: now[0])
        for n in range(2):
            ring.add(TICK, 10**18 + (begun * 2 + n) * 10**9, [json_bytes({"n": begun * 2 + n})])
            now[0] += 1.0
            ring.due()
        ring.close()
    assert ticks_of(tmp_path) == list(range(60))  # 30 segments, but only half a minute
    with pytest.raises(InputError, match="another recorder"):
        first = Ring(tmp_path, limits)
        try:
            Ring(tmp_path, limits)
        finally:
            first.close()


def test_a_full_disk_is_said_once_and_recording_goes_on_when_there_is_room(tmp_path, keep):
    require("small-disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    # room for all that is said once there is room again, however late that is noticed
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
    try:
        telemetry, box = keep(Telemetry()), disk / "box"
        (disk / "other").write_bytes(bytes(1_000_000))
        recorder = keep(RecorderProcess(telemetry, box, "--flush-seconds", "0.1", "--segment-seconds", "0.3"))
        speak(telemetry, 0, 100)
        wait_for(box, 99)
        (disk / "other").unlink()
        fill(disk / "other")
        until = time.monotonic() + 30
        n = 100
        while "No space left" not in recorder.said:
            assert time.monotonic() < until, recorder.said
            speak(telemetry, n, n + 50)
            n += 50
        before = resident(recorder.process.pid)
        for _ in range(20):  # 20 MB that find no room
            speak(telemetry, n, n + 40)
            n += 40
        assert resident(recorder.process.pid) - before < 20e6
        (disk / "other").unlink()
        until = time.monotonic() + 30
        while "recording again" not in recorder.said:
            assert time.monotonic() < until, recorder.said
            speak(telemetry, n, n + 50)
            n += 50
        wait_for(box, n - 1)
        assert recorder.stop() == 0
        assert recorder.said.count("No space left") == 1
        contents = describe(box)
        assert contents.lost_before > 0 and "/recorder" in contents.topics
        assert ticks_of(box)[-1] == n - 1
        assert telemetry.dropped == 0  # the publisher noticed nothing
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def resident(pid: int) -> float:
    return os.sysconf("SC_PAGE_SIZE") * float(Path(f"/proc/{pid}/statm").read_text().split()[1])


def test_a_limit_on_file_size_only_shortens_the_segments(tmp_path, keep):
    telemetry, box = keep(Telemetry()), tmp_path / "box"
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, {resource.RLIM_INFINITY}))"
    recorder = keep(RecorderProcess(telemetry, box, "--flush-seconds", "0.1", "--segment-seconds", "1000", prefix=limit))
    speak(telemetry, 0, 600)
    time.sleep(0.5)
    speak(telemetry, 600, 700)
    wait_for(box, 699)
    assert recorder.stop() == 0
    assert max(p.stat().st_size for p in segments(box)) <= 300_000 and len(segments(box)) > 1
    contents = describe(box)
    missing = 700 - len(ticks_of(box))
    assert contents.lost_before >= missing  # what was refused is on record


def test_a_stopped_or_killed_recorder_is_nothing_to_the_loop(tmp_path, keep):
    telemetry = keep(Telemetry(queue=100, image_bytes=1 << 20))
    recorder = keep(RecorderProcess(telemetry, tmp_path / "box"))
    recorder.process.send_signal(signal.SIGSTOP)
    speak(telemetry, 0, 3000, 0)
    assert telemetry.dropped > 0 and telemetry.refused == 0
    recorder.process.send_signal(signal.SIGCONT)
    until = time.monotonic() + 30
    n = 3000
    while not any(number >= 3000 for number in ticks_of(tmp_path / "box")):
        assert time.monotonic() < until
        speak(telemetry, n, n + 100)
        n += 100
    dropped = telemetry.dropped
    recorder.stop(signal.SIGKILL)
    speak(telemetry, n, n + 2000, 0)
    assert telemetry.refused == 0
    contents = describe(tmp_path / "box")
    assert 0 < contents.lost_before <= dropped


def test_the_recorder_ends_when_its_parent_has_gone_and_leaves_a_finished_file(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from real.blackbox import await_start, start
from real.telemetry import Telemetry
telemetry = Telemetry()
process = start(telemetry.address, Path({str(tmp_path / "box")!r}))
await_start(process, telemetry)
for n in range(50):
    telemetry.tick(n=n)
print(process.pid, flush=True)
time.sleep(1.0)
import os
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)})
    pid = int(next(word for word in done.stdout.split() if word.isdigit()))
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert ticks_of(tmp_path / "box") == list(range(50)) and describe(tmp_path / "box").unfinished == 0


def test_a_recorder_that_cannot_start_is_said_before_the_run(tmp_path, keep):
    telemetry = keep(Telemetry())
    (tmp_path / "file").write_text("")
    process = start(telemetry.address, tmp_path / "file")
    with pytest.raises(InputError, match="ended with exit code 2"):
        await_start(process, telemetry)


def test_bad_options_are_one_line(tmp_path):
    command = [sys.executable, "-m", "real.blackbox", "--folder", str(tmp_path / "b")]
    for options, expected in (
        (["--address", "tcp://10.0.0.1:5"], "only loopback"),
        (["--address", "ipc://x", "--minutes", "0"], "minutes: expected a number above 0"),
        (["--address", "ipc://x", "--jpeg", "101"], "jpeg: expected a quality"),
        (["--address", "ipc://x", "--max-bytes", "10"], "max_bytes: expected at least"),
    ):
        done = subprocess.run(command + options, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_jpeg_images_are_ros_messages_too(tmp_path, keep):
    require("libgl")
    import cv2
    from rosbags.typesys import Stores, get_typestore

    telemetry = keep(Telemetry())
    recorder = Recorder(telemetry.address, tmp_path / "box", jpeg=95, say=lambda line: None)
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 64, 3))
    recorder.take(Record("image", 1, 1, 0, 10, {"name": "observation.images.top", "capture_ns": 9, "image": smooth}))
    recorder.close()
    (message,) = McapReader(segments(tmp_path / "box")[0])
    found = get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr(bytes(message.data), "sensor_msgs/msg/CompressedImage")
    assert found.format == "jpeg" and message.channel.schema == "sensor_msgs/msg/CompressedImage"
    image = cv2.imdecode(found.data, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(image.astype(int) - smooth).max() < 16


def test_what_cannot_be_encoded_is_counted(tmp_path, keep):
    telemetry = keep(Telemetry())
    recorder = Recorder(telemetry.address, tmp_path / "box", say=lambda line: None)
    odd = {"name": "c", "capture_ns": -(1 << 70), "image": PICTURE}
    for record in (
        Record("image", 1, 1, 0, 10, odd),
        Record("image", 1, 1, 0, 10, {"name": "c", "capture_ns": 1, "image": PICTURE[..., :2]}),
        Record("tick", 1, 1, 0, -5, {}),
        Record("info", 1, 1, 0, 5, {"clock_offset_ns": "now"}),
        Record("info", 1, 1, 0, 5, {"clock_offset_ns": 1 << 80}),
    ):
        recorder.take(record)
    assert recorder.malformed >= 4
    recorder.close()
    told = [json.loads(bytes(m.data)) for s in segments(tmp_path / "box") for m in McapReader(s) if m.channel.topic == "/recorder"]
    assert told[-1] == {"lost_on_the_way": 0, "lost_on_disk": 0, "malformed": recorder.malformed}


def test_what_the_disk_refused_last_is_on_record_though_nobody_speaks_any_more(tmp_path, keep):
    telemetry = keep(Telemetry())
    recorder = Recorder(telemetry.address, tmp_path / "box", say=lambda line: None)
    recorder.take(Record("tick", 1, 1, 10**9, 10, {"n": 0}))
    recorder.ring.lost += 7  # what a disk that was full until now has refused
    recorder.close()
    assert describe(tmp_path / "box").lost_before == 7


def test_a_recorder_that_ends_before_its_run_is_told_of_once(tmp_path, keep):
    telemetry, said = keep(Telemetry()), []
    process = start(telemetry.address, tmp_path / "box")
    await_start(process, telemetry)
    watch = Watch(process, said.append)
    watch.look()
    assert not watch.ended and not said
    process.kill()
    until = time.monotonic() + 30
    while not watch.ended:
        assert time.monotonic() < until
        watch.look()
        time.sleep(0.05)
    watch.look()
    assert watch.ended == "signal 9" and len(said) == 1 and "nothing of this run is recorded" in said[0]
