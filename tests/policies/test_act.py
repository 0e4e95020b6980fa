"""ACT: its loss by hand, its divergence against torch, medians, and what it does where demonstrations disagree."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies.act import divergence
from policies.noise import Noise, row_keys
from policies.spec import ObservationSpec, Spec
from tests.policies.toy import CAMERA, COIN, COIN_CONFIG, IMAGE, STATE, build, coin_answers, coin_batch, observation, random_batch, train

TINY = {"detr": {"width": 32, "feed_forward": 64, "encoder_layers": 1, "decoder_layers": 1}, "style_dim": 4}
BATCH = random_batch(STATE, 8)
KEYS = row_keys(0, np.arange(8))


def act(policy, obs, keys=KEYS):
    return policy.act(obs, policy.initial_state(len(keys)), Noise(keys))[0]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 3)), min_size=1, max_size=5))
def test_the_divergence_is_torchs(pairs):
    mean, log_variance = (torch.tensor([v], dtype=torch.float64) for v in zip(*pairs, strict=True))
    style, prior = (torch.distributions.Normal(m, s) for m, s in ((mean, (0.5 * log_variance).exp()), (torch.zeros_like(mean), torch.ones_like(mean))))
    expected = torch.distributions.kl_divergence(style, prior).sum(-1)
    assert divergence(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)


def test_the_divergence_by_hand():
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, np.log(4.0)]])
    assert divergence(mean, log_variance).item() == pytest.approx(0.5 + 0.5 * (4 - 1 - np.log(4)), rel=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_the_loss_is_the_absolute_error_and_ten_times_the_divergence(masked):
    policy = build("act", STATE, BATCH, mask_padding=masked, **TINY).eval()
    loss, metrics = policy.loss(BATCH, Noise(KEYS))
    condition, chunk = policy.condition(BATCH, Noise(KEYS)), policy.encode(BATCH["action"], BATCH)
    mean, log_variance = policy.style_encoder(chunk, condition, ~BATCH["action_is_pad"] if masked else None)
    style = mean + (0.5 * log_variance).exp() * Noise(KEYS).normal(4)
    errors = (policy.predict(condition, style) - chunk).abs()
    l1 = errors[:, :-3].mean() if masked else errors.mean()  # the toy batch pads the last three steps
    kl = divergence(mean, log_variance).mean()
    assert metrics["l1"].item() == pytest.approx(l1.item(), rel=1e-5) and metrics["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert loss.item() == pytest.approx(l1.item() + 10.0 * kl.item(), rel=1e-5) and kl > 0
    if not masked:
        assert torch.allclose(policy.errors(chunk, condition, Noise(KEYS)), errors, atol=1e-6)


def test_published_numbers():
    config = type(build("act", STATE, BATCH, **TINY)).Config()
    assert (config.kl_weight, config.style_dim, config.mask_padding, config.backbone) == (10.0, 32, True, "detr")


@pytest.mark.parametrize("spec", [STATE, IMAGE, Spec(ObservationSpec({CAMERA: IMAGE.observation.fields[CAMERA]}), IMAGE.action)])
def test_plans_from_states_and_images(spec):
    batch = random_batch(spec, 8)
    policy = build("act", spec, batch, **TINY)
    loss, _ = policy.loss(batch, Noise(KEYS))
    loss.backward()
    assert {n for n, p in policy.named_parameters() if p.grad is None} == set()
    plan = act(policy.eval(), observation(batch))
    assert plan.actions.shape == (8, 8, 4) and plan.info["network_calls"].tolist() == [1.0] * 8
    for name in spec.observation.fields:
        changed = {**observation(batch), name: batch[name].flip(0)}
        assert (act(policy, changed).actions - plan.actions).abs().max() > 1e-6


def test_acting_needs_no_noise_and_no_style_encoder():
    policy = build("act", STATE, BATCH, **TINY).eval()
    plan = act(policy, observation(BATCH))
    assert torch.equal(plan.actions, act(policy, observation(BATCH), row_keys(7, np.arange(8))).actions)
    for p in policy.style_encoder.parameters():
        p.data.fill_(float("nan"))
    assert torch.equal(plan.actions, act(policy, observation(BATCH)).actions)


def test_padded_steps_do_not_reach_the_style():
    policy = build("act", STATE, BATCH, **TINY).eval()
    other = {**BATCH, "action": torch.where(BATCH["action_is_pad"][..., None], BATCH["action"] + 1.0, BATCH["action"])}
    assert policy.loss(BATCH, Noise(KEYS))[0].item() == pytest.approx(policy.loss(other, Noise(KEYS))[0].item(), rel=1e-6)


def test_queries_are_answered_without_an_order():
    # every step of the chunk sees the same memory: exchanging two queries exchanges two answers
    policy = build("act", STATE, BATCH, n_action_steps=15, **TINY).eval()
    before = act(policy, observation(BATCH)).actions
    with torch.no_grad():
        policy.network.query_position[[3, 9]] = policy.network.query_position[[9, 3]]
    after = act(policy, observation(BATCH)).actions
    assert torch.allclose(after[:, [2, 8]], before[:, [8, 2]], atol=1e-5) and (before[:, 2] - before[:, 8]).abs().max() > 1e-4


@pytest.mark.parametrize("backbone", ["detr", "mlp"])
def test_it_learns_a_ramp(backbone):
    def batch_of(step: int, rows: int = 32):
        steps = Noise(row_keys(3, step * rows + np.arange(rows))).uniform(1) + 0.05 * torch.arange(-1, 15)
        batch = {n: v[:1].expand(rows, *v.shape[1:]).clone() for n, v in random_batch(STATE, 1).items()}
        batch["observation.state"] = steps[:, :2, None].expand(-1, -1, 3).contiguous()
        batch["action"] = steps[..., None].expand(-1, -1, 4).contiguous() + 0.5
        return {**batch, "action_is_pad": torch.zeros(rows, 16, dtype=torch.bool)}

    policy = build("act", STATE, batch_of(0, 4096), backbone=backbone, **{**TINY, "detr": {**TINY["detr"], "dropout": 0.0}})
    losses = train(policy, batch_of, 150, lr=4e-3)
    test = batch_of(1000)
    actions = act(policy, observation(test), row_keys(0, np.arange(32))).actions
    assert (actions - test["action"][:, 1:9]).abs().mean() < 0.03 and losses[-1] < 0.1 * losses[0]


def _coin(step: int, share: float, rows: int = 128):
    """+1 with probability ``share``, else -1, whatever is observed."""
    batch = coin_batch(step, rows)
    up = Noise(row_keys(6, step * rows + np.arange(rows))).uniform(1, 1) < share
    return {**batch, "action": torch.where(up, 1.0, -1.0)}


def test_of_two_ways_it_takes_the_more_frequent_one():
    # least absolute error: any constant c in [-1, 1] costs 0.75 |1 - c| + 0.25 |1 + c| = 1 - c / 2, least at c = +1
    policy = build("act", COIN, _coin(0, 0.75, 4096), **{**COIN_CONFIG, **TINY})
    train(policy, lambda step: _coin(step, 0.75), 80, lr=4e-3)
    answers = coin_answers(policy, 200)
    assert (answers - 1.0).abs().max() < 0.15
    _, metrics = policy.loss(_coin(999, 0.75, 4096), Noise(row_keys(1, np.arange(4096))))
    assert metrics["kl"] < 0.05 and metrics["l1"].item() == pytest.approx(0.5, abs=0.06)  # the style is not used


def test_of_two_equal_ways_it_takes_none():
    # every constant in [-1, 1] is as good: it does not stay with the modes, as a sampler would
    policy = build("act", COIN, coin_batch(0, 4096), **{**COIN_CONFIG, **TINY})
    train(policy, coin_batch, 80, lr=4e-3)
    answers = coin_answers(policy, 200)
    assert answers.std() < 0.5 and not ((answers > 0.5).any() and (answers < -0.5).any())
