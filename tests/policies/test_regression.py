"""The regression baseline: the mean, and nothing but the mean."""

import numpy as np
import pytest

from policies.noise import Noise, row_keys
from tests.policies.toy import COIN, COIN_CONFIG, STATE, build, coin_answers, coin_batch, observation, random_batch, train


def test_of_two_modes_it_says_the_mean():
    policy = build("regression", COIN, coin_batch(0), **COIN_CONFIG)
    train(policy, coin_batch, 700)
    assert coin_answers(policy).abs().max() < 0.2


def test_one_call_whatever_the_noise():
    batch = random_batch(STATE, 3)
    policy = build("regression", STATE, batch).eval()
    noise = Noise(row_keys(0, np.arange(3)))
    plan, _ = policy.act(observation(batch), {}, noise)
    other, _ = policy.act(observation(batch), {}, Noise(row_keys(1, np.arange(3))))
    assert plan.info["network_calls"].tolist() == [1.0] * 3 and noise.draw == 0
    assert (plan.actions == other.actions).all()


def test_loss_by_hand():
    batch = random_batch(STATE, 4)
    policy = build("regression", STATE, batch, n_obs_steps=2, n_action_steps=15).eval()
    noise = Noise(row_keys(0, np.arange(4)))
    loss, _ = policy.loss(batch, noise)
    plan, _ = policy.act(observation(batch), {}, noise)  # steps 1 to 15 of the chunk
    scaled = [policy.normalizer.normalize("action", v) for v in (plan.actions, batch["action"])]
    chunk, _ = policy.generate(policy.condition(batch, noise), noise)
    errors = (chunk - scaled[1]).square()
    assert loss.item() == pytest.approx(errors.mean().item(), rel=1e-5)
    assert errors[:, 1:].mean().item() == pytest.approx((scaled[0] - scaled[1][:, 1:]).square().mean().item(), rel=1e-4)
