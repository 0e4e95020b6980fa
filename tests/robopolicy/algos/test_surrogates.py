"""SPO and MDPO by hand: losses and gradients at given ratios, and the solutions that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.distributions import Gaussian
from robopolicy.algos.mdpo import Mdpo, MdpoConfig
from robopolicy.algos.ppo import Ppo, PpoConfig
from robopolicy.algos.rule import OnPolicyRule, PolicyStep
from robopolicy.algos.spo import Spo, SpoConfig


def _at_ratio(ratio: torch.Tensor, advantage: torch.Tensor, progress: float = 0.0) -> PolicyStep:
    """Return a step whose distributions do not differ: the ratio alone counts."""
    same = Gaussian(torch.zeros(len(ratio), 2), torch.zeros(2))
    return PolicyStep(same, same, torch.zeros(len(ratio), 2), ratio, advantage, progress)


def _loss_and_slope(rule: OnPolicyRule, ratio: float, advantage: float) -> tuple[float, float]:
    r = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    loss = rule.policy_loss(_at_ratio(r, torch.tensor([advantage], dtype=torch.float64)))
    (slope,) = torch.autograd.grad(loss.sum(), r)
    return float(loss.detach()), float(slope)


#: ratio, advantage, -(rho A - |A| / 0.4 (rho - 1)^2), and its derivative -A + |A| / 0.2 (rho - 1), by hand for eps = 0.2.
SPO_BY_HAND = [
    (1.0, 2.0, -2.0, -2.0),
    (1.1, 2.0, -2.2 + 0.05, -2.0 + 1.0),
    (1.2, 2.0, -2.4 + 0.2, 0.0),
    (1.5, 2.0, -3.0 + 1.25, -2.0 + 5.0),
    (0.7, 2.0, -1.4 + 0.45, -2.0 - 3.0),
    (0.8, -3.0, 2.4 + 0.3, 0.0),
    (0.5, -3.0, 1.5 + 1.875, 3.0 - 7.5),
    (1.4, -3.0, 4.2 + 1.2, 3.0 + 6.0),
    (1.3, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "slope"), SPO_BY_HAND)
def test_spo_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    found = _loss_and_slope(Spo(SpoConfig()), ratio, advantage)
    assert found == pytest.approx((loss, slope), abs=1e-12)


def test_beyond_its_edge_spo_pulls_back_where_ppo_does_nothing() -> None:
    for ratio, advantage in ((1.5, 2.0), (0.5, -3.0)):
        away = math.copysign(1.0, advantage)
        assert _loss_and_slope(Ppo(PpoConfig()), ratio, advantage)[1] == 0.0
        assert _loss_and_slope(Spo(SpoConfig()), ratio, advantage)[1] * away > 1.0


@given(
    advantage=st.floats(-10, 10).filter(lambda a: abs(a) > 1e-3),
    deviation=st.floats(0.01, 1.0),
    away=st.floats(-0.9, 2.0).filter(lambda d: abs(d) > 1e-3),
)
def test_the_best_ratio_of_spo_is_one_plus_eps_sign_a(advantage: float, deviation: float, away: float) -> None:
    rule, best = Spo(SpoConfig(deviation=deviation)), 1.0 + math.copysign(deviation, advantage)
    lowest, slope = _loss_and_slope(rule, best, advantage)
    assert slope == pytest.approx(0.0, abs=1e-9)
    assert lowest == pytest.approx(-best * advantage + abs(advantage) * deviation / 2)
    assert _loss_and_slope(rule, best + away, advantage)[0] > lowest


def test_mdpo_by_hand() -> None:
    """One action, means 0.5 and 0, deviations 1 and 2: KL = ln 2 + (1 + 0.25) / 8 - 1/2."""
    new = Gaussian(torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True), torch.zeros(1, dtype=torch.float64))
    old = Gaussian(torch.zeros(1, 1, dtype=torch.float64), torch.full((1,), math.log(2.0), dtype=torch.float64))
    ratio, advantage = torch.tensor([1.3], dtype=torch.float64), torch.tensor([-2.0], dtype=torch.float64)
    loss = Mdpo(MdpoConfig(step_size=0.8)).policy_loss(PolicyStep(new, old, torch.zeros(1, 1), ratio, advantage, 0.75))
    kl = math.log(2.0) + 1.25 / 8 - 0.5
    assert float(loss.detach()) == pytest.approx(kl / (0.8 * 0.25) + 2.6, rel=1e-12)
    (slope,) = torch.autograd.grad(loss.sum(), new.mean)  # (mean - old mean) / old variance / t
    assert float(slope) == pytest.approx(0.5 / 4.0 / 0.2, rel=1e-12)


def test_the_step_of_mdpo_goes_from_one_to_nothing() -> None:
    rule = Mdpo(MdpoConfig())
    assert [rule.step_size(k / 10) for k in range(10)] == pytest.approx([1 - k / 10 for k in range(10)])
    assert 0 < rule.step_size(1.0) <= 1e-3
    assert Mdpo(MdpoConfig(anneal=False, step_size=0.3)).step_size(0.9) == 0.3


def _solved(rule: OnPolicyRule, old: Gaussian, advantage: torch.Tensor, actions: torch.Tensor, weights: torch.Tensor, progress: float) -> Gaussian:
    """Minimise the expectation of the rule's loss over old's actions, by quadrature, over mean and deviation."""
    mean, log_std = old.mean[0].clone().requires_grad_(), old.log_std.clone().requires_grad_()
    solver = torch.optim.LBFGS([mean, log_std], lr=0.5, max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        new = Gaussian(mean.expand(len(actions), -1), log_std)
        ratio = torch.exp(new.log_prob(actions) - old.log_prob(actions))
        loss = (weights * rule.policy_loss(PolicyStep(new, old, actions, ratio, advantage, progress))).sum()
        loss.backward()
        return loss

    solver.step(closure)
    return Gaussian(mean.detach(), log_std.detach())


def test_mdpo_is_the_step_of_mirror_descent() -> None:
    """For an advantage that is linear in the action, pi_k exp(t A) / Z is Gaussian: its mean moves by t sigma^2 slope, its deviation stays."""
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    mean, std, slope, progress = 0.3, 0.7, 0.9, 0.4
    old = Gaussian(torch.full((40, 1), mean, dtype=torch.float64), torch.full((1,), math.log(std), dtype=torch.float64))
    actions = torch.from_numpy(mean + std * points)[:, None]
    shares = torch.from_numpy(weights / weights.sum())
    new = _solved(Mdpo(MdpoConfig()), old, slope * (actions[:, 0] - mean), actions, shares, progress)
    assert float(new.mean) == pytest.approx(mean + 0.6 * std**2 * slope, abs=1e-6)
    assert float(new.std) == pytest.approx(std, abs=1e-6)
    held = _solved(Mdpo(MdpoConfig(step_size=0.1)), old, slope * (actions[:, 0] - mean), actions, shares, progress)
    assert float(held.mean) == pytest.approx(mean + 0.06 * std**2 * slope, abs=1e-6)


def _walk(rule: OnPolicyRule, epochs: int) -> torch.Tensor:
    """Return the ratios (200,) after full-batch epochs on one set of actions with random advantages."""
    torch.manual_seed(0)
    old = Gaussian(torch.zeros(200, 4), torch.zeros(4))
    actions, advantage = torch.randn(200, 4), torch.randn(200)
    last = torch.nn.Linear(64, 4)
    network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), last)
    states, log_std = torch.randn(200, 8), torch.nn.Parameter(torch.zeros(4))
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    adam = torch.optim.Adam([*network.parameters(), log_std], lr=5e-3)
    ratio = torch.ones(200)
    for _ in range(epochs):
        new = Gaussian(network(states), log_std)
        ratio = torch.exp(new.log_prob(actions) - old.log_prob(actions))
        adam.zero_grad()
        rule.policy_loss(PolicyStep(new, old, actions, ratio, advantage, 0.0)).mean().backward()
        adam.step()
    return ratio.detach()


def test_over_many_epochs_spo_keeps_its_ratios_and_ppo_does_not() -> None:
    ppo, spo = (float((_walk(rule, 200) - 1.0).abs().mean()) for rule in (Ppo(PpoConfig()), Spo(SpoConfig())))
    assert spo < 0.25
    assert ppo > 1.5 * spo
