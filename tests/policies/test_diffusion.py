"""The diffusion policy: its published choices, its loss by hand, and both modes of a task with two."""

import numpy as np
import pydantic
import pytest
import torch

from policies.diffusion import DiffusionConfig
from policies.generative.paths import DdpmPath
from policies.noise import Noise, row_keys
from tests.policies.toy import COIN, COIN_CONFIG, STATE, build, coin_answers, coin_batch, observation, random_batch, train


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_both_modes_of_the_coin_are_drawn(prediction):
    policy = build("diffusion", COIN, coin_batch(0), prediction=prediction, **COIN_CONFIG)
    train(policy, coin_batch, 700)
    for sampler, steps in (("ddim", 10), ("ddim", 100), ("ddpm", 100), ("ddpm", 10)):
        policy.config.sampler, policy.config.steps = sampler, steps
        answers = coin_answers(policy)
        assert (answers.abs() - 1).abs().mean() < 0.15, sampler
        assert 0.35 < (answers > 0).float().mean() < 0.65, sampler


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_loss_by_hand(prediction):
    batch = random_batch(STATE, 5)
    policy = build("diffusion", STATE, batch, prediction=prediction).eval()
    keys = row_keys(0, np.arange(5))
    loss, _ = policy.loss(batch, Noise(keys))
    noise = Noise(keys)
    level, z = noise.integers(100), noise.normal(16, 4)
    bar = torch.from_numpy(DdpmPath(100).alpha_bar)[level].float()[:, None, None]
    data = policy.normalizer.normalize("action", batch["action"])
    x = bar.sqrt() * data + (1 - bar).sqrt() * z
    target = {"epsilon": z, "x0": data, "v": bar.sqrt() * z - (1 - bar).sqrt() * data}[prediction]
    found = policy.network(x, level.float(), policy.condition(batch, noise))
    assert loss.item() == pytest.approx((found - target).square().mean().item(), rel=1e-5)


def test_clipping_keeps_actions_inside_the_data():
    batch = random_batch(STATE, 16)
    inside = [build("diffusion", STATE, batch, clip=clip, steps=3).eval() for clip in (True, False)]
    low, high = batch["action"].flatten(0, 1).amin(0), batch["action"].flatten(0, 1).amax(0)
    found = []
    for policy in inside:  # untrained: its estimates of the data are far outside
        actions = policy.act(observation(batch), {}, Noise(row_keys(0, np.arange(16))))[0].actions
        found.append(bool(((actions >= low - 1e-5) & (actions <= high + 1e-5)).all()))
    assert found == [True, False]


def test_ddim_draws_noise_once_and_ddpm_in_every_step():
    batch = random_batch(STATE, 4)
    for sampler, draws in (("ddim", 1), ("ddpm", 2)):  # the second is one draw of all steps
        policy, noise = build("diffusion", STATE, batch, sampler=sampler).eval(), Noise(row_keys(0, np.arange(4)))
        policy.act(observation(batch), {}, noise)
        assert noise.draw == draws


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 101}, "steps 101: expected at most train_steps, 100"),
        ({"action_normalization": "mean_std"}, "clip keeps actions in [-1, 1], but mean_std leaves them larger; use min_max or clip: false"),
        ({"prediction": "velocity"}, "'epsilon', 'x0' or 'v'"),
        ({"sampler": "euler"}, "'ddpm' or 'ddim'"),
    ],
)
def test_configs_that_cannot_be_are_refused(options, words):
    with pytest.raises(pydantic.ValidationError) as error:
        DiffusionConfig(**options)
    assert words in str(error.value)
    assert DiffusionConfig(action_normalization="mean_std", clip=False).clip is False
