"""The run's end of a recording: order, what is written once, what finds no room, and that nothing waits."""

import time

import numpy as np
import pytest

from policies.spec import InputError
from real.record_ring import Kind, RecordRing, RingSize
from real.recorder import Recorder
from tests.robopolicy.recorded import ASLEEP, CAMERA, MS, STATE, make_spec, pair, reading


def kinds(ring):
    out = []
    while ring.waiting():
        out.append(Kind(int(ring.next()["kind"])))
        ring.done()
    return out


def test_messages_come_in_the_order_in_which_they_were_written(tmp_path):
    with pair(tmp_path, manual=True) as both:
        both.at(1000, reading(0, 990 * MS, 980 * MS), (1, 2))  # nobody has begun: nothing is handed over
        both.recorder.begin("stack")
        both.at(1020, reading(1, 1010 * MS, 1000 * MS), (1, 2))
        both.at(1030, reading(2, 1020 * MS, 1000 * MS))
        both.recorder.save(False)
        both.recorder.begin()
        both.recorder.discard()
        assert kinds(both.ring) == [Kind.BEGIN, Kind.READING, Kind.STEP, Kind.READING, Kind.SAVE, Kind.BEGIN, Kind.DISCARD]
        assert both.ring.written(CAMERA) == 1  # the second reading held the same image


def test_a_run_without_a_person_begins_with_its_first_step_and_saves_at_the_end_of_the_robots_episode(tmp_path):
    with pair(tmp_path, tells_success=True) as both:
        both.at(1000, reading(0, 990 * MS, 980 * MS, episode=7))
        both.at(1020, reading(1, 1010 * MS, 1000 * MS, episode=7), (1, 2))
        ended = reading(2, 1030 * MS, 1020 * MS, episode=7, ended=True, success=True)
        both.at(1040, ended)
        both.recorder.ended(ended)
        assert both.recorder.status().state == "idle"
        found = []
        while both.ring.waiting():
            found.append((Kind(int(both.ring.next()["kind"])), int(both.ring.next()["success"]), int(both.ring.next()["episode"])))
            both.ring.done()
        assert [kind for kind, *_ in found] == [Kind.BEGIN, Kind.READING, Kind.STEP, Kind.READING, Kind.SAVE]
        assert found[-1][1] == 1 and found[1][2] == 7


def test_a_person_decides_once_the_robots_episode_is_over(tmp_path):
    with pair(tmp_path, manual=True, tells_success=True) as both:
        both.recorder.begin()
        both.at(1000, reading(0, 990 * MS, 980 * MS, episode=1), (0, 0))
        both.recorder.ended(reading(1, 1000 * MS, 990 * MS, episode=1, ended=True, success=True))
        status = both.recorder.status()
        assert status.state == "deciding" and status.success is True
        both.at(1050, reading(5, 1050 * MS, 1040 * MS, episode=2), (0, 0))  # the next episode's steps are not of this one
        both.recorder.save(None)
        assert kinds(both.ring) == [Kind.BEGIN, Kind.READING, Kind.STEP, Kind.READING, Kind.SAVE]


def test_an_end_that_nobody_read_ends_the_episode_all_the_same(tmp_path):
    with pair(tmp_path) as both:
        both.at(1000, reading(0, 990 * MS, 980 * MS, episode=1), (0, 0))
        both.at(1050, reading(9, 1050 * MS, 1040 * MS, episode=2), (0, 0))
        assert kinds(both.ring) == [Kind.BEGIN, Kind.READING, Kind.STEP, Kind.SAVE, Kind.BEGIN, Kind.READING, Kind.STEP]


def test_an_episode_that_is_broken_off_has_not_failed(tmp_path):
    for reached, marked in ((False, -1), (True, 1)):
        with pair(tmp_path / str(marked), tells_success=True) as both:
            both.at(1000, reading(0, 990 * MS, 980 * MS, success=reached), (0, 0))
            both.recorder.process.kill()
            both.recorder.close(5)
            found = []
            while both.ring.waiting():
                found.append((Kind(int(both.ring.next()["kind"])), int(both.ring.next()["success"])))
                both.ring.done()
            assert (Kind.SAVE, marked) in found and found[-1][0] == Kind.END


