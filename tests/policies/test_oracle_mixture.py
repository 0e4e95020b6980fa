"""The oracle itself: its closed forms against automatic and finite differences, against sampling and against each other."""

import numpy as np
import pytest
import torch
from scipy import stats

from policies.generative.paths import DdpmPath, KarrasPath, LinearPath
from tests.oracles.distance import Law, sliced_wasserstein, wasserstein
from tests.oracles.mixture import BIMODAL, DIAGONAL, RING, STEERED, ConditionalMixture, GaussianMixture, level_of, two_modes
from tests.oracles.policy import oracle_policy, plans

PATHS = {"ddpm": DdpmPath(), "linear": LinearPath(), "karras": KarrasPath()}
INSIDE = {"ddpm": [0, 7, 50, 98], "linear": [0.05, 0.5, 0.95], "karras": [0.01, 0.5, 10.0]}
CASES = [(name, t) for name in PATHS for t in INSIDE[name]]
EIGHT = GaussianMixture.of((0.2, np.linspace(-1, 1, 8), np.linspace(0.1, 0.5, 8)), (0.8, np.linspace(1, -0.5, 8), 0.2))
MIXTURES = {"1-d": BIMODAL, "ring": RING, "diagonal": DIAGONAL, "8-d": EIGHT}


def points(dim: int, n: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize(("name", "t"), CASES)
def test_score_is_minus_the_gradient_of_the_energy(mixture, name, t):
    path, x, h = PATHS[name], points(mixture.dim), 1e-5
    score = mixture.score(path, x, t)
    for i, axis in enumerate(torch.eye(mixture.dim, dtype=torch.float64)):
        step = (mixture.energy(path, x - h * axis, t) - mixture.energy(path, x + h * axis, t)) / (2 * h)
        assert torch.allclose(score[:, i], step, rtol=1e-4, atol=1e-4)
    free = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.energy(path, free, t).sum(), free)
    assert torch.allclose(score, -gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
@pytest.mark.parametrize(("name", "t"), CASES)
def test_data_and_noise_make_up_x(mixture, name, t):
    path, x = PATHS[name], points(mixture.dim)
    assert torch.allclose(path.mix(*mixture.estimate(path, x, t), t), x, atol=1e-10)


@pytest.mark.parametrize(("name", "t"), CASES)
def test_energy_in_one_dimension_is_a_density(name, t):
    path = PATHS[name]
    x = torch.linspace(-120, 120, 100_001, dtype=torch.float64)[:, None]
    density = (-BIMODAL.energy(path, x, t)).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-9)
    a, b = path.scales(t)
    law = stats.norm(loc=a * BIMODAL.means[:, 0].numpy(), scale=np.sqrt((a * BIMODAL.deviations[:, 0].numpy()) ** 2 + b**2))
    assert density[::1000].numpy() == pytest.approx(law.pdf(x[::1000].numpy()) @ BIMODAL.weights.numpy(), abs=1e-12)


@pytest.mark.parametrize(("name", "t"), [case for case in CASES if case[0] != "ddpm"])
def test_the_energys_change_with_the_level(name, t):
    path, x, h = PATHS[name], points(3), 1e-6
    step = (DIAGONAL.energy(path, x, t + h) - DIAGONAL.energy(path, x, t - h)) / (2 * h)
    assert torch.allclose(DIAGONAL.energy_rate(path, x, t), step, rtol=1e-5, atol=1e-5)
    # continuity: d log p / dt = - div v - v . score
    free = x.clone().requires_grad_()
    v = DIAGONAL.velocity(path, free, t)
    divergence = sum(torch.autograd.grad(v[:, i].sum(), free, retain_graph=True)[0][:, i] for i in range(3))
    assert torch.allclose(DIAGONAL.energy_rate(path, x, t), (divergence + (v * DIAGONAL.score(path, x, t)).sum(1)).detach(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "t"), [("ddpm", 40), ("linear", 0.6), ("karras", 0.4)])
