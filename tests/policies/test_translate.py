"""Models asked on another noise path: exact where both paths have the level, sensible where one has not."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.generative.paths import DdpmPath, KarrasPath, LinearPath
from policies.generative.samplers import Ddim, Heun, denoiser, sample
from policies.generative.translate import rows, translate
from tests.oracles.mixture import BIMODAL, RING, normal_grid

PATHS = [DdpmPath(100), DdpmPath(7), LinearPath(), KarrasPath(), KarrasPath(0.01, 20.0)]
INSIDE = {DdpmPath: (20, 50, 80), LinearPath: (0.1, 0.5, 0.9), KarrasPath: (0.05, 0.6, 5.0)}


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations([DdpmPath(100), LinearPath(), KarrasPath()], 2)))
def test_the_exact_model_of_one_path_becomes_the_exact_model_of_the_other(source, target):
    translated = translate(partial(RING.estimate, source), source, target)
    for number in INSIDE[type(target)]:
        x = target.mix(RING.draw(64), torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), number)
        for t in (number, torch.full((64,), number)):
            expected, found = RING.estimate(target, x, t), translated(x, t)
            assert (found.data - expected.data).abs().max() < 1e-6
            assert (found.noise - expected.noise).abs().max() < 1e-5


@pytest.mark.parametrize("source", [p for p in PATHS if p != DdpmPath(7)])  # whose least noise, 0.2, hides the narrow mode
@pytest.mark.parametrize("target", PATHS)
def test_a_translated_walk_reaches_the_distribution(source, target):
    translated = translate(partial(BIMODAL.estimate, source), source, target)
    levels = target.step_list(7 if target == DdpmPath(7) else 100)
    samples = sample(translated, target.prior(normal_grid(2001)), target, levels, Ddim())
    own = sample(partial(BIMODAL.estimate, target), target.prior(normal_grid(2001)), target, levels, Ddim())
    assert BIMODAL.distance(samples) < BIMODAL.distance(own) + 0.015


def test_a_trained_kind_of_network_translates_too():
    source, target = DdpmPath(100), LinearPath()  # clipped, epsilon: as a diffusion policy's model

    def network(x, clock):
        return BIMODAL.estimate(source, x, clock.double()).noise

    model = translate(denoiser(network, source, "epsilon", clip=3.0), source, target)
    samples = sample(model, normal_grid(2001), target, target.step_list(20), Heun())
    assert BIMODAL.distance(samples) < 0.02


@given(st.floats(0.0, 1.0))
def test_data_and_noise_make_up_x_at_every_level(t):
    source, target = DdpmPath(100), LinearPath()
    t = min(t, 0.999)
    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None]
    found = translate(partial(BIMODAL.estimate, source), source, target)(x, t)
    assert torch.isfinite(found.data).all()
    assert (target.mix(found.data, found.noise, t) - x).abs().max() < 1e-9


@pytest.mark.parametrize("path", PATHS)
def test_levels_are_found_again(path):
    for t in {DdpmPath: (0, 1, 3, 6), LinearPath: (0.001, 0.5, 0.999), KarrasPath: (0.02, 1.0, 10.0)}[type(path)]:
        a, b = path.scales(t)
        assert path.level_at(b / a) == pytest.approx(t, abs=1e-9)
        assert path.level_at(torch.tensor([b / a], dtype=torch.float64)).item() == pytest.approx(t, abs=1e-9)
    noisiest, cleanest = path.level_at(float("inf")), path.level_at(0.0)
    assert noisiest == pytest.approx(path.start) and path.level_at(torch.tensor([torch.inf])).item() == pytest.approx(path.start)
    assert path.level_at(torch.zeros(1)).item() == pytest.approx(cleanest)


def test_between_two_diffusion_levels_the_scales_lie_between():
    path = DdpmPath(100)
    x = torch.zeros(1, 1)
    for k in (0, 40, 98):
        (a, b), (a_next, b_next) = path.scales(k), path.scales(k + 1)
        middle, noise = (c.item() for c in path.scales(rows(k + 0.5, x)))
        assert a_next < middle < a and b < noise < b_next and middle**2 + noise**2 == pytest.approx(1.0)
        assert noise / middle == pytest.approx((b / a * b_next / a_next) ** 0.5)
        assert [c.item() for c in path.scales(rows(k, x))] == pytest.approx([a, b])


def test_the_same_path_is_the_same_model():
    model = partial(BIMODAL.estimate, LinearPath())
    assert translate(model, LinearPath(), LinearPath()) is model
