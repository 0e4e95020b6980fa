"""Running statistics against numpy on the whole array."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policies.spec import InputError
from policies.statistics import QUANTILES, RunningStats, aggregate, stats_from_json, stats_to_json

ROWS = hnp.arrays(np.float64, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-1e6, 1e6, width=32))


def split(array: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return np.split(array, sorted({c % len(array) for c in cuts} - {0}))


def oracle(array: np.ndarray) -> dict[str, np.ndarray]:
    out = {"min": array.min(0), "max": array.max(0), "mean": array.mean(0), "std": array.std(0), "count": np.array([len(array)])}
    return out | {name: np.quantile(array, q, axis=0) for name, q in QUANTILES.items()}


@given(ROWS, st.lists(st.integers(0, 59), max_size=4))
def test_batches_give_the_statistics_of_the_whole(rows, cuts):
    stats = RunningStats(rows.shape[1:])
    for part in split(rows, cuts):
        stats.update(part)
    scale = np.abs(rows).max() + 1
    for name, value in oracle(rows).items():
        np.testing.assert_allclose(stats.result()[name], value, atol=1e-9 * scale, err_msg=name)


@given(ROWS, st.lists(st.integers(0, 59), max_size=4), st.integers(0, 80))
def test_merging_equals_updating(rows, cuts, exact_rows):
    whole, merged = RunningStats(rows.shape[1:], exact_rows=exact_rows), RunningStats(rows.shape[1:], exact_rows=exact_rows)
    whole.update(rows)
    for part in split(rows, cuts):
        one = RunningStats(rows.shape[1:], exact_rows=exact_rows)
        one.update(part)
        merged.merge(one)
    for name, value in whole.result().items():
        np.testing.assert_allclose(merged.result()[name], value, atol=1e-9 * (np.abs(rows).max() + 1), err_msg=name)


@settings(max_examples=60)
@given(ROWS, st.lists(st.integers(0, 59), max_size=4))
def test_histogram_does_not_depend_on_order(rows, cuts):
    forward, backward = RunningStats(rows.shape[1:], exact_rows=0), RunningStats(rows.shape[1:], exact_rows=0)
    for part in split(rows, cuts):
        forward.update(part)
    for part in reversed(split(rows, cuts)):
        backward.update(part[::-1])
    for name in QUANTILES:
        np.testing.assert_array_equal(forward.result()[name], backward.result()[name])


@pytest.mark.parametrize("scale,shift", [(1.0, 0.0), (1e-3, 1.0), (1e4, -3e5), (1e-9, 0.0)])
def test_streamed_quantiles_are_within_two_bins(scale, shift):
    rows = np.random.default_rng(0).normal(size=(40000, 2)) * scale + shift
    stats = RunningStats((2,), exact_rows=100)
    for part in np.array_split(rows, 17):
        stats.update(part)
    width = 2 * np.ptp(rows, 0) / 8192
    for name, q in QUANTILES.items():
        assert np.all(np.abs(stats.result()[name] - np.quantile(rows, q, axis=0)) <= width), name


def test_small_deviation_on_a_large_mean_is_kept():
    rows = 1e9 + np.tile([[0.0], [1.0]], (5000, 1))
    stats = RunningStats((1,))
    for part in np.array_split(rows, 100):
        stats.update(part)
    assert stats.result()["std"] == pytest.approx(0.5, abs=1e-9)
    assert stats.result()["mean"] == pytest.approx(1e9 + 0.5, abs=1e-6)


def test_constant_element_stays_exact_beyond_the_buffer():
    stats = RunningStats((1,), exact_rows=10)
    for _ in range(5):
        stats.update(np.full((20, 1), 0.1))
    result = stats.result()
    assert all(result[name] == 0.1 for name in ("min", "max", "mean", *QUANTILES))
    assert result["std"] < 1e-15


def test_images_have_lerobot_form_over_unit_range():
    images = np.random.default_rng(1).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
    first, second = RunningStats((5, 4, 3), image=True), RunningStats((5, 4, 3), image=True)
    first.update(images[:3])
    second.update(images[3:])
    first.merge(second)
    result, pixels = first.result(), images.reshape(-1, 3) / 255
    assert result["mean"].shape == (3, 1, 1) and result["count"].tolist() == [7]
    for name, value in oracle(pixels).items():
        if name != "count":
            np.testing.assert_allclose(result[name].ravel(), value, atol=1e-12, err_msg=name)


@given(ROWS, st.lists(st.integers(0, 59), max_size=4))
def test_aggregate_has_exact_moments(rows, cuts):
    parts = []
    for part in split(rows, cuts):
        one = RunningStats(rows.shape[1:])
        one.update(part)
        parts.append(one.result())
    total, scale = aggregate(parts), np.abs(rows).max() + 1
    for name in ("min", "max", "mean", "std", "count"):
        np.testing.assert_allclose(total[name], oracle(rows)[name], atol=1e-7 * scale, err_msg=name)


def test_aggregated_quantiles_are_weighted_by_count():
    parts = []
    for n, value in ((1, 0.0), (3, 4.0)):
        one = RunningStats((1,))
        one.update(np.full((n, 1), value))
        parts.append(one.result())
    assert aggregate(parts)["q50"] == pytest.approx(3.0)


def test_json_round_trip():
    stats = RunningStats((2,))
    stats.update(np.random.default_rng(2).normal(size=(9, 2)))
    value = {"action": stats.result()}
    back = stats_from_json(json.loads(json.dumps(stats_to_json(value))))
    for name, array in value["action"].items():
        np.testing.assert_array_equal(back["action"][name], array)
        assert back["action"][name].dtype == array.dtype


def test_bad_input_is_named():
    stats = RunningStats((2,))
    with pytest.raises(InputError, match=r"expected rows \(N, 2\), found \(3, 3\)"):
        stats.update(np.zeros((3, 3)))
    with pytest.raises(InputError, match="row 1 element 0 is nan"):
        stats.update(np.array([[0, 0], [np.nan, 0]]))
    with pytest.raises(InputError, match="no rows at all"):
        stats.result()
    with pytest.raises(InputError, match="expected uint8"):
        RunningStats((2, 2, 3), image=True).update(np.zeros((1, 2, 2, 3)))
    with pytest.raises(InputError, match="cannot be merged"):
        stats.merge(RunningStats((3,)))
    with pytest.raises(InputError, match="'mean' is not an array"):
        stats_from_json({"action": {"mean": ["x"]}})
