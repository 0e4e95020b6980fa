"""The section randomize: what it takes, what it refuses and in which words, and its distributions against closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from policies.spec import InputError
from sim.draws import Draws
from sim.randomize_config import Distribution, read_config

K = 4000
SEEDS = np.arange(K)


def drawn(spec: Any, level: float = 1.0, neutral: float = 1.0) -> np.ndarray:
    return Distribution.model_validate(spec).draw(Draws(SEEDS, 99), (), level, neutral)


@pytest.mark.parametrize(
    ("spec", "law"),
    [
        ([0.5, 2.0], stats.uniform(0.5, 1.5)),
        ({"uniform": [-1.0, 3.0]}, stats.uniform(-1, 4)),
        ({"log_uniform": [0.1, 10.0]}, stats.loguniform(0.1, 10)),
        ({"normal": [1.0, 0.25]}, stats.norm(1, 0.25)),
    ],
)
def test_draws_follow_their_law(spec: Any, law: Any) -> None:
    values = drawn(spec)
    assert stats.kstest(values, law.cdf).pvalue > 0.01
    assert abs(values.mean() - law.mean()) < 4 * law.std() / math.sqrt(K)
    fourth = float(law.stats(moments="k")) + 2  # of the variance: sigma^4 (kurtosis + 2) / K
    assert abs(values.var() - law.var()) < 5 * law.var() * math.sqrt(fourth / K)


def test_choices_are_equally_likely_and_constants_are_constant() -> None:
    values, counts = np.unique(drawn({"choice": [3.0, 5.0, 9.0]}), return_counts=True)
    assert values.tolist() == [3, 5, 9] and stats.chisquare(counts).pvalue > 0.01
    assert set(drawn(0.25)) == {0.25}


def test_clip_puts_the_mass_beyond_on_the_ends() -> None:
    values = drawn({"normal": [0.0, 1.0], "clip": [-1.0, 1.0]})
    assert values.min() == -1 and values.max() == 1
    share = float(stats.norm.cdf(-1))
    assert abs((values == -1).mean() - share) < 4 * math.sqrt(share * (1 - share) / K)


class Ends(Draws):
    """Whose uniform numbers are 0 and 1: the ends of a range."""

    def _unit(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.linspace(0.0, 1.0, len(self)).reshape(len(self), *([1] * len(shape))) * np.ones(shape)


number = st.floats(0.01, 50.0, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["uniform", "log_uniform"]), number, number, st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 60))
def test_a_lower_level_lies_inside_a_higher_one(kind: str, a: float, b: float, one: float, two: float, neutral: float) -> None:
    distribution = Distribution.model_validate({kind: [min(a, b), max(a, b)]})
    ends = []
    for level in sorted((one, two)):
        values = distribution.draw(Ends(np.arange(2), 1), (), level, neutral)
        assert values.min() >= distribution.bounds[0] * (1 - 1e-12) and values.max() <= distribution.bounds[1] * (1 + 1e-12)
        ends.append((values.min(), values.max()))
    (low, high), (wider_low, wider_high) = ends
    assert wider_low <= low * (1 + 1e-9) and wider_high >= high * (1 - 1e-9)


def test_at_level_zero_nothing_varies() -> None:
    assert set(drawn([0.5, 2.0], 0.0)) == {1.0}
    assert set(drawn([1.5, 2.0], 0.0)) == {1.5}  # the point of the range that is nearest to neutral
    assert set(drawn({"normal": [1.0, 0.3]}, 0.0)) == {1.0}
    assert set(drawn({"choice": [4.0, 5.0]}, 0.0)) == {4.0}
    assert set(drawn({"choice": [4.0, 5.0, 6.0, 7.0]}, 0.5)) == {4.0, 5.0}
    np.testing.assert_allclose(drawn({"log_uniform": [0.25, 4.0]}, 0.0), 1.0, rtol=1e-12)
    values = drawn({"log_uniform": [0.25, 4.0]}, 0.5)
    assert 0.5 <= values.min() < 0.51 and 1.96 < values.max() <= 2.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modle": {}}, "unknown key 'modle'; did you mean 'model'?"),
        ({"model": {"mass:pole": {"scael": 1.0}}}, "unknown key 'model.mass:pole.scael'; did you mean 'scale'?"),
        ({"model": {"mass:pole": {"scale": {"unifrom": [1, 2]}}}}, "unknown key 'model.mass:pole.scale.unifrom'; did you mean 'uniform'?"),
        ({"model": {"mass:pole": {}}}, "exactly one of scale, add, set, found none"),
        ({"model": {"mass:pole": {"scale": 1, "add": 2}}}, "found scale and add"),
        ({"model": {"mass:pole": {"scale": [2.0, 1.0]}}}, "lower end 2 lies above the upper end 1"),
        ({"model": {"mass:pole": {"scale": {"log_uniform": [0.0, 1.0]}}}}, "expected ends above 0"),
        ({"model": {"mass:pole": {"scale": {"normal": [1.0, -1.0]}}}}, "standard deviation of at least 0"),
        ({"model": {"mass:pole": {"scale": True}}}, "expected a number, [low, high] or one of"),
        ({"model": {"mass:pole": {"scale": {"choice": []}}}}, "at least one value"),
        ({"model": {"mass:pole": {"scale": {"uniform": [1.0, float("inf")]}}}}, "finite number"),
        ({"actions": {"delay": -0.1}}, "expected seconds from 0 to 10, found -0.1 to -0.1"),
        ({"actions": {"delay": {"normal": [0.02, 0.01]}}}, "cut a normal distribution with clip"),
        ({"actions": {"delay": "fast"}}, "expected seconds from 0 to 10, found 'fast'"),
        ({"actions": {"dropout": 1.5}}, "probability from 0 to 1"),
        ({"actions": {"latency": 0.1}}, "unknown key 'actions.latency'"),
        ({"sensors": {"observation.state": {"noise": -1.0}}}, "standard deviation of at least 0"),
        ({"sensors": {"observation.state": {"bias": {"choice": ["low", "high"]}}}}, "expected numbers, found 'low'"),
        ({"curriculum": {"levle": 0.1}}, "unknown key 'curriculum.levle'; did you mean 'level'?"),
        ({"curriculum": {"raise_above": 0.3, "lower_below": 0.4}}, "must lie below raise_above"),
        ({"curriculum": {"window": 0}}, "greater than or equal to 1"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_config(values)
    message = str(caught.value)
    assert words in message and "\n" not in message and message.startswith("randomize: ")


leaf = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=True), st.text(max_size=6))
words = st.sampled_from(["model", "actions", "sensors", "curriculum", "scale", "add", "set", "uniform", "normal", "mass:pole", "delay", "noise", "level", "x"])
anything = st.recursive(leaf, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)), max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(words, anything, max_size=4))
def test_any_mapping_is_taken_or_refused_in_one_line(values: dict[str, Any]) -> None:
    try:
        config = read_config(values)
    except InputError as error:
        assert "\n" not in str(error).strip()
    else:
        assert read_config(config.model_dump(exclude_none=True)) == config
