"""Noise paths: published schedules, conversions between what networks predict, and levels as numbers or one per row."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from hypothesis import given
from hypothesis import strategies as st

from policies.generative.paths import DdpmPath, Estimate, KarrasPath, LinearPath
from policies.spec import InputError
from tests.oracles.mixture import BIMODAL

PATHS = {"ddpm": DdpmPath(), "linear": LinearPath(), "karras": KarrasPath()}
#: Levels strictly inside each path, where every prediction determines data and noise.
INSIDE = {"ddpm": [0, 7, 50, 98], "linear": [0.05, 0.5, 0.95], "karras": [0.01, 0.5, 10.0]}
KINDS = {"ddpm": ["epsilon", "x0", "v"], "linear": ["epsilon", "x0", "v", "velocity"], "karras": ["epsilon", "x0", "v", "velocity"]}
CASES = [(name, kind, t) for name in PATHS for kind in KINDS[name] for t in INSIDE[name]]


def pair(seed: int = 0, rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, 2, dtype=torch.float64, generator=generator), torch.randn(rows, 3, 2, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("levels", [100, 1000, 7])
def test_ddpm_schedule_is_diffusers_squaredcos_cap_v2(levels):
    scheduler = DDPMScheduler(num_train_timesteps=levels, beta_schedule="squaredcos_cap_v2")
    path = DdpmPath(levels)
    assert np.abs(path.betas - scheduler.betas.numpy()).max() < 1e-7  # theirs are float32
    assert np.abs(path.alpha_bar - scheduler.alphas_cumprod.numpy()).max() < 1e-6


def test_ddpm_schedule_by_hand():
    # K = 2: f(0) = cos^2(0.008 / 1.008 pi / 2), f(1) = cos^2(0.508 / 1.008 pi / 2), f(2) = cos^2(pi / 2) = 0
    f = [math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2 for u in (0, 0.5, 1)]
    path = DdpmPath(2)
    assert path.betas == pytest.approx([1 - f[1] / f[0], 0.999], abs=1e-15)
    assert path.scales(-1) == (1.0, 0.0)
    assert path.scales(0) == pytest.approx((math.sqrt(f[1] / f[0]), math.sqrt(1 - f[1] / f[0])), abs=1e-15)
    assert path.scales(1)[0] == pytest.approx(math.sqrt(f[1] / f[0] * 0.001), abs=1e-15)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_ends_are_noise_and_data(path):
    data, noise = pair()
    assert torch.equal(path.mix(data, noise, path.end), data)
    assert torch.allclose(path.prior(noise), path.mix(torch.zeros_like(data), noise, path.start))
    signal, sigma = path.scales(path.start)
    assert signal / sigma < 0.02
    clean, none = path.scales(path.end)
    assert (clean, none) == (1.0, 0.0)


@pytest.mark.parametrize(("name", "kind", "t"), CASES)
def test_every_prediction_gives_back_data_and_noise(name, kind, t):
    path, (data, noise) = PATHS[name], pair()
    x = path.mix(data, noise, t)
    found = path.estimate(kind, path.target(kind, data, noise, t), x, t)
    assert torch.allclose(found.data, data, atol=1e-9) and torch.allclose(found.noise, noise, atol=1e-9)
    assert torch.allclose(path.noise_in(x, data, t), noise, atol=1e-9)


@pytest.mark.parametrize(("name", "kind", "t"), CASES)
def test_a_level_per_row_is_the_same_as_one_level(name, kind, t):
    path, (data, noise) = PATHS[name], pair(rows=3)
    rows = torch.full((3,), t, dtype=torch.int64 if name == "ddpm" else torch.float64)
    x, target = path.mix(data, noise, t), path.target(kind, data, noise, t)
    assert torch.allclose(path.mix(data, noise, rows), x, atol=1e-12)
    assert torch.allclose(path.target(kind, data, noise, rows), target, atol=1e-12)
    for one, other in zip(path.estimate(kind, target, x, rows), path.estimate(kind, target, x, t), strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    assert torch.allclose(torch.as_tensor(path.clock(rows), dtype=torch.float64), torch.tensor(path.clock(t), dtype=torch.float64))


def test_rows_with_different_levels_do_not_mix():
    path, (data, noise) = DdpmPath(), pair(rows=3)
    mixed = path.mix(data, noise, torch.tensor([-1, 40, 99]))
    for row, level in enumerate((-1, 40, 99)):
        assert torch.allclose(mixed[row], path.mix(data[row : row + 1], noise[row : row + 1], level)[0], atol=1e-15)


def test_predictions_in_known_units():
    data, noise = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    flow = LinearPath()
    assert flow.mix(data, noise, 0.25).item() == 0.25 * 2 - 0.75
    assert flow.target("velocity", data, noise, 0.25).item() == 3.0  # data - noise, at any time
    assert KarrasPath().target("velocity", data, noise, 5.0).item() == -1.0  # dx/dsigma is the noise
    a, b = DdpmPath().scales(30)
    assert DdpmPath().target("v", data, noise, 30).item() == pytest.approx(-a - 2 * b)


def test_velocity_is_the_derivative_of_the_path():
    data, noise = pair()
    for path, t in ((LinearPath(), 0.3), (KarrasPath(), 2.0)):
        h = 1e-6
        difference = (path.mix(data, noise, t + h) - path.mix(data, noise, t - h)) / (2 * h)
        assert torch.allclose(path.velocity(Estimate(data, noise), t), difference, atol=1e-8)


@pytest.mark.parametrize("name", PATHS)
def test_the_oracle_splits_x_exactly(name):
    # E[x | x] = a E[data | x] + b E[noise | x]: checks the tests' own oracle
    path = PATHS[name]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for t in INSIDE[name]:
        a, b = path.scales(t)
        found = BIMODAL.estimate(path, x, t)
        assert torch.allclose(a * found.data + b * found.noise, x, atol=1e-10)


@given(st.integers(1, 200), st.data())
def test_ddpm_step_lists_go_down_to_the_data(levels, data):
    start = data.draw(st.integers(0, levels - 1))
    n = data.draw(st.integers(1, start + 1))
    steps = DdpmPath(levels).step_list(n, start)
    assert len(steps) == n + 1 and steps[0] == start and steps[-1] == -1
    assert all(a > b for a, b in itertools.pairwise(steps)) and all(type(t) is int for t in steps)
    gaps = [a - b for a, b in itertools.pairwise(steps)]
    assert max(gaps) - min(gaps) <= 1


def test_step_lists_by_hand():
    assert DdpmPath(100).step_list(10) == (99, 89, 79, 69, 59, 49, 39, 29, 19, 9, -1)
    assert DdpmPath(100).step_list(100) == tuple(range(99, -2, -1))
    assert DdpmPath(100).step_list(3, start=2) == (2, 1, 0, -1)
    assert DdpmPath(100).step_list(1) == (99, -1)
    assert LinearPath().step_list(4) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert LinearPath().step_list(2, start=0.5) == (0.5, 0.75, 1.0)
    karras = KarrasPath().step_list(3)
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert karras == pytest.approx((80.0, middle, 0.002, 0.0), rel=1e-12)
    assert KarrasPath().step_list(1) == (80.0, 0.0)


def test_karras_step_list_is_diffusers():
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(12)
    assert KarrasPath().step_list(12) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DdpmPath(0), "at least 1 level"),
        (lambda: DdpmPath(100).step_list(101), "expected 1 to 100"),
        (lambda: DdpmPath(100).step_list(0), "expected 1 to 100"),
        (lambda: DdpmPath(100).step_list(4, start=2), "expected 1 to 3"),
        (lambda: DdpmPath(100).step_list(1, start=100), "0 to 99"),
        (lambda: DdpmPath(100).scales(100), "-1 (data) to 99"),
        (lambda: DdpmPath(100).rates(5), "no velocity"),
        (lambda: LinearPath().step_list(0), "at least 1"),
        (lambda: LinearPath().step_list(2, start=1.0), "below 1"),
        (lambda: KarrasPath(sigma_min=2, sigma_max=1), "sigma_min < sigma_max"),
        (lambda: KarrasPath().step_list(2, start=100.0), "0.002 to 80"),
        (lambda: LinearPath().target("velocty", torch.zeros(1, 1), torch.zeros(1, 1), 0.5), "did you mean 'velocity'"),
    ],
)
def test_mistakes_are_said(call, words):
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_fractional_ddpm_levels_are_refused():
    with pytest.raises(TypeError):
        DdpmPath().scales(3.0)


def test_karras_preconditioning_keeps_unit_variance():
    # EDM, appendix B.6: with data of deviation sigma_data, c_in x and the network's target have deviation 1
    path, n = KarrasPath(sigma_data=0.7), 400_000
    generator = torch.Generator().manual_seed(0)
    data = 0.7 * torch.randn(n, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, dtype=torch.float64, generator=generator)
    for sigma in (0.01, 0.5, 20.0):
        skip, out, into = path.precondition(sigma)
        x = path.mix(data, noise, sigma)
        assert (into * x).std().item() == pytest.approx(1.0, abs=0.01)
        assert ((data - skip * x) / out).std().item() == pytest.approx(1.0, abs=0.01)
    rows = path.precondition(torch.tensor([0.01, 0.5]))
    assert [float(c[1]) for c in rows] == pytest.approx([float(c) for c in path.precondition(0.5)])
