"""Chunks: which row goes out at which step, worked out by hand, and for any latency."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from real.chunks import ChunkBuffer


def plan(first, rows=8):
    """A plan whose row t holds first + t."""
    return np.arange(first, first + rows, dtype=np.float32)[:, None]


def test_lockstep_plays_every_row_of_every_plan():
    chunks, out = ChunkBuffer(4, 1, 10.0, lead=0), []
    for step in range(12):
        if chunks.wants_plan():
            assert chunks.execution().delay == 0
            chunks.asked()
            chunks.splice(plan(step, 4), 0.001)
        out.append(float(chunks.take()[0]))
    assert out == list(range(12)) and chunks.late_chunks == chunks.dropped_actions == 0


def test_switch_after_the_frozen_rows():
    chunks = ChunkBuffer(8, 1, 10.0, lead=2)
    chunks.asked()
    chunks.splice(plan(0), 0.05)
    played = []
    while not chunks.wants_plan():
        played.append(float(chunks.take()[0]))
    assert played == [0, 1, 2, 3, 4, 5] and chunks.step == 6
    assert chunks.execution().delay == chunks.execution().frozen == 2
    chunks.asked()
    assert not chunks.wants_plan()
    played.append(float(chunks.take()[0]))
    chunks.splice(plan(106), 0.05)  # asked for at step 6: its row t is for step 6 + t
    played += [float(chunks.take()[0]) for _ in range(3)]
    assert played == [0, 1, 2, 3, 4, 5, 6, 7, 108, 109]
    assert chunks.dropped_actions == 2 and chunks.late_chunks == 0


def test_late_plan_is_counted_once_and_goes_on_where_the_robot_stands():
    chunks = ChunkBuffer(4, 1, 10.0, lead=1)
    chunks.asked()
    assert chunks.take() is None and chunks.late_chunks == 0  # the first plan of an episode is not late
    chunks.splice(plan(0, 4), 0.1)
    assert [float(chunks.take()[0]) for _ in range(3)] == [0, 1, 2]
    chunks.asked()
    assert float(chunks.take()[0]) == 3
    assert [chunks.take() for _ in range(3)] == [None] * 3
    assert chunks.late_chunks == 1 and chunks.step == 4
    chunks.splice(plan(3, 4), 0.5)
    assert float(chunks.take()[0]) == 4


def test_what_is_dropped_leaves_the_count_of_steps_since_the_last_plan():
    chunks = ChunkBuffer(8, 1, 10.0, lead=2)
    assert chunks.execution().elapsed is None
    chunks.asked()
    chunks.splice(plan(0), 0.05)
    for _ in range(3):
        chunks.take()
    chunks.drop()
    found = chunks.execution()
    assert (found.elapsed, found.delay, found.frozen) == (3, 0, 0) and chunks.take() is None and chunks.wants_plan()
    chunks.clear()
    assert chunks.execution().elapsed is None  # of another episode


def test_failed_request_lets_the_rest_play_on():
    chunks = ChunkBuffer(4, 1, 10.0, lead=2)
    chunks.asked()
    chunks.splice(plan(0, 4), 0.1)
    chunks.take(), chunks.take()
    chunks.asked()
    chunks.failed()
    assert chunks.wants_plan()
    assert [float(chunks.take()[0]) for _ in range(2)] == [2, 3] and chunks.take() is None


def test_clear_forgets_plan_and_request():
    chunks = ChunkBuffer(4, 1, 10.0)
    chunks.asked()
    chunks.splice(plan(0, 4), 0.1)
    chunks.asked()
    chunks.clear()
    assert chunks.remaining == 0 and chunks.wants_plan() and not chunks.waiting
    with pytest.raises(RuntimeError):
        chunks.splice(plan(0, 4), 0.1)


@pytest.mark.parametrize("latency_s, lead", [(0.0, 1), (0.09, 1), (0.099, 2), (0.25, 3), (5.0, 7)])
def test_lead_covers_the_measured_latency(latency_s, lead):
    chunks = ChunkBuffer(8, 1, 10.0)
    for _ in range(5):
        chunks.asked()
        chunks.splice(plan(0), latency_s)
    assert chunks.lead == lead


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 8), st.one_of(st.none(), st.integers(0, 10)))
def test_rows_never_play_twice_nor_out_of_order(delays, rows, lead):
    """Whatever the arrivals: row t of a plan asked for at step k plays at step k + t or never."""
    chunks, step = ChunkBuffer(rows, 1, 10.0, lead=lead), 0
    arrivals = iter(delays)
    arrives, asked_at = None, 0
    for tick in range(200):
        if arrives is not None and tick >= arrives:
            chunks.splice(plan(asked_at, rows), 0.01)
            arrives = None
        if arrives is None and chunks.wants_plan():
            delay = next(arrivals, 0)
            asked_at = chunks.step
            chunks.asked()
            arrives = tick + delay
            if not delay:
                chunks.splice(plan(asked_at, rows), 0.01)
                arrives = None
        action = chunks.take()
        if action is not None:
            assert float(action[0]) == step
            step += 1
    assert step == chunks.step > 0
