"""The replay against lists of episodes: every sample is what happened, and every sample that can be drawn is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.noise import row_keys
from policies.spec import InputError
from robopolicy.training.off_policy_config import ReplayConfig
from robopolicy.training.replay import Replay, joined
from robopolicy.training.replay_tree import SumTree
from tests.robopolicy.replay_worlds import SPEC, Lists, Play


def config(**keys) -> ReplayConfig:
    return ReplayConfig(**keys)


def keys(count: int, seed: int = 0) -> np.ndarray:
    return row_keys(seed, np.arange(count))


def require_same(replay: Replay, lists: Lists, draws: int = 600) -> None:
    """Check everything that can be drawn against the lists."""
    starts = lists.starts()
    assert replay.size == len(lists.window) * lists.worlds and replay.count == len(lists.steps)
    assert replay.ready == bool(starts)
    if not starts:
        with pytest.raises(RuntimeError, match="nothing to draw from yet"):
            replay.sample(keys(3))
        return
    batch = replay.sample(keys(draws))
    assert set(batch.index.tolist()) <= starts
    if len(starts) < draws / 20:
        assert set(batch.index.tolist()) == starts
    for i, index in enumerate(batch.index.tolist()):
        wanted = lists.sample(index)
        np.testing.assert_array_equal(batch.action[i], wanted["action"])
        np.testing.assert_allclose(batch.reward[i], wanted["reward"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount[i], wanted["discount"], rtol=1e-6)
        for side, found in (("obs", batch.obs), ("next_obs", batch.next_obs)):
            for name, tensor in found.items():
                np.testing.assert_array_equal(tensor[i], wanted[side][name])


@settings(max_examples=60, deadline=None)
@given(
    worlds=st.integers(1, 4),
    rows=st.integers(4, 12),
    n_step=st.integers(1, 4),
    chunk=st.sampled_from([1, 1, 2, 4]),
    ends=st.sampled_from([0.0, 0.2, 0.7]),
    script=st.lists(st.sampled_from("sssssscr"), max_size=40),
    sampling=st.sampled_from(["uniform", "prioritized"]),
    seed=st.integers(0, 10**6),
)
def test_every_sample_is_what_happened(worlds, rows, n_step, chunk, ends, script, sampling, seed):
    replay = Replay(SPEC, worlds, config(capacity=rows * worlds + worlds - 1, n_step=n_step, chunk=chunk, sampling=sampling), gamma=0.9)
    lists, play = Lists(worlds, rows, chunk, n_step), Play(worlds, seed, ends)
    for action in script:
        if action == "s":
            play.step([replay], lists)
        elif action == "c":
            play.cut([replay], lists)
        else:  # all books are worked out anew from what is stored
            replay.recount()
    require_same(replay, lists)


def test_uniform_is_uniform():
    replay, lists, play = Replay(SPEC, 3, config(capacity=60, chunk=3), 0.9), Lists(3, 20, 3), Play(3, 1, 0.3)
    for _ in range(50):
        play.step([replay], lists)
    starts, draws = sorted(lists.starts()), 40_000
    counts = np.array([(replay.sample(keys(draws)).index.numpy() == start).sum() for start in starts])
    expected = draws / len(starts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert counts.sum() == draws
    assert chi_square < len(starts) + 4 * np.sqrt(2 * len(starts))  # mean k, deviation sqrt(2 k)


def test_a_chunk_is_not_finished_with_rows_of_before():
    """Episodes of 4 in a ring of 12: behind the newest row stand rows that are exactly as old as those to come will be."""
    replay, lists, play = Replay(SPEC, 1, config(capacity=10, chunk=3), 0.9), Lists(1, 10, 3), Play(1, 0, ends=0.0)
    for step in range(30):
        play.step([replay], lists)
        if step % 4 == 3:
            play.cut([replay], lists)
        require_same(replay, lists, draws=100)


def test_a_draw_hangs_on_its_key_alone():
    replay, play = Replay(SPEC, 2, config(capacity=40, chunk=2), 0.9), Play(2, 3)
    for _ in range(30):
        play.step([replay], None)
    some = keys(8)
    all_of_them, one = replay.sample(some), replay.sample(some[5:6])
    assert one.index[0] == all_of_them.index[5]
    groups = replay.sample_several(some.reshape(2, 4))
    assert [g.index.tolist() for g in groups] == [all_of_them.index[:4].tolist(), all_of_them.index[4:].tolist()]
    assert not np.array_equal(replay.sample(keys(8, 1)).index, all_of_them.index)


def test_images_are_stored_once_and_stay_bytes():
    replay, play = Replay(SPEC, 2, config(capacity=2000), 0.9), Play(2, 0, ends=0.02)
    for _ in range(1000):
        play.step([replay], None)
    batch = replay.sample(keys(4))
    assert batch.obs["observation.images.eye"].dtype == batch.next_obs["observation.images.eye"].dtype == torch.uint8
    ring, ends = replay.arrays["obs/observation.images.eye"], replay.arrays["end/observation.images.eye"]
    assert ring.dtype == np.uint8 and ring.nbytes + ends.nbytes < 1.1 * 2000 * 12


def test_the_table_of_successors_gives_back_what_it_took():
    replay, play = Replay(SPEC, 2, config(capacity=400), 0.9), Play(2, 0, ends=1.0)
    for _ in range(2000):
        play.step([replay], None)
    assert len(replay.arrays["end/observation.state"]) <= 2 * 400 + 2


# Priorities ------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=70), st.integers(0, 10**6))
def test_sum_tree_finds_the_leaf_under_every_height(weights, seed):
    tree, weights = SumTree(len(weights)), np.array(weights)
    order = np.random.default_rng(seed).permutation(len(weights))
    tree.set(order, weights[order])
    other = SumTree(len(weights))
    other.fill(weights)
    np.testing.assert_array_equal(tree.leaves, other.leaves)
    assert tree.total == other.total
    np.testing.assert_allclose(tree.total, weights.sum(), rtol=1e-9, atol=1e-300)
    if tree.total == 0:
        return
    heights = np.linspace(0, tree.total, 200, endpoint=False)
    leaves = tree.find(heights)
    assert (weights[leaves] > 0).all()
    before = np.cumsum(weights)[leaves] - weights[leaves]
    assert (heights > before - 1e-6 * tree.total).all() and (heights < before + weights[leaves] + 1e-6 * tree.total).all()


def test_priorities_decide_how_often_and_weights_make_up_for_it():
    alpha, rows, worlds = 0.7, 30, 2
    replay = Replay(SPEC, worlds, config(capacity=rows * worlds, sampling="prioritized", alpha=alpha, beta=0.5), 0.9)
    play = Play(worlds, 0)
    for _ in range(45):
        play.step([replay], None)
    index = np.arange(15 * worlds, 45 * worlds)
    error = np.random.default_rng(0).uniform(0.1, 4, len(index)).astype(np.float32)
    replay.set_priorities(index, error)
    replay.set_priorities(np.array([0, 3, 10**6]), np.array([9e9, 9e9, 9e9]))  # gone, or not there yet: passed over
    share = (error.astype(np.float64) + 1e-6) ** alpha
    share /= share.sum()
    draws = np.concatenate([replay.sample(keys(250, seed)).index.numpy() for seed in range(160)])
    counts, expected = np.bincount(draws - index[0], minlength=len(index)), share * len(draws)
    assert ((counts - expected) ** 2 / expected).sum() < len(index) + 4 * np.sqrt(2 * len(index))
    for progress, beta in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
        batch = replay.sample(keys(250), progress)
        wanted = (len(index) * share[batch.index.numpy() - index[0]]) ** -beta
        np.testing.assert_allclose(batch.weight, wanted / wanted.max(), rtol=1e-5)


def test_new_transitions_get_the_largest_priority_so_far():
    replay, play = Replay(SPEC, 1, config(capacity=64, sampling="prioritized", alpha=1.0), 0.9), Play(1, 0)
    for _ in range(10):
        play.step([replay], None)
    replay.set_priorities(np.arange(10), np.array([1e-3] * 9 + [50.0]))
    play.step([replay], None)
    drawn = np.bincount(replay.sample(keys(1000)).index, minlength=11) / 1000
    assert abs(drawn[9] - 0.5) < 0.02 and abs(drawn[10] - 0.5) < 0.02


def test_priorities_restored_draw_the_same():
    a, b = (Replay(SPEC, 2, config(capacity=64, sampling="prioritized"), 0.9) for _ in range(2))
    play = Play(2, 0)
    for _ in range(50):
        play.step([a, b], None)
    for seed in range(5):
        batch = a.sample(keys(32, seed))
        a.set_priorities(batch.index.numpy(), np.linspace(0, 3, 32))
    assert a.sample(keys(99)).index.tolist() != b.sample(keys(99)).index.tolist()
    b.restore_priorities({name: tensor.clone() for name, tensor in a.priorities().items()})
    play.step([a, b], None)
    assert a.sample(keys(99)).index.tolist() == b.sample(keys(99)).index.tolist()
    np.testing.assert_array_equal(a.sample(keys(99)).weight, b.sample(keys(99)).weight)


def test_an_error_that_is_not_finite_is_refused():
    replay, play = Replay(SPEC, 1, config(capacity=8, sampling="prioritized"), 0.9), Play(1, 0)
    play.step([replay], None)
    with pytest.raises(InputError, match="an error is not finite, the critic has diverged"):
        replay.set_priorities(np.array([0]), np.array([np.nan]))


# Bad input -------------------------------------------------------------------------------------------------------


def test_a_capacity_below_one_sample_is_refused():
    with pytest.raises(InputError, match=r"training\.replay\.capacity=10 is 2 steps of 4 worlds: expected at least 12 for samples of 3 steps"):
        Replay(SPEC, 4, config(capacity=10, n_step=3), 0.9)


def test_more_than_memory_is_refused_at_once():
    with pytest.raises(InputError, match=r"this replay takes .* GiB, there is .* GiB of memory; take a smaller one or set training\.replay\.place=disk"):
        Replay(SPEC, 1, config(capacity=10**12), 0.9)


def test_batches_are_joined_in_order():
    replay, play = Replay(SPEC, 1, config(capacity=8), 0.9), Play(1, 0)
    for _ in range(8):
        play.step([replay], None)
    a, b = replay.sample(keys(3)), replay.sample(keys(2, 1))
    both = joined([a, b])
    assert both.index.tolist() == a.index.tolist() + b.index.tolist()
    np.testing.assert_array_equal(both.next_obs["observation.state"][3:], b.next_obs["observation.state"])
