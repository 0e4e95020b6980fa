"""The consistency policy: its boundary, its levels, its losses by hand, both modes of a coin."""

import math

import numpy as np
import pydantic
import pytest
import torch

from policies.consistency import ConsistencyConfig, ConsistencyPath, Renoise, ladder
from policies.generative.paths import LinearPath
from policies.noise import Noise, row_keys
from policies.spec import InputError
from tests.oracles.policy import oracle_policy
from tests.policies.few_step_tasks import UNEVEN
from tests.policies.toy import COIN, COIN_CONFIG, STATE, build, coin_answers, coin_batch, observation, random_batch, train

BATCH = random_batch(STATE, 5)
KEYS = row_keys(0, np.arange(5))


def test_f_is_the_identity_at_the_smallest_noise():
    policy = build("consistency", STATE, BATCH).eval()
    x, condition = Noise(KEYS).normal(16, 4), policy.condition(BATCH, Noise(KEYS))
    assert torch.equal(policy.jump(x, torch.full((5,), 0.002, dtype=torch.float64), condition), x)
    changes = [(policy.jump(x, torch.full((5,), s, dtype=torch.float64), condition) - x).abs().max().item() for s in (0.003, 0.03, 0.3)]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_the_network_sees_numbers_of_unit_size_at_every_level():
    policy = build("consistency", STATE, BATCH, sigma_data=0.7).eval()
    seen = []
    policy.network.register_forward_pre_hook(lambda module, args: seen.append(args[0].std().item()))
    data = 0.7 * Noise(row_keys(1, np.arange(5))).normal(16, 4)
    for sigma in (0.002, 0.1, 1.0, 20.0):
        x = data + sigma * Noise(row_keys(2, np.arange(5))).normal(16, 4)
        policy.jump(x, torch.full((5,), sigma, dtype=torch.float64), policy.condition(BATCH, Noise(KEYS)))
    assert all(0.85 < size < 1.15 for size in seen), seen


def test_levels_of_acting():
    path = ConsistencyPath(0.002, 20.0, sigma_data=0.5)
    assert path.step_list(1) == (20.0, 0.0)
    assert path.step_list(2) == pytest.approx((20.0, 0.25, 0.0))
    assert path.step_list(4) == pytest.approx((20.0, 0.375, 0.25, 0.125, 0.0))
    assert path.step_list(2, start=0.1) == pytest.approx((0.1, 0.05, 0.0))


def test_levels_multiply_as_training_goes_on():
    policy = build("consistency", STATE, BATCH, levels=160)
    assert len(policy._ladder.levels) == 160  # a trainer without progress gets the last
    counts = []
    for progress in (0.0, 0.19, 0.21, 0.45, 0.65, 0.85, 1.0, 0.0):
        policy.begin_update(progress)
        counts.append(len(policy._ladder.levels))
    assert counts == [10, 10, 20, 40, 80, 160, 160, 10]
    assert not any("ladder" in key for key in policy.state_dict())


def test_the_ladder_is_that_of_the_paper():
    levels, cumulative, weights = ladder(ConsistencyPath(0.002, 20.0), 40)
    assert levels[0].item() == pytest.approx(0.002) and levels[-1].item() == pytest.approx(20.0)
    roots = levels ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(39))  # Karras et al., eq. 5
    drawn = np.random.default_rng(0).normal(-1.1, 2.0, 400_000)
    drawn = drawn[(drawn > math.log(0.002)) & (drawn < math.log(20.0))]
    share = np.histogram(drawn, levels.log().numpy())[0] / len(drawn)
    assert np.abs(cumulative.diff().numpy() - share).max() < 2e-3
    assert torch.allclose(weights / weights[0], levels.diff()[0] / levels.diff()) and (weights * cumulative.diff()).sum().item() == pytest.approx(1.0)


def test_pairs_of_levels_are_drawn_in_their_shares():
    policy = build("consistency", STATE, BATCH, levels=10)
    low, high, _ = policy.neighbours(Noise(row_keys(0, np.arange(50_000))))
    levels, cumulative, _ = policy._ladder
    assert (high > low).all()
    for i in range(9):
        assert (low == levels[i]).double().mean().item() == pytest.approx(cumulative.diff()[i].item(), abs=0.01)
        assert set(high[low == levels[i]].tolist()) <= {levels[i + 1].item()}


