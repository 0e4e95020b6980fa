"""What becomes of a run's messages: rows exact to the nanosecond, episodes kept or dropped, full disks, killed processes."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from policies.spec import ActionSpec, Field, InputError, Spec
from real.record_ring import RingSize
from robopolicy.data import video
from robopolicy.data.check import check
from robopolicy.data.dataset import Dataset
from robopolicy.data.inspect import describe, tables
from robopolicy.data.layout import CAPTURE, is_dataset, read_info, read_own, video_file
from robopolicy.data.recording import RecordingOptions, read_reports
from robopolicy.data.recover import recover
from robopolicy.recording import RecordConfig, open_recorder, recorded_spec
from tests.robopolicy.recorded import CAMERA, MS, STATE, make_spec, pair, reading, robot

ROOT = Path(__file__).resolve().parents[2]


def columns(root, *names):
    data = Dataset.open(root)
    return [np.ravel(data.arrays[name]).tolist() for name in names]


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_rows_take_of_every_stream_the_newest_sample_of_their_time_and_keep_every_stamp(tmp_path):
    with pair(tmp_path / "set", manual=True) as both:
        both.recorder.begin("pick")
        # joints every 10 ms, an image every 33 ms that comes 12 ms late, a step every 20 ms
        for tick in range(11):
            now = 1000 + 10 * tick
            captured = 1000 + 33 * ((now - 12 - 1000) // 33)
            seen = reading(tick, (now - 1) * MS + tick, captured * MS, success=tick >= 9)
            both.at(now, seen, (tick, -tick) if tick % 2 == 0 else None, taken=tick == 4)
        both.recorder.save(True)
        both.recording.drain()
    assert columns(tmp_path / "set", CAPTURE + "action") == [[(1000 + 20 * k) * MS for k in range(6)]]
    assert columns(tmp_path / "set", CAPTURE + STATE) == [[(999 + 20 * k) * MS + 2 * k for k in range(6)]]
    expected = [967, 1000, 1000, 1033, 1066, 1066]  # at 1000, 1020, ... 1100: the last shutter at least 12 ms ago
    assert columns(tmp_path / "set", CAPTURE + CAMERA) == [[ms * MS for ms in expected]]
    data = Dataset.open(tmp_path / "set")
    assert data.arrays["action"][:, 0].tolist() == [0, 2, 4, 6, 8, 10] and data.tasks == ["pick"]
    assert np.ravel(data.arrays["takeover"]).tolist() == [False, False, True, False, False, False]
    assert np.ravel(data.arrays["next.success"]).tolist() == [False, False, False, False, True, True]
    assert np.ravel(data.arrays["next.done"]).tolist() == [False] * 5 + [True]
    grey = [int(image.mean().round()) for image in data.arrays[CAMERA]]
    assert np.abs(np.array(grey) - [2 * ms % 250 for ms in expected]).max() <= 3  # H.264 keeps flat grey to a few levels
    skew = describe(data)["skew"]
    assert skew[CAMERA] == pytest.approx({"mean_ms": (33 + 20 + 40 + 27 + 14 + 34) / 6, "p99_ms": 39.7, "max_ms": 40.0})
    assert skew[STATE]["max_ms"] == 1.0  # of the first row; the others are younger by some ns
    report = read_reports(tmp_path / "set")[0]
    assert report["skew"] == skew and report["repeated"] == {STATE: 0, CAMERA: 2} and report["takeover"] == 1
    assert not any(report["dropped"].values()) and report["seconds"] == pytest.approx(0.1)
    assert check(tmp_path / "set").ok
    assert any("skew" in str(getattr(table, "title", "")) for table in tables(data))
    assert read_own(tmp_path / "set")["spec"]["meta"] == {"serial": "7"}


def test_nearest_takes_a_later_sample_where_that_is_nearer(tmp_path):
    with pair(tmp_path / "set", manual=True, options=RecordingOptions("nearest", wait_s=0.05)) as both:
        both.recorder.begin()
        for tick, (now, state, image) in enumerate([(1000, 995, 960), (1010, 1004, 960), (1020, 1015, 1012), (1100, 1095, 1090)]):
            both.at(now, reading(tick, state * MS, image * MS), (tick, 0) if tick in (0, 1) else None)
        both.recorder.save()
        both.recording.drain()
    assert columns(tmp_path / "set", CAPTURE + STATE, CAPTURE + CAMERA) == [[1004 * MS, 1015 * MS], [1012 * MS, 1012 * MS]]


def test_rows_slower_than_steps_follow_the_leading_camera(tmp_path):
    options = RecordingOptions(interval_s=1 / 30, lead=CAMERA)
    with pair(tmp_path / "set", manual=True, options=options) as both:
        both.recorder.begin()
        for tick in range(101):  # 100 Hz, a camera of 30 Hz: neither rate is a multiple of the other
            now = 1000 * MS + 10 * tick * MS
            frame = int((now - 1000 * MS) * 30 // 10**9)
            both.at(now / MS, reading(tick, now, 1000 * MS + frame * 10**9 // 30), (tick, 0))
            both.recording.drain()
        both.recorder.save()
        both.recording.drain()
    (stamps,) = columns(tmp_path / "set", CAPTURE + CAMERA)
    assert stamps == [1000 * MS + frame * 10**9 // 30 for frame in range(31)]  # every image once
    assert read_reports(tmp_path / "set")[0]["repeated"][CAMERA] == 0


def test_rows_go_on_when_the_leading_camera_does_not(tmp_path):
    with pair(tmp_path / "set", manual=True, options=RecordingOptions(interval_s=0.1, lead=CAMERA)) as both:
        both.recorder.begin()
        for tick in range(100):
            both.at(1000 + 10 * tick, reading(tick, (1000 + 10 * tick) * MS, 1000 * MS), (tick, 0))
        both.recorder.save()
        both.recording.drain()
    (times,) = columns(tmp_path / "set", CAPTURE + "action")
    assert [(t - s) / MS for s, t in pairwise(times)] == [180.0] * 5  # 1.75 intervals, at the next step


def test_rows_by_the_clock_without_a_camera(tmp_path):
    with pair(tmp_path / "set", spec=make_spec(images=False), manual=True, options=RecordingOptions(interval_s=0.03)) as both:
        both.recorder.begin()
        for tick in [*range(10), *range(40, 45)]:  # a pause in between: rows begin anew, none is made up
            both.at(1000 + 10 * tick, reading(tick, (1000 + 10 * tick) * MS), (tick, 0))
        both.recorder.save()
        both.recording.drain()
    assert [(t / MS - 1000) / 10 for t in columns(tmp_path / "set", CAPTURE + "action")[0]] == [0, 3, 6, 9, 40, 43]


def test_episodes_are_discarded_saved_and_unlabelled_as_asked(tmp_path):
    with pair(tmp_path / "set", manual=True) as both:
        for number, ending in enumerate([True, "discard", False, None, "empty"]):
            both.recorder.begin()
            for tick in range(0 if ending == "empty" else 3 + number):
                now = 1000 * (number + 1) + 20 * tick
                both.at(now, reading(tick, now * MS, now * MS), (number, tick))
            both.recorder.discard() if ending == "discard" else both.recorder.save(None if ending == "empty" else ending)
            both.recording.drain()
        assert both.recorder.status().episodes == 3
    data = Dataset.open(tmp_path / "set")
    assert data.success.tolist() == [1, 0, -1] and np.diff(data.episode_starts).tolist() == [3, 5, 6]
    assert data.arrays["action"][:, 0].tolist() == [0] * 3 + [2] * 5 + [3] * 6
    assert check(tmp_path / "set").ok and any("without a step" in line for line in both.said)


def test_steps_that_no_image_had_come_for_are_counted(tmp_path):
    with pair(tmp_path / "set", size=RingSize(256, 2), manual=True) as both:
        both.recorder.begin()
        for tick in range(6):  # nobody reads: the two planes are full after two images
            both.at(1000 + tick, reading(tick, (1000 + tick) * MS, (1000 + tick) * MS), (tick, 0))
        both.recorder.save()
        both.recording.drain()
        for tick in range(6, 9):
            both.recorder.begin()
            both.at(2000 + tick, reading(tick, (2000 + tick) * MS, (2000 + tick) * MS), (tick, 0))
            both.recorder.save()
            both.recording.drain()
    first, *others = read_reports(tmp_path / "set")
    assert first["dropped"] == {STATE: 0, CAMERA: 4, "action": 0} and first["repeated"][CAMERA] == 4
    assert [report["dropped"][CAMERA] for report in others] == [0, 0, 0]  # planes were freed


def test_the_memory_of_images_is_freed_as_they_are_used(tmp_path):
    with pair(tmp_path / "set", size=RingSize(256, 8), manual=True) as both:
        both.recorder.begin()
        for tick in range(200):
            now = 1000 + 10 * tick  # nobody acts from 30 to 180
            both.at(now, reading(tick, now * MS, now * MS), (tick, 0) if 20 < tick < 30 or tick > 180 else None)
            both.recording.drain()
        both.recorder.save()
        both.recording.drain()
        assert not any(both.recorder.status().dropped.values())
    assert columns(tmp_path / "set", CAPTURE + CAMERA)[0][-1] == (1000 + 1990) * MS


# ---- with a process


def run_episode(recorder, first=0, steps=12, pause_s=0.005):
    for tick in range(first, first + steps):
        now = time.monotonic_ns()
        seen = reading(tick, now, now)
        recorder.reading(seen)
        recorder.step(seen, np.array([tick, 0], np.float32), tick % 2 == 0)
        time.sleep(pause_s)


def test_a_process_records_continues_and_refuses_another_set(tmp_path):
    said = []
    for _ in range(2):
        with ExitStack() as stack:
            recorder = open_recorder(RecordConfig(path=str(tmp_path / "set"), codec={"crf": 30, "g": 5}), robot(), stack, said.append)
            run_episode(recorder)
    data = Dataset.open(tmp_path / "set")
    assert data.num_episodes == 2 and data.num_frames == 24 and check(tmp_path / "set").ok
    info = read_info(tmp_path / "set")
    assert info["features"][CAMERA]["info"]["video.crf"] == 30 and video.count_frames(video_file(tmp_path / "set", CAMERA, (0, 1))) == 12
    with ExitStack() as stack, pytest.raises(InputError, match=r"observation\.state"):
        other = make_spec()
        fields = dict(other.observation.fields) | {STATE: Field((3,), unit="m")}
        open_recorder(RecordConfig(path=str(tmp_path / "set")), robot(Spec(type(other.observation)(fields, 50.0), other.action)), stack)


def test_a_killed_recorder_costs_the_open_episode_and_nothing_else(tmp_path):
    said = []
    with ExitStack() as stack:
        recorder = open_recorder(RecordConfig(path=str(tmp_path / "set")), robot(), stack, said.append, manual=True)
        recorder.begin()
        run_episode(recorder)
        recorder.save(True)
        until(lambda: recorder.status().episodes == 1)
        recorder.begin()
        run_episode(recorder)
        until(lambda: recorder.status().frames > 5)
        os.kill(recorder.process.pid, signal.SIGKILL)
        recorder.process.wait()
        until(lambda: recorder.reading(reading(99, 1, 1)) or recorder.status().state == "ended")
        run_episode(recorder, 100)  # the run goes on
    assert len(said) == 1 and "signal 9" in said[0]
    assert recover(tmp_path / "set").removed
    assert Dataset.open(tmp_path / "set").num_frames == 12 and check(tmp_path / "set").ok


def test_a_killed_run_leaves_a_recorder_that_keeps_the_open_episode(tmp_path):
    path = tmp_path / "set"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, f"{ROOT}/tests/robopolicy/recorded.py", str(path)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("open"))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    recorder = int(line.split()[1])
    stat = Path(f"/proc/{recorder}/stat")
    until(lambda: not stat.exists() or stat.read_text().split()[2] == "Z")
    assert is_dataset(path) and recover(path).removed == ()
    data = Dataset.open(path)
    assert data.num_episodes == 2 and data.success.tolist() == [1, -1] and np.diff(data.episode_starts)[1] >= 10
    assert [report["interrupted"] for report in read_reports(path)] == [False, True] and check(path).ok


def test_a_full_disk_costs_the_open_episode_and_is_said(tmp_path):
    said = []
    with ExitStack() as stack:
        # an episode with room, by a recorder without limits
        recorder = open_recorder(RecordConfig(path=str(tmp_path / "set")), robot(), stack, said.append)
        run_episode(recorder)
    with ExitStack() as stack:
        limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "limited"]  # KiB a file
        recorder = open_recorder(RecordConfig(path=str(tmp_path / "set"), codec={}), robot(), stack, said.append, manual=True, prefix=limited)
        recorder.begin()
        generator = np.random.default_rng(0)
        for tick in range(2000):
            now = time.monotonic_ns()
            seen = reading(tick, now, now)
            seen.fields[CAMERA] = generator.integers(0, 255, (32, 32, 3), np.uint8)  # does not compress
            recorder.reading(seen)
            recorder.step(seen, np.zeros(2, np.float32), False)
            time.sleep(0.005)
            if recorder.status().problem:
                break
        assert "disk is full" in recorder.status().problem and "1 earlier episodes are intact" in recorder.status().problem
        assert recorder.process.poll() is None
        recorder.save(True)
        recorder.begin()
        run_episode(recorder, 5000)  # a short one fits again
        recorder.save(True)
        until(lambda: recorder.status().episodes == 1)
        assert recorder.status().problem == ""
    assert Dataset.open(tmp_path / "set").num_frames == 24 and check(tmp_path / "set").ok


def test_a_disk_that_is_full_when_the_run_has_died_is_said_in_one_line(tmp_path, monkeypatch):
    with pair(tmp_path / "set", manual=True) as both:
        both.recorder.begin()
        for tick in range(5):
            both.at(1000 + 20 * tick, reading(tick, (1000 + 20 * tick) * MS, (1000 + 20 * tick) * MS), (tick, 0))

        def full(*_: object) -> None:
            raise InputError("the disk is full; the open episode was dropped")

        monkeypatch.setattr(both.writer, "save_episode", full)
        ours, theirs = os.pipe()
        os.close(theirs)  # the run has gone without saying so
        both.recording.run(ours, lambda: False)
        os.close(ours)
        assert both.recorder.status().problem == "the disk is full; the open episode was dropped" and both.writer.frames == 0
    assert read_info(tmp_path / "set")["total_episodes"] == 0


# ---- options


def test_rates_that_cannot_be_recorded_are_refused():
    config = RecordConfig(path="x", fps=25)
    spec, interval = recorded_spec(config, make_spec(rate_hz=50))
    assert interval == 1 / 25 and spec.action.rate_hz == 25 and spec.meta == {"serial": "7"}
    assert recorded_spec(RecordConfig(path="x", fps=50), make_spec(rate_hz=50))[1] == 0
    with pytest.raises(InputError, match="acts 10 times a second"):
        recorded_spec(config, make_spec(rate_hz=10))
    steps = Spec(make_spec().observation, ActionSpec({"action": Field((2,), kind="delta")}, 50))
    with pytest.raises(InputError, match="increment"):
        recorded_spec(config, steps)
    with pytest.raises(InputError, match=r"observation\.stat"):
        recorded_spec(RecordConfig(path="x", fields=["observation.stat"]), make_spec())


def test_the_key_record_takes_a_path_or_a_section():
    from robopolicy.deployment import load_run_config

    config = load_run_config(["policy=p", "record=runs/a", "record.sync=nearest", "record.codec.crf=20"]).record
    assert config == RecordConfig(path="runs/a", sync="nearest", codec={"crf": 20})
    assert load_run_config(["policy=p"]).record is None and load_run_config(["policy=p", "record=null"]).record is None
    with pytest.raises(InputError, match="sync"):
        load_run_config(["policy=p", "record=a", "record.sync=newest"])


def test_codec_options_are_checked_before_anything_is_recorded():
    assert video.codec_options("libx264", {"crf": 23})["crf"] == "23"
    for wrong, what in (({"preset": "quick"}, "does not take preset quick"), ({"crff": 3}, "did you mean 'crf'"), ({"crf": "best"}, "whole number")):
        with pytest.raises(InputError, match=what):
            video.codec_options("libx264", wrong)


def test_reports_that_cannot_be_read_are_none(tmp_path):
    (tmp_path / "meta").mkdir()
    for text in ("{", "[]", json.dumps({"episodes": [3, None]})):
        (tmp_path / "meta/recording.json").write_text(text)
        assert read_reports(tmp_path) == []
