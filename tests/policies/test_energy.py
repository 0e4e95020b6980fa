"""The energy policy: modes, steps that a row takes by itself, the slope by finite differences, unfamiliar observations."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from policies import checkpoint
from policies.noise import Noise, row_keys
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from tests.policies.toy import COIN, COIN_CONFIG, STATE, build, coin_answers, coin_batch, observation, random_batch, train

BATCH = random_batch(STATE, 64)


@pytest.fixture(scope="module")
def coin():
    policy = build("energy", COIN, coin_batch(0), **COIN_CONFIG)
    train(policy, coin_batch, 400)
    return policy


def start_of(policy, rows, seed=0):
    noise = Noise(row_keys(seed, np.arange(rows)))
    condition = policy.condition(observation({k: v[:rows] for k, v in BATCH.items()}), noise)
    return policy.start(condition, noise), condition


# --- what is learnt --------------------------------------------------------------------------------------------------


def test_both_modes_of_the_coin_are_drawn(coin):
    answers = coin_answers(coin)
    for mode in (-1, 1):
        assert ((answers - mode).abs() < 0.25).float().mean() >= 0.4


def test_squared_distance_alone_collapses_to_the_mean():
    policy = build("energy", COIN, coin_batch(0), objective="mse", max_steps=3, **COIN_CONFIG)
    train(policy, lambda step: coin_batch(step, 128), 300)
    assert coin_answers(policy).abs().quantile(0.95) < 0.2


@pytest.mark.parametrize("through_steps", [False, True])
def test_descent_loss_by_hand(through_steps):
    policy = build("energy", STATE, BATCH, objective="mse", max_steps=2, through_steps=through_steps).eval()
    keys = row_keys(0, np.arange(64))
    loss, metrics = policy.loss(BATCH, Noise(keys))
    noise = Noise(keys)
    condition, demo = policy.condition(BATCH, noise), policy.encode(BATCH["action"], BATCH)
    y, errors = noise.normal(16, 4), []
    for _ in range(2):
        y = y.detach().requires_grad_()
        energy = policy.network(y, condition).sum(1)
        (gradient,) = torch.autograd.grad(energy.sum(), y)
        y = y - 0.2 * torch.exp(torch.tanh(energy / 64))[:, None, None] * gradient
        errors.append((y - demo).square().mean())
    assert metrics["chunk_loss"].item() == pytest.approx(sum(errors).item() / 2, rel=1e-5)
    assert loss.item() == pytest.approx((metrics["chunk_loss"] + metrics["observation_loss"]).item(), rel=1e-6)


def test_slope_loss_by_hand():
    policy = build("energy", STATE, BATCH).eval()
    keys = row_keys(0, np.arange(64))
    metrics = policy.loss(BATCH, Noise(keys))[1]
    noise = Noise(keys)
    condition, demo = policy.condition(BATCH, noise), policy.encode(BATCH["action"], BATCH)
    share, z = noise.uniform(1, 1), noise.normal(16, 4)
    y = ((1 - share) * demo + share * z).requires_grad_()
    (gradient,) = torch.autograd.grad(policy.network(y, condition).sum(), y)
    wanted = (gradient - (share / 0.2).clamp(max=1) * (z - demo)).square()
    landing = (share < 0.2) * (y - 0.2 * gradient - demo).square()
    assert metrics["chunk_loss"].item() == pytest.approx((wanted + landing).mean().item(), rel=1e-5)


def test_the_step_size_is_learnt_towards_the_step_that_lands(coin):
    # from far below to the minimum of the landing error: half of it and twice as much land farther from the data
    policy = build("energy", COIN, coin_batch(0), step_size=0.03, **COIN_CONFIG)
    policy.load_state_dict({**coin.state_dict(), "log_step_size": policy.log_step_size.detach()})
    optimizer = torch.optim.Adam([policy.log_step_size], lr=0.05)
    for step in range(160):
        optimizer.zero_grad()
        policy.loss(coin_batch(step), Noise(row_keys(0, step * 256 + np.arange(256))))[0].backward()
        optimizer.step()
    learnt, losses = policy.log_step_size.detach().clone(), []
    for factor in (0.5, 1.0, 2.0):
        policy.log_step_size.data = learnt + math.log(factor)
        losses.append(policy.loss(coin_batch(500, 4096), Noise(row_keys(1, np.arange(4096))))[1]["chunk_loss"].item())
    assert learnt.exp() > 0.1 and losses[1] < losses[0] and losses[1] < losses[2]


# --- the descent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["mlp", "unet", "transformer"])
def test_the_direction_is_the_gradient_of_the_scalar(backbone):
    policy = build("energy", STATE, BATCH, backbone=backbone).eval().double()
    chunk, condition = start_of(policy, 3)
    with torch.no_grad():
        _, gradient = policy.slope(chunk, condition)
        along = torch.randn(chunk.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        high, low = (policy.network(chunk + s * 1e-5 * along, condition).sum(1) for s in (1, -1))
    assert torch.allclose((gradient * along).sum((1, 2)), (high - low) / 2e-5, rtol=1e-6, atol=1e-9)


def test_energy_falls_along_the_trace(coin):
    noise = Noise(row_keys(4, np.arange(500)))
    condition = coin.condition({"observation.state": noise.normal(1, 1)}, noise)
    energies = coin.descend(coin.start(condition, noise), condition).energies.detach()
    assert ((energies.diff(dim=0) <= 1e-6).all(0)).float().mean() > 0.95
    assert (energies[-1] < energies[0]).float().mean() > 0.95


def test_a_row_takes_its_own_steps_whatever_its_batch(coin):
    policy = build("energy", COIN, coin_batch(0), **COIN_CONFIG).eval()
    policy.load_state_dict(coin.state_dict())
    policy.double()
    obs, keys = Noise(row_keys(6, np.arange(64))).normal(1, 1), row_keys(7, np.arange(64))
    whole = policy.act({"observation.state": obs}, {}, Noise(keys))[0]
    assert whole.actions.dtype == torch.float64
    assert len(whole.info["network_calls"].unique()) >= 4  # rows do differ
    for row in range(64):
        alone = policy.act({"observation.state": obs[row : row + 1]}, {}, Noise(keys[row : row + 1]))[0]
        assert alone.info["network_calls"][0] == whole.info["network_calls"][row]
        assert (alone.actions[0] - whole.actions[row]).abs().max() < 1e-9
        assert (alone.info["energy"][0] - whole.info["energy"][row]).abs() < 1e-9


def test_steps_end_at_a_small_slope_or_at_the_limit(coin):
    noise = Noise(row_keys(4, np.arange(200)))
    condition = coin.condition({"observation.state": noise.normal(1, 1)}, noise)
    descent = coin.descend(coin.start(condition, noise), condition)
    slopes = coin.slope(descent.chunk, condition)[1].square().mean((1, 2)).sqrt()
    done = slopes <= coin.config.min_slope
    assert torch.equal(~done, descent.steps == coin.config.max_steps) or (descent.steps[~done] == coin.config.max_steps).all()
    assert done.float().mean() > 0.9 and descent.steps.max() <= coin.config.max_steps


def test_steps_grow_with_ambiguity():
    # the observation says how widely the demonstrations differ
    def batch_of(step, rows=256):
        noise = Noise(row_keys(5, step * rows + np.arange(rows)))
        spread = noise.uniform(1, 1)
        action = (0.5 * spread * noise.normal(1, 1)).expand(rows, 4, 1).contiguous()
        return {"observation.state": spread, "action": action, "action_is_pad": torch.zeros(rows, 4, dtype=torch.bool)}

    config = {**COIN_CONFIG, "horizon": 4, "n_action_steps": 4, "state_normalization": "identity", "action_normalization": "identity"}
    policy = build("energy", COIN, batch_of(0), max_steps=40, min_slope=0.01, **config)
    train(policy, batch_of, 400)
    noise = Noise(row_keys(9, np.arange(512)))
    spread = noise.uniform(1, 1)
    calls = policy.act({"observation.state": spread}, {}, noise)[0].info["network_calls"]
    assert stats.spearmanr(spread.flatten(), calls).statistic > 0.5


# --- unfamiliar observations -----------------------------------------------------------------------------------------

REACH = Spec(
    ObservationSpec({"observation.state": Field((3,), unit="m"), "observation.environment_state": Field((6,), unit="m")}),
    ActionSpec({"position": Field((3,), unit="m", kind="position")}),
)


def reach(seed, rows, outside=False):
    """A hand on its way to an object and on to a goal, both anywhere in [0, 1]^3 m; outside: the object 1-2 deviations beyond, along x."""
    noise = Noise(row_keys(seed, np.arange(rows)))
    places, phase = noise.uniform(1, 6), noise.uniform(1, 1)
    if outside:
        places = torch.cat([1 + 12**-0.5 * (1 + noise.uniform(1, 1)), places[..., 1:]], -1)
    thing, goal = places[..., :3], places[..., 3:]
    hand = torch.where(phase < 0.5, thing * 2 * phase, thing + (goal - thing) * (2 * phase - 1))
    action = torch.where(phase < 0.5, thing, goal)
    return {"observation.state": hand, "observation.environment_state": places, "action": action, "action_is_pad": torch.zeros(rows, 1, dtype=torch.bool)}


def auroc(seen, unseen):
    """Share of pairs in which the unseen one scores higher."""
    return (unseen[:, None] > seen[None]).float().mean().item()


def test_unfamiliar_observations_are_told_apart_better_than_by_the_nearest_neighbour():
    data = reach(0, 500)

    def batch_of(step):
        rows = Noise(row_keys(7, step * 128 + np.arange(128))).integers(500)
        return {name: value[rows] for name, value in data.items()}

    policy = build("energy", REACH, data, state_normalization="mean_std", **COIN_CONFIG)
    train(policy, batch_of, 400)
    noise = Noise(row_keys(3, np.arange(400)))
    known = policy.condition(data, noise).flatten(1)

    def nearest(batch):
        return torch.cdist(policy.condition(batch, noise).flatten(1), known).amin(1)

    def unfamiliarity(batch):
        return policy.act(observation(batch), {}, noise)[0].info["unfamiliarity"]

    seen = reach(1, 400)
    dropped = {**seen, "observation.environment_state": torch.zeros_like(seen["observation.environment_state"])}
    for unseen in (reach(2, 400, outside=True), dropped):
        ours, theirs = auroc(unfamiliarity(seen), unfamiliarity(unseen)), auroc(nearest(seen), nearest(unseen))
        assert ours >= 0.9 and ours > theirs
    # a hand that reads 0 is at a place where hands have been, only not with these objects: hard, and still better
    dropped = {**seen, "observation.state": torch.zeros_like(seen["observation.state"])}
    assert auroc(unfamiliarity(seen), unfamiliarity(dropped)) > auroc(nearest(seen), nearest(dropped))


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_the_step_size_is_saved_trained_and_restored(coin, tmp_path):
    assert any(p is coin.log_step_size for group in coin.parameter_groups(0.1) for p in group["params"])
    with torch.no_grad():
        coin.log_step_size.add_(0.01)
    again = checkpoint.load(checkpoint.save(tmp_path / "c", coin, recipe={}, extra={}))
    assert torch.equal(again.log_step_size, coin.log_step_size)
    assert torch.equal(coin_answers(again, 50), coin_answers(coin, 50))


def test_the_recorded_descent_is_the_same(coin):
    from torch.fx.experimental.proxy_tensor import make_fx

    noise = Noise(row_keys(4, np.arange(8)))
    condition = coin.condition({"observation.state": noise.normal(1, 1)}, noise)
    chunk = coin.start(condition, noise)
    with torch.no_grad():
        graph = make_fx(lambda y, o: coin.descend(y, o)[:2], tracing_mode="fake", _allow_non_fake_inputs=True)(chunk, condition)
        other = chunk.flip(0)  # the graph is not bound to the values that it was recorded with
        recorded, steps = graph(other, condition)
        descent = coin.descend(other, condition)
    assert torch.allclose(recorded, descent.chunk, atol=1e-6) and torch.equal(steps, descent.steps)