def test_what_finds_no_room_is_counted_by_stream_and_words_still_pass(tmp_path):
    with pair(tmp_path, size=RingSize(messages=64, planes=4), manual=True) as both:
        both.recorder.begin()
        for tick in range(40):
            both.at(1000 + tick, reading(tick, (1000 + tick) * MS, (1000 + tick) * MS), (0, 0))
        # 64 slots, 32 of them kept for words: the word "begin", then 15 readings with their steps, and one more reading
        dropped = both.recorder.status().dropped
        assert dropped == {STATE: 40 - 16, CAMERA: 40 - 4, "action": 40 - 15}
        both.recorder.save(True)
        found = kinds(both.ring)
        assert found[0] == Kind.BEGIN and found[-1] == Kind.SAVE and len(found) == 33
        both.recording.drain()


def test_nothing_waits_for_a_process_that_does_not_read(tmp_path):
    with pair(tmp_path, size=RingSize(messages=512, planes=4)) as both:
        began = time.process_time()
        for tick in range(5000):
            both.at(1000 + tick, reading(tick, (1000 + tick) * MS, (1000 + tick) * MS), (0, 0))
        assert time.process_time() - began < 20  # four milliseconds a tick would be slow; waiting would be for ever
        assert both.recorder.status().dropped["action"] > 4000


def test_a_reading_that_does_not_fit_the_spec_costs_itself_and_not_the_run(tmp_path):
    with pair(tmp_path) as both:
        wrong = reading(0, 990 * MS, 980 * MS)
        wrong.fields[STATE] = np.zeros(4, np.float32)
        both.at(1000, wrong, (0, 0))
        assert both.recorder.status().dropped[STATE] == 1
        assert "does not fit the robot's spec" in both.recorder.status().problem


def test_a_recorder_that_has_ended_is_told_of_once_and_the_run_goes_on(tmp_path):
    with pair(tmp_path) as both:
        both.at(1000, reading(0, 990 * MS, 980 * MS), (0, 0))
        both.recorder.process.kill()
        both.recorder.process.wait()
        until = time.monotonic() + 30
        tick = 1
        while both.recorder.status().state != "ended":
            assert time.monotonic() < until
            both.at(1000 + tick, reading(tick, (1000 + tick) * MS, 980 * MS), (0, 0))
            tick += 1
        both.at(9000, reading(tick, 9000 * MS, 980 * MS), (0, 0))
        both.recorder.begin()
        both.recorder.save(True)
        assert [line for line in both.said if "the run goes on" in line] == both.said and len(both.said) == 1
        assert "signal 9" in both.said[0] and "signal 9" in both.recorder.status().problem
        assert both.recorder.status().to_dict()["state"] == "ended"


def test_memory_that_is_not_to_be_had_is_said():
    with pytest.raises(InputError, match="no shared memory"):
        RecordRing.create(make_spec(), RingSize(messages=512, planes=1 << 40))


def test_a_recorder_that_ends_at_once_is_refused():
    ring = RecordRing.create(make_spec(), RingSize(512, 4))
    recorder = Recorder(ring, [*ASLEEP[:2], "raise SystemExit(3)"], say=lambda line: None)
    with pytest.raises(InputError, match="ended with exit code 3"):
        recorder.await_ready()
    recorder.close()
    with pytest.raises(InputError, match="cannot be started"):
        Recorder(RecordRing.create(make_spec(), RingSize(512, 4)), ["/nonexistent/recorder"])


def test_how_much_fits_follows_from_rate_and_memory():
    size = RingSize.of(make_spec(), rate_hz=100, buffer_mb=0.1)
    assert size == RingSize(messages=1600, planes=int(1e5 / (32 * 32 * 3)))
    assert RingSize.of(make_spec(images=False), rate_hz=1, buffer_mb=1) == RingSize(512, 1)
