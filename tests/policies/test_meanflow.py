"""MeanFlow: its identity against a closed form, its derivative against differences, its walk by hand."""

import numpy as np
import pytest
import torch
from scipy import stats

from policies.noise import Noise, row_keys
from tests.policies.toy import COIN, COIN_CONFIG, STATE, build, coin_answers, coin_batch, observation, random_batch, train


def exact_mean_velocity(x: torch.Tensor, t: torch.Tensor, r: torch.Tensor, mean: float, deviation: float) -> torch.Tensor:
    """Return u for data ~ N(mean, deviation^2): the flow keeps (x_t - t mean) / spread(t), with spread(t)^2 = t^2 deviation^2 + (1 - t)^2."""
    spread_t, spread_r = ((s**2 * deviation**2 + (1 - s) ** 2) ** 0.5 for s in (t, r))
    carried = r * mean + spread_r / spread_t * (x - t * mean)
    return (carried - x) / (r - t)


class Exact(torch.nn.Module):
    """The network that training would converge to, read through the clocks that a network is told."""

    def __init__(self, reach: torch.nn.Module) -> None:
        super().__init__()
        self.frequency = reach.frequencies[-1].item()  # of the slowest sine, which grows with r - t over all of [0, 1]

    def forward(self, x, clock, condition):
        t = clock[:, None, None] / 10.0
        apart = torch.asin(condition[:, :1, -17:-16]) / (10.0 * self.frequency)
        return exact_mean_velocity(x, t, t + apart, 0.3, 0.5)


def oracle():
    batch = random_batch(STATE, 64)
    policy = build("meanflow", STATE, batch).double().eval()
    policy.network = Exact(policy.reach)
    return policy


def rows(n: int = 64):
    noise = Noise(row_keys(3, np.arange(n)))
    x, t = noise.normal(16, 4).double(), 0.05 + 0.8 * noise.uniform().double()
    return x, t, t + 0.02 + 0.1 * noise.uniform().double(), torch.zeros(n, 2, 5, dtype=torch.float64)


def test_the_identity_holds_for_the_exact_mean_velocity():
    # u = v + (r - t) du/dt with the marginal velocity v, which for normal data is linear in x
    policy = oracle()
    x, t, r, condition = rows()
    a, b = t[:, None, None], 1 - t[:, None, None]
    gain = (a * 0.25 - b) / (a**2 * 0.25 + b**2)
    velocity = 0.3 + gain * (x - a * 0.3)
    u, change = policy.with_change(x, t, r, velocity, condition)
    assert (u - exact_mean_velocity(x, a, r[:, None, None], 0.3, 0.5)).abs().max() < 1e-9
    assert (u - (velocity + (r - t)[:, None, None] * change)).abs().max() < 1e-9


@pytest.mark.parametrize("calls", [1, 2, 10])
def test_the_exact_mean_velocity_carries_noise_to_data_in_any_number_of_calls(calls):
    policy = oracle()
    noise = Noise(row_keys(0, np.arange(64)))
    chunk, made = policy.walk(torch.zeros(64, 2, 5, dtype=torch.float64), noise, steps=calls)
    z = Noise(row_keys(0, np.arange(64))).normal(16, 4).double()
    assert made == calls and (chunk - (0.3 + 0.5 * z)).abs().max() < 1e-6


@pytest.mark.parametrize("backbone", ["mlp", "unet", "transformer"])
def test_the_derivative_agrees_with_differences(backbone):
    policy = build("meanflow", STATE, random_batch(STATE, 8), backbone=backbone).double().eval()
    x, t, r, condition = rows(8)
    velocity = Noise(row_keys(4, np.arange(8))).normal(16, 4).double()
    _, change = policy.with_change(x, t, r, velocity, condition)
    h = 1e-4
    with torch.no_grad():
        ahead, behind = (policy.mean_velocity(x + s * h * velocity, t + s * h, r, condition) for s in (1, -1))
    difference = (ahead - behind) / (2 * h)
    assert (change - difference).abs().max() < 1e-4 * max(1.0, difference.abs().max().item())


def test_loss_by_hand():
    batch = random_batch(STATE, 5)
    policy = build("meanflow", STATE, batch, weight_power=1.0).eval()
    keys = row_keys(0, np.arange(5))
    noise = Noise(keys)
    both, apart, z = noise.uniform(2), noise.uniform() < 0.5, noise.normal(16, 4)
    t = torch.where(apart, both.amin(1), both[:, 0])
    r = torch.where(apart, both.amax(1), both[:, 0])
    data = policy.normalizer.normalize("action", batch["action"])
    x, v = t[:, None, None] * data + (1 - t[:, None, None]) * z, data - z
    condition = policy.condition(batch, noise)
    u, change = policy.with_change(x, t, r, v, condition)
    squared = (u - v - (r - t)[:, None, None] * change).square()
    expected = (squared / (squared.mean((1, 2), keepdim=True) + 0.03**2)).mean()
    assert policy.loss(batch, Noise(keys))[0].item() == pytest.approx(expected.item(), rel=1e-5)
    assert 0 < apart.sum() < 5 and (r >= t).all()