def test_loss_from_scratch_by_hand():
    policy = build("consistency", STATE, BATCH, levels=10).eval()
    noise = Noise(KEYS)
    low, high, weight = policy.neighbours(noise)
    z, condition = noise.normal(16, 4), policy.condition(BATCH, noise)
    data = policy.normalizer.normalize("action", BATCH["action"])
    here, there = (policy.jump(data + s[:, None, None].float() * z, s, condition) for s in (high, low))
    size = (here - there).square().mean((1, 2))
    expected = (weight * (size + 0.00054**2).sqrt()).mean()
    assert policy.loss(BATCH, Noise(KEYS))[0].item() == pytest.approx(expected.item(), rel=1e-4)


def test_loss_of_a_student_by_hand():
    teacher = oracle_policy("flow", UNEVEN)
    rows, keys = 6, row_keys(0, np.arange(6))
    state, action = Noise(keys).normal(1, 1), UNEVEN.draw(6)[:, None].float()
    batch = {"observation.state": state, "action": action, "action_is_pad": torch.zeros(rows, 1, dtype=torch.bool)}
    same = {"action_normalization": "identity", "state_normalization": "identity", **COIN_CONFIG}
    policy = build("consistency", COIN, batch, levels=10, solver="euler", **same).eval()
    policy.normalizer = teacher.normalizer
    policy.follow(teacher)
    noise = Noise(keys)
    low, high, weight = policy.neighbours(noise)
    x = action + high[:, None, None].float() * noise.normal(1, 1)
    t = 1 / (1 + high)[:, None]  # of the straight path, at the same ratio of noise to signal
    data = UNEVEN.estimate(LinearPath(), t * x[:, 0].double(), t[:, 0]).data[:, None]
    nearer = data + (low / high)[:, None, None] * (x - data)  # Euler on the Karras path
    here, there = policy.jump(x, high, state), policy.jump(nearer.float(), low, state)
    expected = (weight * ((here - there).square().mean((1, 2)) + 0.00054**2).sqrt()).mean()
    assert policy.loss(batch, Noise(keys))[0].item() == pytest.approx(expected.item(), rel=1e-3)


def test_both_modes_of_the_coin_are_drawn():
    policy = build("consistency", COIN, coin_batch(0), sigma_data=1.0, **COIN_CONFIG)
    train(policy, coin_batch, 500)
    for calls in (1, 2, 4):
        policy.config.steps = calls
        answers = coin_answers(policy)
        assert (answers.abs() - 1).abs().mean() < 0.2, calls
        assert 0.35 < (answers > 0).float().mean() < 0.65, calls


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_calls_draws_and_renoising(steps):
    policy = build("consistency", STATE, BATCH, steps=steps).eval()
    noise = Noise(KEYS)
    plan, _ = policy.act(observation(BATCH), {}, noise)
    assert plan.info["network_calls"].tolist() == [steps] * 5 and noise.draw == 2
    fresh = Noise(KEYS)
    condition = policy.condition(BATCH, fresh)
    x, draws = 20.0 * fresh.normal(16, 4), fresh.normal(steps, 16, 4)
    for i, sigma in enumerate((20.0, *(0.5 * (steps - k) / steps for k in range(1, steps)))):
        if i:
            x = x + math.sqrt(sigma**2 - 0.002**2) * draws[:, i - 1]
        x = policy.jump(x, torch.full((5,), sigma, dtype=torch.float64), condition)
    assert torch.allclose(policy.walk(condition, Noise(KEYS))[0], x, atol=1e-5)


def test_the_sample_can_be_differentiated():
    policy = build("consistency", STATE, BATCH, steps=3).eval()
    noise = Noise(KEYS)
    chunk, _ = policy.generate(policy.condition(BATCH, noise), noise)
    chunk.sum().backward()
    assert all(p.grad is not None for p in policy.network.parameters()) and policy.network.first.weight.grad.abs().max() > 0


def test_bad_configs_are_refused():
    for options, words in (
        ({"sigma_max": 0.3}, "expected sigma_min < sigma_data < sigma_max, found 0.002, 0.5 and 0.3"),
        ({"levels": 5}, "greater than or equal to 10"),
        ({"solver": "ddim"}, "'euler' or 'heun'"),
    ):
        with pytest.raises(pydantic.ValidationError) as error:
            ConsistencyConfig(**options)
        assert words in str(error.value)
    with pytest.raises(InputError, match="one level for all rows"):
        Renoise().step(ConsistencyPath(), torch.zeros(2, 1), 1.0, torch.ones(2), policy_estimate(), torch.zeros(2, 1))


def policy_estimate():
    return ConsistencyPath().estimate("x0", torch.zeros(2, 1), torch.ones(2, 1), 1.0)
