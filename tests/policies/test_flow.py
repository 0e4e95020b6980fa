"""The flow policy: its times, its loss by hand, and both modes of a task with two."""

import numpy as np
import pytest
from scipy import stats

from policies.noise import Noise, row_keys
from tests.policies.toy import COIN, COIN_CONFIG, STATE, build, coin_answers, coin_batch, observation, random_batch, train


@pytest.mark.parametrize("time", ["uniform", "beta"])
def test_both_modes_of_the_coin_are_drawn(time):
    policy = build("flow", COIN, coin_batch(0), time=time, **COIN_CONFIG)
    train(policy, coin_batch, 700)
    for solver, steps in (("euler", 10), ("heun", 5)):
        policy.config.solver, policy.config.steps = solver, steps
        answers = coin_answers(policy)
        assert (answers.abs() - 1).abs().mean() < 0.15, solver
        assert 0.35 < (answers > 0).float().mean() < 0.65, solver


def test_loss_by_hand():
    batch = random_batch(STATE, 5)
    policy = build("flow", STATE, batch).eval()
    keys = row_keys(0, np.arange(5))
    loss, _ = policy.loss(batch, Noise(keys))
    noise = Noise(keys)
    t, z = noise.uniform(), noise.normal(16, 4)
    data = policy.normalizer.normalize("action", batch["action"])
    x = t[:, None, None] * data + (1 - t[:, None, None]) * z
    found = policy.network(x, 100 * t, policy.condition(batch, noise))
    assert loss.item() == pytest.approx((found - (data - z)).square().mean().item(), rel=1e-5)


def test_training_times_have_their_distribution():
    batch = random_batch(STATE, 2)
    noise = Noise(row_keys(0, np.arange(20_000)))
    uniform = build("flow", STATE, batch).times(noise).numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    beta = build("flow", STATE, batch, time="beta").times(noise).numpy()
    assert stats.kstest(1 - beta / 0.999, stats.beta(1.5, 1).cdf).pvalue > 1e-3
    assert beta.min() >= 0 and beta.max() < 0.999 + 1e-6 and np.mean(beta) == pytest.approx(0.999 * 0.4, abs=0.01)  # more noise than data


@pytest.mark.parametrize(("solver", "steps", "calls"), [("euler", 1, 1), ("euler", 7, 7), ("heun", 1, 1), ("heun", 4, 7)])
def test_network_calls(solver, steps, calls):
    batch = random_batch(STATE, 3)
    policy = build("flow", STATE, batch, solver=solver, steps=steps).eval()
    plan, _ = policy.act(observation(batch), {}, Noise(row_keys(0, np.arange(3))))
    assert plan.info["network_calls"].tolist() == [calls] * 3