def test_times_are_apart_in_the_share_asked_for():
    noise = Noise(row_keys(0, np.arange(20_000)))
    for time, mean in (("uniform", 0.5), ("logit_normal", 0.585)):
        t, r = build("meanflow", STATE, random_batch(STATE, 2), intervals=0.25, time=time).times(noise)
        assert (r >= t).all() and (t >= 0).all() and (r <= 1).all()
        assert (r > t).float().mean() == pytest.approx(0.25, abs=0.01)
        assert t[t == r].mean() == pytest.approx(mean, abs=0.01)


def test_a_walk_that_is_not_steered_takes_the_mean_and_a_steered_one_the_moment():
    batch = random_batch(STATE, 3)
    policy = build("meanflow", STATE, batch, steps=3).eval()
    keys = row_keys(0, np.arange(3))
    condition = policy.condition(batch, Noise(keys))
    x = Noise(keys).normal(16, 4)
    moment = x
    for i in range(3):
        t, r = torch.full((3,), i / 3), torch.full((3,), (i + 1) / 3)
        x = x + policy.mean_velocity(x, t, r, condition) / 3
        moment = moment + policy.mean_velocity(moment, t, t, condition) / 3
    assert torch.allclose(policy.walk(condition, Noise(keys))[0], x, atol=1e-5)
    assert torch.allclose(policy.walk(condition, Noise(keys), steer=lambda model: model, steps=3)[0], moment, atol=1e-4)
    assert policy.act(observation(batch), {}, Noise(keys))[0].info["network_calls"].tolist() == [3.0] * 3


def test_the_sample_can_be_differentiated():
    batch = random_batch(STATE, 3)
    policy = build("meanflow", STATE, batch, steps=2).eval()
    noise = Noise(row_keys(0, np.arange(3)))
    chunk, _ = policy.generate(policy.condition(batch, noise), noise)
    chunk.sum().backward()
    assert all(p.grad is not None for p in policy.parameters())


def test_both_modes_of_the_coin_are_drawn_in_one_call():
    policy = build("meanflow", COIN, coin_batch(0), **COIN_CONFIG)
    train(policy, coin_batch, 700)
    for steps in (1, 2, 10):
        policy.config.steps = steps
        answers = coin_answers(policy)
        assert (answers.abs() - 1).abs().mean() < 0.2, steps
        assert 0.35 < (answers > 0).float().mean() < 0.65, steps


def test_a_steered_walk_of_one_jump_takes_as_many_steps_as_a_flow():
    batch, keys = random_batch(STATE, 5), row_keys(0, np.arange(5))
    policy = build("meanflow", STATE, batch, steps=1).eval()
    condition = policy.condition(batch, Noise(keys))
    chunk, calls = policy.walk(condition, Noise(keys), steer=lambda model: model)
    assert calls == 10 and policy.walk(condition, Noise(keys))[1] == 1
    assert torch.equal(chunk, policy.walk(condition, Noise(keys), steer=lambda model: model, steps=10)[0])


def gaussian_batch(step, rows=256):
    """Return a batch whose action is N(0.3, 0.4^2), whatever is observed."""
    noise = Noise(row_keys(5, step * rows + np.arange(rows)))
    return {"observation.state": noise.normal(1, 1), "action": 0.3 + 0.4 * noise.normal(1, 1), "action_is_pad": torch.zeros(rows, 1, dtype=torch.bool)}


@pytest.mark.soak  # the coin is its reduced version
def test_one_call_is_within_twice_the_distance_of_ten_on_a_gaussian():
    policy = build("meanflow", COIN, gaussian_batch(0), action_normalization="mean_std", **COIN_CONFIG)
    train(policy, gaussian_batch, 1500)
    found = {}
    for steps in (1, 10):
        policy.config.steps = steps
        found[steps] = stats.wasserstein_distance(coin_answers(policy, 4000).numpy(), 0.3 + 0.4 * stats.norm.ppf((np.arange(4000) + 0.5) / 4000))
    assert found[1] < 2 * found[10] + 0.01 and found[1] < 0.03  # of a deviation of 0.4


@pytest.mark.parametrize("backbone", ["mlp", "unet", "transformer"])
def test_every_backbone_trains_with_products_in_bfloat16(backbone):
    batch, noise = random_batch(STATE, 8), (lambda: Noise(row_keys(0, np.arange(8))))
    policy = build("meanflow", STATE, batch, backbone=backbone).eval()
    wanted, _ = policy.loss(batch, noise())
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = policy.loss(batch, noise())
    loss.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=0.02)
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())