def test_expectations_by_sampling(name, t):
    # E[data | x near x0] from pairs that were mixed forward
    path, n = PATHS[name], 400_000
    data = BIMODAL.draw(n)
    x = path.mix(data, torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), t)
    for centre in (-0.4, 0.1, 0.6):
        near = (x[:, 0] - centre).abs() < 0.02
        at = torch.tensor([[centre]], dtype=torch.float64)
        few = 4 / float(near.sum()) ** 0.5
        assert float(data[near].mean()) == pytest.approx(float(BIMODAL.data(path, at, t)), abs=few)
        assert float(data[near].var()) == pytest.approx(float(BIMODAL.covariance_of_data(path, at, t)), abs=few)


@pytest.mark.parametrize(("name", "t"), [("ddpm", 40), ("linear", 0.6), ("karras", 0.4)])
def test_covariance_of_the_data_is_the_jacobian(name, t):
    path, x = PATHS[name], points(3)
    a, b = path.scales(t)
    jacobian = torch.autograd.functional.jacobian(lambda x: DIAGONAL.data(path, x, t).sum(0), x).permute(1, 0, 2)
    assert torch.allclose(DIAGONAL.covariance_of_data(path, x, t) * a / b**2, jacobian, atol=1e-9)


def test_a_level_per_row():
    for name, path in PATHS.items():
        t = torch.tensor(INSIDE[name][:3])
        x = points(3, 3)
        for quantity in (DIAGONAL.energy, DIAGONAL.score, DIAGONAL.data, DIAGONAL.covariance_of_data):
            rows = quantity(path, x, t)
            for row in range(3):
                assert torch.allclose(rows[row], quantity(path, x[row : row + 1], INSIDE[name][row])[0], rtol=1e-5, atol=1e-5)


def test_clocks_become_levels_again():
    for path, levels in ((DdpmPath(50), torch.tensor([0, 7, 49])), (LinearPath(), torch.tensor([0.0, 0.3])), (KarrasPath(), torch.tensor([0.002, 80.0]))):
        assert torch.allclose(level_of(path, torch.as_tensor(path.clock(levels))).double(), levels.double(), rtol=1e-6)


def test_mean_and_covariance_by_hand_and_by_sampling():
    # 0.3 (-0.8) + 0.7 (0.5) = 0.11; variance 0.3 (0.05^2 + 0.91^2) + 0.7 (0.2^2 + 0.39^2) = 0.38365
    assert float(BIMODAL.mean()) == pytest.approx(0.11) and float(BIMODAL.covariance()) == pytest.approx(0.38365)
    x = DIAGONAL.draw(400_000)
    assert torch.allclose(x.mean(0), DIAGONAL.mean(), atol=0.005)
    assert torch.allclose(torch.cov(x.T), DIAGONAL.covariance(), atol=0.005)


def test_the_law_of_a_part_given_the_rest():
    # by Bayes on the joint density, and by hand for equal widths: odds exp(2 s v / s^2)
    values = torch.tensor([[0.05], [-0.2]], dtype=torch.float64)
    part = two_modes(2, 1.0, 0.5).given_part([0], values)
    assert torch.allclose(part.weights[:, 0], torch.sigmoid(2 * values[:, 0] / 0.25))
    rest = DIAGONAL.given_part([1], torch.tensor([[0.1]], dtype=torch.float64))
    x = points(2, 2)
    joint = [DIAGONAL.energy(PATHS["ddpm"], torch.stack([r[0], torch.tensor(0.1, dtype=torch.float64), r[1]])[None], -1) for r in x]
    alone = rest.energy(PATHS["ddpm"], x, -1)
    assert float(joint[0] - joint[1]) == pytest.approx(float(alone[0] - alone[1]), rel=1e-10)


def test_a_condition_moves_and_tilts():
    c = torch.tensor([[0.0], [0.5], [-1.0]], dtype=torch.float64)
    mixture = STEERED.given(c)
    assert torch.allclose(mixture.weights[:, 0], torch.sigmoid(6 * c[:, 0]))
    assert mixture.means[1].tolist() == [[0.6 + 0.1, 0.6], [-0.6, -0.6 - 0.1]]
    x = points(2, 3)
    for row in range(3):
        alone = GaussianMixture(mixture.weights[row], mixture.means[row], mixture.deviations)
        assert torch.allclose(alone.score(PATHS["ddpm"], x[row : row + 1], 30)[0], mixture.score(PATHS["ddpm"], x, 30)[row])
    many = STEERED.draw(c[1:2].expand(100_000, 1))
    assert torch.allclose(many.mean(0), mixture.mean()[1], atol=0.01)


