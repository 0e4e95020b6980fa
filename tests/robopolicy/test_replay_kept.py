"""What a replay keeps: files on disk that outlive the process, and rows saved beside the training state."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.noise import row_keys
from policies.spec import InputError, Spec
from robopolicy.training.off_policy_config import ReplayConfig
from robopolicy.training.replay import Replay
from robopolicy.training.replay_segments import Segments
from tests.robopolicy.replay_worlds import SPEC, Lists, Play
from tests.robopolicy.test_replay import require_same


def config(place: str = "memory", **keys) -> ReplayConfig:
    return ReplayConfig.model_validate({"place": place, **keys})


def require_equal(a: Replay, b: Replay) -> None:
    """Check that two replays draw the same."""
    assert (a.count, a.oldest, a.ready) == (b.count, b.oldest, b.ready)
    if not a.ready:
        return
    x, y = (replay.sample(row_keys(0, np.arange(200))) for replay in (a, b))
    for name in ("action", "reward", "discount", "weight", "index"):
        np.testing.assert_array_equal(getattr(x, name), getattr(y, name))
    for name in SPEC.observation.fields:
        np.testing.assert_array_equal(x.obs[name], y.obs[name])
        np.testing.assert_array_equal(x.next_obs[name], y.next_obs[name])


# On disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [7, 60])
def test_disk_is_memory(tmp_path, steps):
    common: dict[str, Any] = {"capacity": 40, "n_step": 3}
    disk, memory = Replay(SPEC, 2, config("disk", **common), 0.9, tmp_path), Replay(SPEC, 2, config(**common), 0.9)
    play, lists = Play(2, 0, ends=0.6), Lists(2, 20, 1, 3)
    for _ in range(steps):
        play.step([disk, memory], lists)
    require_equal(disk, memory)
    require_same(disk, lists)
    again = Replay(SPEC, 2, config("disk", **common), 0.9, tmp_path)
    require_equal(again, memory)
    for _ in range(15):  # it goes on as if nothing had been
        play.step([again, memory], lists)
    require_equal(again, memory)
    require_same(again, lists)


def test_priorities_of_rows_that_a_ring_has_written_over_are_gone(tmp_path):
    wanted = config("disk", capacity=20, sampling="prioritized")
    replay, play = Replay(SPEC, 2, wanted, 0.9, tmp_path), Play(2, 0)
    for _ in range(20):
        play.step([replay], None)
    replay.set_priorities(np.arange(20, 40), np.linspace(1.0, 2.0, 20))
    mark = {name: tensor.clone() for name, tensor in replay.priorities().items()}
    for _ in range(4):  # the process is killed after them
        play.step([replay], None)
    again = Replay(SPEC, 2, wanted, 0.9, tmp_path)
    again.rewind(20)
    again.restore_priorities(mark)
    batch = again.sample(row_keys(0, np.arange(4000)))
    assert set(batch.index.tolist()) == set(range(28, 40)), "what was never, or is no longer, in the replay is drawn"
    share = np.bincount(batch.index - 28) / 4000
    expected = (np.linspace(1.0, 2.0, 20)[8:] + 1e-6) ** wanted.alpha
    np.testing.assert_allclose(share, expected / expected.sum(), atol=0.01)


def test_disk_takes_only_what_was_written(tmp_path):
    replay, play = Replay(SPEC, 1, config("disk", capacity=3_000_000), 0.9, tmp_path), Play(1, 0)
    for _ in range(100):
        play.step([replay], None)
    replay.flush()
    files = [path.stat() for path in tmp_path.glob("*.bin")]
    assert sum(f.st_size for f in files) > 100e6 > 5e6 > sum(f.st_blocks * 512 for f in files)


def write_until_killed(folder: str, connection) -> None:
    replay, play = Replay(SPEC, 2, config("disk", capacity=60, n_step=2), 0.9, Path(folder)), Play(2, 5, ends=0.5)
    while True:
        play.step([replay], None)
        connection.send(replay.count)


@pytest.mark.parametrize("rows", [9, 83])
def test_nothing_written_is_lost_in_a_kill(tmp_path, rows):
    context = multiprocessing.get_context("fork")  # a child in which nothing but the replay runs
    here, there = context.Pipe()
    child = context.Process(target=write_until_killed, args=(str(tmp_path), there), daemon=True)
    child.start()
    there.close()
    told = 0
    while told < rows:
        told = here.recv()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    while here.poll():
        try:
            told = here.recv()
        except EOFError:
            break
    replay = Replay(SPEC, 2, config("disk", capacity=60, n_step=2), 0.9, tmp_path)
    assert told <= replay.count <= told + 1  # it may have died before it told
    rows = replay.count - replay.oldest
    assert rows == min(replay.count, 30) or rows == 29  # or between making room for a row and counting it
    play, lists = Play(2, 5, ends=0.5), Lists(2, rows, 1, 2)
    for _ in range(replay.count):
        play.step([], lists)
    require_same(replay, lists)
    replay.rewind(told - 3)  # as for a training state of before
    lists.steps = lists.steps[: told - 3]
    assert replay.count == told - 3
    kept = replay.sample(row_keys(1, np.arange(100))).index.numpy()
    assert kept.min() >= 2 * replay.oldest and kept.max() < 2 * (told - 3)


def test_a_row_that_is_half_written_does_not_count(tmp_path):
    """A kill in the middle of ``add``: whatever of the next row is there, what counts is as it was."""
    replay, play, lists = Replay(SPEC, 2, config("disk", capacity=20), 0.9, tmp_path), Play(2, 0, 0.6), Lists(2, 10)
    for _ in range(25):
        play.step([replay], lists)
    row = replay.count % replay.length
    for name in ("action", "reward", "terminated", "age"):
        replay.arrays[name][row] = 1
    replay.successor[row] = 3
    for name in SPEC.observation.fields:
        replay.arrays[f"obs/{name}"][(row + 1) % replay.length] = 77
    require_same(Replay(SPEC, 2, config("disk", capacity=20), 0.9, tmp_path), lists)


def test_a_folder_of_another_replay_is_refused(tmp_path):
    Replay(SPEC, 2, config("disk", capacity=40), 0.9, tmp_path)
    with pytest.raises(InputError, match=r"replay .*: worlds is 2 there, 4 here; take another folder, or begin anew with --fresh"):
        Replay(SPEC, 4, config("disk", capacity=40), 0.9, tmp_path)
    other = Spec(SPEC.observation.subset(["observation.state"]), SPEC.action)
    with pytest.raises(InputError, match="spec is"):
        Replay(other, 2, config("disk", capacity=40), 0.9, tmp_path)


def test_more_than_the_disk_has_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"this replay takes .* GiB, there is .* GiB of free disk; take a smaller one"):
        Replay(SPEC, 1, config("disk", capacity=10**12), 0.9, tmp_path / "new")


def test_a_place_on_disk_needs_a_folder():
    with pytest.raises(InputError, match=r"training\.replay\.place=disk: expected a folder"):
        Replay(SPEC, 1, config("disk", capacity=10), 0.9)


# Beside the training state ---------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    worlds=st.integers(1, 3),
    rows=st.integers(2, 15),
    marks=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    lost=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_saved_rows_bring_back_any_mark(tmp_path_factory, worlds, rows, marks, lost, seed):
    folder, keys = tmp_path_factory.mktemp("rows"), dict[str, Any](capacity=rows * worlds, n_step=2)
    replay, play = Replay(SPEC, worlds, config(**keys), 0.9), Play(worlds, seed, 0.5)
    segments, lists, counts = Segments(folder, replay), Lists(worlds, rows, 1, 2), []
    for steps in marks:
        for _ in range(steps):
            play.step([replay], lists)
        play.cut([replay], lists)
        segments.save()
        counts.append(replay.count)
        segments.prune(counts[max(0, len(counts) - 2)])
    for _ in range(lost):  # of a part that was killed
        play.step([replay], None)
    if lost:
        segments.save()  # and killed before its training state was written
    for count in counts[-2:][::-1]:
        back = Replay(SPEC, worlds, config(**keys), 0.9)
        again = Segments(folder, back)
        again.load(count)
        lists.steps = lists.steps[:count]
        require_same(back, lists, draws=200)
        assert all(stop <= count for _, stop, _ in again._files())


def test_every_row_is_written_once_and_dropped_when_it_is_no_longer_needed(tmp_path):
    replay, play = Replay(SPEC, 1, config(capacity=30), 0.9), Play(1, 0)
    segments = Segments(tmp_path, replay)
    for mark in range(10):
        for _ in range(10):
            play.step([replay], None)
        segments.save()
        segments.prune(10 * mark)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"rows_{10 * k:09d}_{10 * k + 10:09d}.safetensors" for k in range(6, 10)]


def test_missing_and_damaged_rows_are_refused(tmp_path):
    replay, play = Replay(SPEC, 1, config(capacity=30), 0.9), Play(1, 0)
    segments = Segments(tmp_path, replay)
    for _ in range(2):
        for _ in range(10):
            play.step([replay], None)
        segments.save()
    first, second = sorted(tmp_path.iterdir())
    second.write_bytes(second.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"rows_000000010_000000020\.safetensors: damaged"):
        Segments(tmp_path, Replay(SPEC, 1, config(capacity=30), 0.9)).load(20)
    first.unlink()
    with pytest.raises(InputError, match=r"expected steps from|not all there|damaged"):
        Segments(tmp_path, Replay(SPEC, 1, config(capacity=30), 0.9)).load(20)
    second.unlink()
    with pytest.raises(InputError, match="steps 0 to 20 are not all there; begin anew with --fresh"):
        Segments(tmp_path, Replay(SPEC, 1, config(capacity=30), 0.9)).load(20)
