"""Schedules and the moving average, against closed forms, hand-computed numbers and diffusers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robopolicy.recipe import EmaConfig
from robopolicy.training.ema import Ema
from robopolicy.training.schedule import ema_decay, learning_rate_factor, step_seed


def test_decay_is_the_published_schedule():
    config = EmaConfig()
    for step in [*range(1, 2000), 10_000, 100_000, 10_000_000]:
        t = step - 1
        closed_form = min(max(-math.expm1(-0.75 * math.log1p(t)), 0.0), 0.9999)
        assert abs(ema_decay(step, config) - closed_form) <= 1e-12
    assert ema_decay(1, config) == 0.0
    assert ema_decay(2, config) == pytest.approx(1 - 2**-0.75, abs=1e-15)
    assert ema_decay(10_000, config) == pytest.approx(0.999, abs=1e-9)
    assert ema_decay(10**9, config) == 0.9999
    assert ema_decay(500, EmaConfig(enabled=False)) == 0.0


def test_decay_and_average_agree_with_diffusers():
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    model, config = torch.nn.Linear(5, 3), EmaConfig(power=0.66, inv_gamma=2.0, max_decay=0.9)
    theirs = EMAModel(model.parameters(), decay=0.9, use_ema_warmup=True, inv_gamma=2.0, power=0.66)
    ours = Ema(model, config)
    for step in range(1, 60):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        theirs.step(model.parameters())
        ours.update(step)
        assert ema_decay(step, config) == pytest.approx(theirs.get_decay(step), abs=1e-12)
        for mine, other in zip(ours.policy.parameters(), theirs.shadow_params, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(100.0)
    ema = Ema(model, EmaConfig(power=1.0))  # decays 0, 1/2, 2/3
    for step, (value, average) in enumerate([(6.0, 6.0), (12.0, 9.0), (3.0, 7.0)], start=1):
        model.weight.data.fill_(value)
        ema.update(step)
        assert ema.policy.weight.item() == pytest.approx(average, abs=1e-5)
    assert model.weight.item() == 3.0, "the weights themselves were changed"


def test_disabled_average_is_the_weights():
    model = torch.nn.Linear(2, 2)
    ema = Ema(model, EmaConfig(enabled=False))
    for step in (1, 2, 300):
        with torch.no_grad():
            model.weight.add_(1.0)
        ema.update(step)
        assert torch.equal(ema.policy.weight, model.weight)


def test_buffers_are_copied_and_the_average_needs_no_gradient():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    ema = Ema(model, EmaConfig())
    model(torch.randn(8, 2))
    ema.update(5)
    assert torch.equal(ema.policy[1].running_mean, model[1].running_mean)
    assert ema.policy[1].num_batches_tracked == 1
    assert not ema.policy.training and model.training
    assert not any(p.requires_grad for p in ema.policy.parameters())


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_decay_never_falls(a, b):
    low, high = sorted((a, b))
    assert 0.0 <= ema_decay(low, EmaConfig()) <= ema_decay(high, EmaConfig()) <= 0.9999


# Learning rate --------------------------------------------------------------------------------------------------------


def test_learning_rate_agrees_with_diffusers():
    from diffusers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler("cosine", optimizer, num_warmup_steps=7, num_training_steps=50)
    for step in range(50):
        assert learning_rate_factor(step, 7, 50) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_learning_rate_by_hand():
    assert [learning_rate_factor(s, 4, 8) for s in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert learning_rate_factor(6, 4, 8) == pytest.approx(0.5)
    assert learning_rate_factor(8, 4, 8) == 0.0
    assert learning_rate_factor(0, 0, 10) == 1.0
    assert learning_rate_factor(3, 10, 5) == pytest.approx(0.3), "a warm-up longer than the run just warms up"


@given(st.integers(0, 2000), st.integers(0, 500), st.integers(1, 1000))
def test_learning_rate_stays_between_zero_and_one(step, warmup, total):
    assert 0.0 <= learning_rate_factor(step, warmup, total) <= 1.0


def test_step_seeds_differ_and_repeat():
    seeds = {step_seed(seed, step, rank) for seed in (0, 1, -1, 2**40) for step in range(50) for rank in (0, 1)}
    assert len(seeds) == 400 and all(0 <= s < 2**63 for s in seeds)
    assert step_seed(3, 7, 1) == step_seed(3, 7, 1)