# --- distances -------------------------------------------------------------------------------------------------------


def test_distance_to_a_law_by_hand():
    # to N(0, 1): all mass at 0 costs E|x| = sqrt(2 / pi), and at 10 it costs 10, up to what lies beyond it
    normal = Law(np.ones(1), np.zeros(1), np.ones(1))
    assert normal.distance(np.zeros(1)) == pytest.approx(np.sqrt(2 / np.pi), abs=1e-12)
    assert normal.distance(np.full(5, 10.0)) == pytest.approx(10.0, abs=1e-9)


def test_distance_to_a_law_is_the_integral():
    x = np.sort(np.random.default_rng(0).standard_normal(50))
    law = BIMODAL.projected(np.ones(1))
    grid = np.linspace(-6, 6, 400_001)
    steps = np.searchsorted(x, grid, side="right") / 50
    assert law.distance(x) == pytest.approx(np.trapezoid(np.abs(law.cumulative(grid) - steps), grid), abs=1e-5)


def test_distances_between_samples():
    a = points(3, 60)
    assert wasserstein(a, a[torch.randperm(60)] + torch.tensor([0.3, 0.0, 0.4])) == pytest.approx(0.5, abs=0.05)
    assert wasserstein(a, a.flip(0)) == pytest.approx(0.0, abs=1e-12)
    b = points(3, 60, seed=1)
    assert 0 < sliced_wasserstein(a, b) < wasserstein(a, b)
    assert wasserstein(a[:, :1], b[:, :1]) == pytest.approx(float((a[:, 0].sort()[0] - b[:, 0].sort()[0]).abs().mean()))


def test_samples_of_the_mixture_are_near_and_others_are_far():
    for mixture in MIXTURES.values():
        x = mixture.draw(20_000)
        assert mixture.distance(x) < 0.025
        assert mixture.distance(x + 0.1) > 0.08
        assert mixture.distance(mixture.mean().expand(1000, -1)) > 0.1


# --- policies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "config"), [("diffusion", {"steps": 100}), ("diffusion", {"steps": 100, "prediction": "v"}), ("flow", {"steps": 100})])
def test_a_policy_with_the_exact_network_samples_the_mixture(name, config):
    mixture = GaussianMixture.of((0.4, (0.5, 0.6, 0.7, 0.8), 0.1), (0.6, (-0.5, -0.5, -0.6, -0.7), 0.1))
    policy = oracle_policy(name, mixture, horizon=2, **config)
    x = plans(policy, 8000)
    assert x.shape == (8000, 2, 2) and x.dtype == torch.float32
    assert mixture.distance(x.flatten(1)) < 0.03
    assert policy.encode(x, {}).equal(x)  # nothing is scaled


def test_a_conditional_policy_follows_its_observations():
    policy = oracle_policy("flow", STEERED, horizon=2, steps=50)
    state = torch.tensor([0.3]).expand(4000, 1, 1)
    given = STEERED.given(torch.tensor([[0.3]], dtype=torch.float64))
    one = GaussianMixture(given.weights[0], given.means[0], given.deviations)
    assert one.distance(plans(policy, 4000, state).flatten(1)) < 0.04


def test_a_condition_of_two_observations():
    follow = ConditionalMixture.of(GaussianMixture.of((1.0, (0.0, 0.0), 0.01)), [[[1.0, 0.0], [0.0, 1.0]]])
    policy = oracle_policy("diffusion", follow, horizon=2, n_obs_steps=2, n_action_steps=1, steps=20)
    state = torch.tensor([[[0.2], [-0.7]]])
    assert plans(policy, 1, state).item() == pytest.approx(-0.7, abs=0.05)
