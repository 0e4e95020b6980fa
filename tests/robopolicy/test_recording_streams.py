"""Streams brought together by stamp: by hand, against a brute-force choice, and how far off it was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.data.recording_streams import Skew, StreamHistory, Synchroniser, missing_samples

STAMPS = st.lists(st.integers(0, 10**12), min_size=1, max_size=30, unique=True).map(sorted)


def history(stamps):
    out = StreamHistory()
    for stamp in stamps:
        assert out.add(stamp, f"at {stamp}")
    return out


def test_the_newest_by_then_and_the_nearest():
    joints = history([100, 110, 120])
    assert joints.before(119).stamp_ns == 110 and joints.nearest(119).stamp_ns == 120
    assert joints.before(110).stamp_ns == 110 and joints.before(500).value == "at 120"
    assert joints.before(50).stamp_ns == 100  # nothing was captured by then: the first there is
    assert joints.nearest(115).stamp_ns == 110  # as near as the younger one
    assert StreamHistory().before(5) is None and StreamHistory().nearest(5) is None


@given(STAMPS, st.integers(0, 10**12))
def test_the_choice_is_that_of_a_search_through_everything(stamps, time_ns):
    kept = history(stamps)
    earlier = [s for s in stamps if s <= time_ns]
    assert kept.before(time_ns).stamp_ns == (max(earlier) if earlier else stamps[0])
    assert abs(kept.nearest(time_ns).stamp_ns - time_ns) == min(abs(s - time_ns) for s in stamps)


@given(STAMPS, st.lists(st.integers(0, 10**12), min_size=1, max_size=10).map(sorted), st.sampled_from(["before", "nearest"]))
def test_what_is_forgotten_would_not_have_been_chosen(stamps, times, how):
    whole, short = history(stamps), history(stamps)
    for time_ns in times:
        assert getattr(short, how)(time_ns) == getattr(whole, how)(time_ns)
        assert short.forget(time_ns) == f"at {short.before(time_ns).stamp_ns}"
        assert len(short) <= len(whole)


def test_a_repeated_stamp_is_the_same_sample_and_an_older_one_is_left_out():
    camera = history([100])
    assert not camera.add(100, "again") and not camera.add(90, "old")
    assert camera.backwards == 1 and camera.stamps == [100] and camera.before(1000).value == "at 100"


def test_a_history_is_bounded_and_says_what_went_early():
    camera = StreamHistory(3)
    for stamp in range(5):
        camera.add(stamp, stamp)
    assert len(camera) == 3 and camera.overrun == 2 and camera.before(0).stamp_ns == 2


def test_a_row_waits_for_a_nearer_sample_but_not_for_ever():
    streams = Synchroniser(["joints", "camera"], "nearest", wait_ns=50)
    streams.histories["joints"].add(98, "j0")
    streams.histories["camera"].add(80, "c0")
    streams.now_ns = 100
    assert not streams.settled(100)
    streams.histories["joints"].add(108, "j1")
    streams.histories["camera"].add(113, "c1")
    assert streams.settled(100)
    assert {n: s.value for n, s in streams.choose(100).items()} == {"joints": "j0", "camera": "c1"}
    streams.now_ns = 160
    assert streams.settled(110) and not streams.settled(115)  # 110 + 50 has come; a sample of 115 or later has not
    assert Synchroniser(["joints"], "before").settled(100)


def test_a_row_without_a_sample_of_every_stream_is_none():
    streams = Synchroniser(["joints", "camera"])
    streams.histories["joints"].add(1, "j")
    assert streams.choose(5) is None


def test_skew_by_hand():
    rows, stamps = np.array([0, 100, 200, 300]) * 10**6, np.array([-10, 100, 230, 280]) * 10**6
    assert Skew.of(rows, stamps) == Skew(mean_ms=15.0, p99_ms=pytest.approx(29.7), max_ms=30.0)  # of 0, 10, 20, 30


def test_stamps_beyond_float_precision_keep_their_nanoseconds():
    base = 2**62
    assert Skew.of(np.array([base + 1000]), np.array([base])).max_ms == 1e-3
    assert history([base, base + 1]).before(base).stamp_ns == base


def test_lost_samples_are_seen_in_the_stamps():
    assert missing_samples(np.array([0, 33, 67, 100, 200, 233]) * 10**6) == 2  # the two between 100 and 200
    assert missing_samples(np.array([5])) == missing_samples(np.array([])) == 0


def test_an_unknown_synchronisation_is_named():
    with pytest.raises(InputError, match="'neares' is unknown; did you mean 'nearest'"):
        Synchroniser(["joints"], "neares")
