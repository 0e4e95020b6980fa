"""Targets and losses of the off-policy rules against numbers worked out in plain numpy, from what the networks say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from policies.distributions import Gaussian, squashed
from robopolicy.algos.actor_critic import Seen
from robopolicy.algos.rule import Transitions
from tests.robopolicy.algos.off_policy_toys import STATE, noise, rule, spec, to_double, transitions

OF = spec()
ROWS = 8


def _n(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy()


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def _huber(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 50.0, 0.5 * x**2, 50.0 * (np.abs(x) - 25.0))


def _log_prob(mean: np.ndarray, log_std: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the log density (B,) of tanh(mean + std z), by the change of variables."""
    normal = -0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)
    return (normal - np.log(1.0 - np.tanh(mean + np.exp(log_std) * z) ** 2)).sum(-1)


def _drawn(policy: Any, obs: torch.Tensor, z: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """Return actions tanh(mean + std z) and their log density."""
    mean, log_std = np.split(_n(policy.network(obs)), 2, -1)
    log_std = np.clip(log_std, -5.0, 2.0)
    return torch.from_numpy(np.tanh(mean + np.exp(log_std) * z)), _log_prob(mean, log_std, z)


def _setup(name: str, **config: Any) -> tuple[Any, Transitions, torch.Tensor]:
    """Return a rule in float64 whose targets differ from its critics, a weighted batch, and its normals."""
    made = rule(name, OF, double=True, **config)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    batch = to_double(transitions(OF, ROWS, weight=torch.linspace(0.2, 1.8, ROWS)))
    return made, batch, noise(ROWS).normal(made.numbers).double()


def _target(made: Any, batch: Transitions, standard: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return _n(made.target(batch, made.see_next(batch.next_obs, noise(ROWS)), standard))


def _critic_loss(made: Any, batch: Transitions, target: np.ndarray) -> tuple[float, np.ndarray]:
    loss, errors = made.critic_loss(batch, made.see(batch.obs, noise(ROWS)), torch.from_numpy(target))
    return float(loss.detach()), _n(errors)


def _seen(batch: Transitions) -> Seen:
    return Seen(batch.obs[STATE], batch.obs[STATE])


def test_sac_by_hand() -> None:
    made, batch, standard = _setup("sac", temperature=0.3)
    z, alpha = _n(standard), np.exp(float(made.log_temperature.detach()))
    following, log_prob = _drawn(made.policy, batch.next_obs[STATE], z[:, 2:])
    q = _n(made.target_critics(batch.next_obs[STATE], following))
    y = _n(batch.reward) + _n(batch.discount) * (np.minimum(q[0], q[1]) - alpha * log_prob)
    np.testing.assert_allclose(_target(made, batch, standard), y, rtol=1e-10)
    error = _n(made.critics(batch.obs[STATE], batch.action)) - y
    loss, errors = _critic_loss(made, batch, y)
    assert loss == pytest.approx(0.5 * sum((_n(batch.weight) * e**2).mean() for e in error))
    np.testing.assert_allclose(errors, np.abs(error).mean(0))
    here, log_prob = _drawn(made.policy, batch.obs[STATE], z[:, :2])
    q = _n(made.critics(batch.obs[STATE], here))
    actor, metrics = made.actor_loss(_seen(batch), standard)
    assert float(metrics["actor_loss"]) == pytest.approx((alpha * log_prob - q.min(0)).mean())
    assert float(actor.detach()) == pytest.approx((alpha * log_prob - q.min(0)).mean() - np.log(alpha) * (log_prob - 2.0).mean())
    assert float(metrics["entropy"]) == pytest.approx(-log_prob.mean())


def test_rlpd_by_hand() -> None:
    made, batch, standard = _setup("rlpd")
    z, alpha = _n(standard), np.exp(float(made.log_temperature.detach()))
    assert made.critics.members == 10 and len(made.critics.norms) == 2 and made.target_entropy == -1.0
    chosen = np.argsort(z[0, 4:])[-2:]
    following, log_prob = _drawn(made.policy, batch.next_obs[STATE], z[:, 2:4])
    q = _n(made.target_critics(batch.next_obs[STATE], following))
    y = _n(batch.reward) + _n(batch.discount) * (q[chosen].min(0) - alpha * log_prob)
    np.testing.assert_allclose(_target(made, batch, standard), y, rtol=1e-10)
    assert np.abs(q.min(0) - q[chosen].min(0)).max() > 1e-3  # the least of all ten would be another number
    made.config.backup_entropy = False
    np.testing.assert_allclose(_target(made, batch, standard), _n(batch.reward) + _n(batch.discount) * q[chosen].min(0), rtol=1e-10)
    error = _n(made.critics(batch.obs[STATE], batch.action)) - y
    assert _critic_loss(made, batch, y)[0] == pytest.approx((_n(batch.weight) * error**2).mean())
    here, log_prob = _drawn(made.policy, batch.obs[STATE], z[:, :2])
    q = _n(made.critics(batch.obs[STATE], here))
    assert float(made.actor_loss(_seen(batch), standard)[1]["actor_loss"]) == pytest.approx((alpha * log_prob - q.mean(0)).mean())


def test_the_subset_of_rlpd_is_drawn_evenly() -> None:
    made = rule("rlpd", OF)
    counts = np.zeros(10)
    for step in range(500):
        chosen = made.chosen(noise(2, step=step).normal(made.numbers))
        assert len(set(chosen.tolist())) == 2
        counts[chosen] += 1
    assert counts.min() > 65 and counts.max() < 140  # 100 expected, deviation 9


def test_dsact_target_by_hand() -> None:
    made, batch, standard = _setup("dsact")
    z, alpha = _n(standard), np.exp(float(made.log_temperature.detach()))
    following, log_prob = _drawn(made.target_actor, batch.next_obs[STATE], z[:, 2:4])
    with torch.no_grad():
        gap = made.target_critics(batch.next_obs[STATE], following)[..., 0].diff(dim=0).median()
        made.target_critics.layers[-1].bias[0, 0, 0] += gap + 1e-6  # so that either twin says less somewhere
    said = _n(made.target_critics(batch.next_obs[STATE], following))
    mean, sigma = said[..., 0], _softplus(said[..., 1])
    least, rows = mean.argmin(0), np.arange(ROWS)
    assert 0 < least.sum() < ROWS
    y = _n(batch.reward) + _n(batch.discount) * (mean[least, rows] - alpha * log_prob)
    sample = y + _n(batch.discount) * sigma[least, rows] * np.clip(z[:, 4], -3, 3)
    np.testing.assert_allclose(_target(made, batch, standard), np.stack([y, sample]), rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_dsact_loss_and_its_gradients_by_hand(scale: float) -> None:
    made, batch, _ = _setup("dsact", bound_tau=0.25)
    said = _n(made.critics(batch.obs[STATE], batch.action))
    mean, raw = said[..., 0], said[..., 1]
    sigma = _softplus(raw)
    target = np.stack([mean[0] + scale * np.linspace(-1, 1, ROWS), mean[1] + scale * np.linspace(4, -4, ROWS)])
    made.spread[:] = torch.tensor([[0.5], [3.0]])
    b = 0.75 * np.array([[0.5], [3.0]]) + 0.25 * sigma.mean(1, keepdims=True)
    w = np.clip(b**2 / (sigma**2 + 0.1), 0.1, 10.0) * _n(batch.weight)
    clipped = mean + np.clip(target[1] - mean, -3 * b, 3 * b)
    second = sigma * (sigma**2 - _huber(mean - clipped)) / (sigma + 0.1)
    wanted = (w * (_huber(mean - target[0]) + second)).mean(1).sum()
    leaf = torch.from_numpy(said).requires_grad_()
    made.critics.forward = lambda *_: leaf
    loss, errors = made.critic_loss(batch, _seen(batch), torch.from_numpy(target))
    assert float(loss.detach()) == pytest.approx(wanted)
    np.testing.assert_allclose(_n(made.spread), b)
    np.testing.assert_allclose(_n(errors), np.abs(mean - target[0]).mean(0))
    loss.backward()
    assert leaf.grad is not None
    toward_mean = np.clip(mean - target[0], -50.0, 50.0)
    toward_sigma = (sigma**2 - _huber(mean - clipped)) / (sigma + 0.1) / (1.0 + np.exp(-raw))
    np.testing.assert_allclose(_n(leaf.grad)[..., 0], w * toward_mean / ROWS, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(_n(leaf.grad)[..., 1], w * toward_sigma / ROWS, rtol=1e-9, atol=1e-12)


def test_dsact_spread_begins_with_the_first_mean() -> None:
    made, batch, standard = _setup("dsact")
    sigma = _softplus(_n(made.critics(batch.obs[STATE], batch.action))[..., 1])
    made.critic_loss(batch, _seen(batch), torch.from_numpy(_target(made, batch, standard)))
    np.testing.assert_allclose(_n(made.spread)[:, 0], sigma.mean(1))


def test_mdpo_by_hand() -> None:
    made, batch, standard = _setup("off_policy_mdpo", step=0.5, entropy=0.2)
    z = _n(standard)
    following, log_prob = _drawn(made.policy, batch.next_obs[STATE], z[:, 2:])
    q = _n(made.target_critics(batch.next_obs[STATE], following))
    y = _n(batch.reward) + _n(batch.discount) * (q.min(0) - 0.2 * log_prob)
    np.testing.assert_allclose(_target(made, batch, standard), y, rtol=1e-10)
    here, log_prob = _drawn(made.policy, batch.obs[STATE], z[:, :2])
    (mean, log_std), (old_mean, old_log_std) = (np.split(_n(p.network(batch.obs[STATE])), 2, -1) for p in (made.policy, made.previous))
    kl = (old_log_std - log_std + (np.exp(2 * log_std) + (mean - old_mean) ** 2) / (2 * np.exp(2 * old_log_std)) - 0.5).sum(-1)
    q = _n(made.critics(batch.obs[STATE], here)).min(0)
    assert kl.mean() > 1e-3
    assert float(made.actor_loss(_seen(batch), standard)[0].detach()) == pytest.approx(kl.mean() / 0.5 - (q - 0.2 * log_prob).mean())


def test_td3_smooths_within_the_clip_and_the_limits() -> None:
    made = rule("td3", OF)
    action, z = torch.tensor([[0.0, 0.9], [0.0, -0.2]]), torch.tensor([[1.0, 1.0], [-9.0, 9.0]])
    torch.testing.assert_close(made.smoothed(action, z), torch.tensor([[0.2, 1.0], [-0.5, 0.3]]))


def test_the_squashed_density_is_torchs_and_integrates_to_one() -> None:
    mean, log_std, z = torch.tensor([[0.3, -2.0]]).double(), torch.tensor([[-0.5, 0.4]]).double(), torch.tensor([[1.1, -0.7]]).double()
    law = Gaussian(mean, log_std)
    before = law.draw(z)
    action, log_prob = squashed(before, law.log_prob(before))
    base = torch.distributions.Normal(mean, log_std.exp())
    theirs = torch.distributions.TransformedDistribution(base, [torch.distributions.TanhTransform()]).log_prob(action).sum(-1)
    torch.testing.assert_close(log_prob, theirs)

    def density(a: float) -> float:
        x = torch.atanh(torch.tensor([[a]]).double())
        one = Gaussian(mean[:, :1], log_std[:, :1])
        return float(squashed(x, one.log_prob(x))[1].exp())

    assert quad(density, -1 + 1e-12, 1 - 1e-12)[0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["sac", "rlpd", "dsact"])
@pytest.mark.parametrize("wanted", [-50.0, 50.0])
def test_the_temperature_moves_against_the_entropy(name: str, wanted: float) -> None:
    """Too much entropy lowers the temperature, too little raises it."""
    made = rule(name, OF, target_entropy=wanted)
    begun = float(made.log_temperature.detach())
    for step in range(2):
        made.update([transitions(OF, ROWS)], noise(ROWS, step=step))
    assert np.sign(float(made.log_temperature.detach()) - begun) == np.sign(wanted)


def test_a_temperature_without_a_rate_stays() -> None:
    made = rule("sac", OF, temperature_rate=0.0, temperature=0.2)
    made.update([transitions(OF, ROWS)], noise(ROWS))
    assert float(made.log_temperature.detach().exp()) == pytest.approx(0.2)
