"""Windows against a slow hand-written reference, and batches that follow from (data, seed, step) alone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.noise import row_keys
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.data.dataset import Dataset
from robopolicy.data.mixture import MixtureSampler
from robopolicy.data.windows import WindowSampler
from robopolicy.data.writer import DatasetWriter
from tests.robopolicy.recording import CAMERA, record

SPEC = Spec(ObservationSpec({"observation.state": Field((2,))}), ActionSpec({"action": Field((1,))}))


def make(path: Path, lengths: list[int]) -> Dataset:
    """Episode e, frame t: state (e, t), action 100 e + t."""
    with DatasetWriter(path, SPEC, 10.0) as writer:
        for e, length in enumerate(lengths):
            for t in range(length):
                writer.add_frame({"observation.state": np.array([e, t], np.float32)}, np.array([100 * e + t]))
            writer.save_episode()
    return Dataset.open(path)


def reference(lengths: list[int], to: int, tp: int, ta: int) -> list[tuple[list[tuple[int, int]], list[int], list[bool]]]:
    """Every window, element by element: observed (episode, frame) pairs, actions, padding; padded with the edge frame."""
    out = []
    for e, length in enumerate(lengths):
        for first in range(-(to - 1), length - tp + (ta - 1) + 1):
            observed, actions, pads = [], [], []
            for k in range(tp):
                frame = first + k
                inside = min(max(frame, 0), length - 1)
                if k < to:
                    observed.append((e, inside))
                actions.append(100 * e + inside)
                pads.append(frame != inside)
            out.append((observed, actions, pads))
    return out


def rows(batch: dict[str, torch.Tensor]) -> list[tuple[list[tuple[int, int]], list[int], list[bool]]]:
    states, actions, pads = (batch[k].tolist() for k in ("observation.state", "action", "action_is_pad"))
    return [([tuple(map(int, p)) for p in s], [int(a[0]) for a in acts], pad) for s, acts, pad in zip(states, actions, pads, strict=True)]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    to=st.integers(1, 4),
    ta=st.integers(1, 6),
    spare=st.integers(0, 6),
    batch=st.integers(1, 9),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_is_every_window_of_the_reference_once(lengths: list[int], to: int, ta: int, spare: int, batch: int, seed: int) -> None:
    tp = to - 1 + ta + spare
    expected = reference(lengths, to, tp, ta)
    with tempfile.TemporaryDirectory() as folder:
        dataset = make(Path(folder) / "set", lengths)
        if not expected:
            with pytest.raises(InputError, match="too short"):
                WindowSampler(dataset, ["observation.state"], to, tp, ta, batch, seed)
            return
        sampler = WindowSampler(dataset, ["observation.state"], to, tp, ta, batch, seed)
        assert sampler.num_windows == len(expected)
        steps = -(-2 * len(expected) // batch)
        drawn = [row for step in range(steps) for row in rows(sampler.batch(step)[0])]
        for epoch in range(2):
            assert sorted(drawn[epoch * len(expected) : (epoch + 1) * len(expected)]) == sorted(expected)


def test_edges_by_hand(tmp_path: Path) -> None:
    """To 2, Tp 4, Ta 2, an episode of 4 frames: t = 0, 1, 2."""
    sampler = WindowSampler(make(tmp_path / "set", [4]), ["observation.state"], 2, 4, 2, 3, 0)
    assert sorted(rows(sampler.batch(0)[0])) == [
        ([(0, 0), (0, 0)], [0, 0, 1, 2], [True, False, False, False]),
        ([(0, 0), (0, 1)], [0, 1, 2, 3], [False, False, False, False]),
        ([(0, 1), (0, 2)], [1, 2, 3, 3], [False, False, False, True]),
    ]


def test_any_step_is_the_same_without_the_ones_before(tmp_path: Path) -> None:
    dataset = make(tmp_path / "set", [20, 31, 9])
    ordered = WindowSampler(dataset, ["observation.state"], 2, 8, 4, 10, 7)
    history = [(rows(b), k.tolist()) for b, k in (ordered.batch(step) for step in range(30))]
    for step in (29, 3, 17, 0):
        fresh = WindowSampler(dataset, ["observation.state"], 2, 8, 4, 10, 7)
        batch, keys = fresh.batch(step)
        assert (rows(batch), keys.tolist()) == history[step]
    other = WindowSampler(dataset, ["observation.state"], 2, 8, 4, 10, 8)
    assert rows(other.batch(0)[0]) != history[0][0]
    epochs = [rows(WindowSampler(dataset, ["observation.state"], 2, 8, 4, ordered.num_windows, 7).batch(e)[0]) for e in range(2)]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1])


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_the_global_batch(tmp_path: Path, world: int) -> None:
    sampler = WindowSampler(make(tmp_path / "set", [20, 31]), ["observation.state"], 2, 8, 4, 12, 3)
    for step in (0, 5):
        whole, keys = rows(sampler.batch(step)[0]), sampler.batch(step)[1]
        parts = [(rows(b), k) for b, k in (sampler.batch(step, rank, world) for rank in range(world))]
        assert [row for part, _ in parts for row in part] == whole
        assert np.array_equal(np.concatenate([k for _, k in parts]), keys)
        assert np.array_equal(keys, row_keys(3, np.arange(step * 12, step * 12 + 12)))
    with pytest.raises(InputError, match="cannot be shared by 5"):
        sampler.batch(0, 0, 5)


def test_a_batch_stays_valid_while_others_are_drawn(tmp_path: Path) -> None:
    sampler = WindowSampler(make(tmp_path / "set", [40]), ["observation.state"], 2, 8, 4, 5, 3, buffers=4)
    batch = sampler.batch(0)[0]
    kept = {k: v.clone() for k, v in batch.items()}
    for step in range(1, 4):
        sampler.batch(step)
    assert all(torch.equal(batch[k], kept[k]) for k in kept)


def test_episodes_can_be_chosen(tmp_path: Path) -> None:
    dataset = make(tmp_path / "set", [20, 12, 31])
    first = WindowSampler(dataset, ["observation.state"], 2, 8, 4, 8, 0, episodes=2)
    last = WindowSampler(dataset, ["observation.state"], 2, 8, 4, 8, 0, episodes=[2])
    assert {int(r[0][0][0]) for s in range(20) for r in rows(first.batch(s)[0])} == {0, 1}
    assert {int(r[0][0][0]) for s in range(20) for r in rows(last.batch(s)[0])} == {2}
    assert last.num_windows == 31 - 8 + 4 + 1
    for wrong in (4, [3], [0, 0], [-1], 0):
        with pytest.raises(InputError, match="has 3"):
            WindowSampler(dataset, ["observation.state"], 2, 8, 4, 8, 0, episodes=wrong)


def test_what_is_too_short_for_a_window_is_counted(tmp_path: Path) -> None:
    dataset = make(tmp_path / "set", [20, 2, 31, 1])

    def said(horizon: int, ahead: int, **more: Any) -> list[str]:
        return WindowSampler(dataset, ["observation.state"], 2, horizon, ahead, 8, 0, **more).remarks()

    assert said(8, 7) == [] and said(8, 4, episodes=[0, 2]) == []
    (line,) = said(8, 4)
    assert "2 of 4 episodes, 3 frames, are shorter than the 4 frames" in line
    marked = np.zeros(54, bool)
    marked[[3, *range(30, 45), 50, 51]] = True
    (line,) = said(8, 4, marked=marked)
    assert "2 of 3 runs of marked frames, 3 frames, are shorter than the 4 frames" in line
    longer = WindowSampler(dataset, ["observation.state"], 2, 8, 4, 8, 0, episodes=[0])
    assert MixtureSampler([longer, WindowSampler(dataset, ["observation.state"], 2, 8, 4, 8, 0, episodes=[1, 2])], [1, 1], 0).remarks()


def test_images_come_as_uint8_with_the_right_frames(tmp_path: Path) -> None:
    dataset = Dataset.open(record(tmp_path / "set", 3, images=True))
    sampler = WindowSampler(dataset, ["observation.state", CAMERA], 2, 8, 4, 6, 0)
    batch, _ = sampler.batch(1)
    assert batch[CAMERA].shape == (6, 2, 32, 32, 3) and batch[CAMERA].dtype == torch.uint8
    assert batch["action"].dtype == torch.float32 and batch["action_is_pad"].dtype == torch.bool
    for row in range(6):
        for k in range(2):
            e, t = (int(v) for v in batch["observation.state"][row, k, :2])
            frame = int(dataset.episode_starts[e]) + t
            assert np.array_equal(batch[CAMERA][row, k].numpy(), dataset.arrays[CAMERA][frame])


def test_bad_sizes_and_fields_are_one_line(tmp_path: Path) -> None:
    dataset = make(tmp_path / "set", [20])
    with pytest.raises(InputError, match=r"did you mean 'observation\.state'"):
        WindowSampler(dataset, ["observation.stat"], 2, 8, 4, 8, 0)
    with pytest.raises(InputError, match="n_obs_steps - 1"):
        WindowSampler(dataset, ["observation.state"], 2, 8, 8, 8, 0)
    with pytest.raises(InputError, match="batch_size"):
        WindowSampler(dataset, ["observation.state"], 2, 8, 4, 0, 0)


def test_the_order_is_uniform(tmp_path: Path) -> None:
    """Where a window comes in the order is uniform over seeds: chi-squared over 10 places, 9 degrees of freedom."""
    dataset = make(tmp_path / "set", [15])
    places = np.zeros(10)
    for seed in range(2000):
        sampler = WindowSampler(dataset, ["observation.state"], 1, 8, 3, 10, seed)
        assert sampler.num_windows == 10
        places[[r[0][0][1] for r in rows(sampler.batch(0)[0])].index(4)] += 1
    assert ((places - 200) ** 2 / 200).sum() < 27.9  # p = 0.001
