"""Real-time chunking: guidance against hand-written formulas and finite differences; catching with plans that come late."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Execution
from policies.generative.paths import DdpmPath, Estimate, KarrasPath, LinearPath
from policies.generative.samplers import Euler, sample
from policies.noise import Noise, row_keys
from policies.realtime.overlap import Overlap
from policies.realtime.rtc import Rtc, RtcConfig, guided, prefix_weights, strength
from policies.spec import InputError
from robopolicy.bench import catch
from robopolicy.bench.catch import play
from tests.policies import toy
from tests.policies.realtime.catching import exact

BATCH = toy.random_batch(toy.STATE, 6)
OBS = toy.observation(BATCH)
SEEDS = np.arange(120)


def keys(rows, call=0):
    return Noise(row_keys(3, np.arange(rows), call))


def network_policy(kind, **config):
    """A policy with random weights in float32; what it plans depends on everything that it is given."""
    policy = toy.build(kind, toy.STATE, BATCH, **config).eval()
    for p in policy.parameters():
        torch.nn.init.normal_(p, std=0.2) if p.ndim > 1 else None
    return policy


def curved(x, t):
    """A model that is neither linear nor the same in every row and column."""
    data = torch.tanh(x.roll(1, 1) + 0.3 * x * x.mean((1, 2), keepdim=True)) + 0.1 * x
    return Estimate(data, torch.zeros_like(x))


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# the guidance


@pytest.mark.parametrize("t", [0.0, 0.1, 0.35, 0.5, 0.8, 0.95])
def test_velocity_changes_as_in_the_paper(t):
    path, beta, x, y, w = LinearPath(), 5.0, random(3, 6, 2), random(3, 6, 2, seed=1), torch.rand(3, 6, dtype=torch.float64)

    def model(x, t):
        return Estimate(x + (1 - t) * torch.sin(x.cumsum(1)), x - t * torch.sin(x.cumsum(1)))

    steered = guided(model, path, y, w, RtcConfig(beta=beta))(x, t)
    plain = model(x, t)
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v, t).data.sum(0), x)  # (6, 2, 3, 6, 2): rows do not mix
    correction = torch.einsum("ijbkl,bij->bkl", jacobian, w[..., None] * (y - plain.data))
    weight = beta if t == 0 else min(beta, (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2)
    expected = path.velocity(plain, t) + weight * correction
    torch.testing.assert_close(path.velocity(steered, t), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(path.mix(*steered, t), path.mix(*plain, t), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_product_against_finite_differences(kind):
    policy = network_policy(kind).double()
    model = policy.model(policy.condition({n: v.double() for n, v in OBS.items()}, keys(6)).double())
    t, path, beta = (0.4 if kind == "flow" else 45), policy.path, 3.0
    x, y, w = random(6, 16, 4), random(6, 16, 4, seed=1), torch.rand(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain, moved = model(x, t).data, guided(model, path, y, w, RtcConfig(beta=beta))(x, t).data
        error, step = w[..., None] * (y - plain), 1e-5
        product = torch.zeros_like(x)
        for i in range(16):
            for j in range(4):
                nudge = torch.zeros_like(x)
                nudge[:, i, j] = step
                product[:, i, j] = (error * (model(x + nudge, t).data - model(x - nudge, t).data)).sum((1, 2)) / (2 * step)
    a, b = path.scales(t)
    assert product.abs().max() > 0.05
    torch.testing.assert_close(moved - plain, strength(path, t, beta) * (a + b) * product, atol=1e-6, rtol=1e-5)


def test_identity_form_is_the_raw_error():
    x, y, w = random(2, 5, 3), random(2, 5, 3, seed=1), torch.rand(2, 5, dtype=torch.float64)
    for path, t in ((LinearPath(), 0.3), (DdpmPath(), 40)):
        plain, moved = curved(x, t), guided(curved, path, y, w, RtcConfig(form="identity"))(x, t)
        torch.testing.assert_close(moved.data - plain.data, strength(path, t, 5.0) * w[..., None] * (y - plain.data), atol=1e-14, rtol=0)
        assert (guided(curved, path, y, w, RtcConfig())(x, t).data - moved.data).abs().max() > 0.05


@pytest.mark.parametrize("deviation", [1.0, 0.3])
@pytest.mark.parametrize("path, levels", [(LinearPath(), (0.1, 0.5, 0.9)), (DdpmPath(), (95, 50, 3)), (KarrasPath(), (40.0, 1.0, 0.05))])
def test_data_of_the_assumed_deviation_is_replaced(path, levels, deviation):
    """With data ~ N(0, deviation^2 I) the posterior of the pseudo-inverse is exact: unbounded guidance puts Y in the place of the data."""

    def model(x, t):
        a, b = path.scales(t)
        total = (a * deviation) ** 2 + b**2
        return Estimate(a * deviation**2 * x / total, b * x / total)

    x, y, unbounded = random(2, 5, 3), random(2, 5, 3, seed=1), RtcConfig(beta=1e12, deviation=deviation)
    for t in levels:
        a, b = path.scales(t)
        steered = guided(model, path, y, torch.ones(2, 5, dtype=torch.float64), unbounded)(x, t)
        torch.testing.assert_close(steered.data, y, atol=1e-9, rtol=0)
        torch.testing.assert_close(a * steered.data + b * steered.noise, x, atol=1e-9, rtol=0)


@given(level=st.integers(0, 99), beta=st.floats(0, 50), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_diffusion_is_guided_as_the_flow_that_it_is(level, beta, seed):
    """x / (a + b) at time a / (a + b) of the straight path holds the same data and noise."""
    path = DdpmPath()
    a, b = path.scales(level)
    x, y, w = random(2, 4, 3, seed=seed), random(2, 4, 3, seed=seed + 1), torch.rand(2, 4, dtype=torch.float64)
    on_flow = guided(lambda v, t: curved(v * (a + b), t), LinearPath(), y, w, RtcConfig(beta=beta))(x / (a + b), a / (a + b))
    torch.testing.assert_close(guided(curved, path, y, w, RtcConfig(beta=beta))(x, level).data, on_flow.data, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("variance", [0.05, 0.3, 1.0])
def test_gaussian_walk_is_the_scalar_recursion(variance):
    """Data N(0, variance) in every number: Euler with guidance, written out with the paper's formula, number by number."""
    path, n, beta = LinearPath(), 10, 5.0

    def model(x, t):
        a, b = path.scales(t)
        total = a**2 * variance + b**2
        return Estimate(a * variance / total * x, b / total * x)

    start, y, w = random(1, 6, 1), random(1, 6, 1, seed=1) * math.sqrt(variance), torch.tensor([[1.0, 1.0, 0.7, 0.3, 0.0, 1.0]], dtype=torch.float64)
    got = sample(guided(model, path, y, w, RtcConfig(beta=beta)), start, path, path.step_list(n), Euler())
    for i in range(6):
        x, target, weight = start[0, i, 0].item(), y[0, i, 0].item(), w[0, i].item()
        for k in range(n):
            t = k / n
            slope = (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2)  # v = slope x
            gain = beta if t == 0 else min(beta, (t**2 + (1 - t) ** 2) / (t * (1 - t)))
            x += (slope * x + gain * (1 + (1 - t) * slope) * weight * (target - x - (1 - t) * slope * x)) / n
        assert got[0, i, 0].item() == pytest.approx(x, abs=1e-10)
    if variance >= 0.3:  # where the demonstrators may do what was committed, the plan does it to 5 % of their range, 4 deviations
        assert (got - y)[0, [0, 1, 5]].abs().max() < 0.05 * 4 * math.sqrt(variance)


def test_rows_with_levels_of_their_own():
    path, x, y, w = LinearPath(), random(3, 4, 2), random(3, 4, 2, seed=1), torch.rand(3, 4, dtype=torch.float64)
    levels = torch.tensor([0.0, 0.4, 0.9], dtype=torch.float64)
    together = guided(curved, path, y, w, RtcConfig())(x, levels).data
    for row, t in enumerate(levels.tolist()):
        alone = guided(curved, path, y[row : row + 1], w[row : row + 1], RtcConfig())(x[row : row + 1], t).data
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-12, rtol=0)


def test_guidance_stays_within_the_clip():
    path, x, y = DdpmPath(), random(2, 4, 2), 3.0 * random(2, 4, 2, seed=1)
    for form in ("vjp", "identity"):
        data, noise = guided(curved, path, y, torch.ones(2, 4, dtype=torch.float64), RtcConfig(beta=50.0, form=form), clip=1.0)(x, 30)
        assert data.abs().max() <= 1.0
        assert (data.abs() == 1.0).any()
        before = curved(x, 30)
        torch.testing.assert_close(path.mix(data, noise, 30), path.mix(*before, 30), atol=1e-12, rtol=0)


# what is committed


def overlap(delay, frozen, elapsed, planned=True, kind="flow"):
    """Of a policy with To = 2, Tp = 16, so H = 15, Ta = 8."""
    method = Rtc(RtcConfig(), toy.build(kind, toy.STATE, BATCH))
    state = method.initial_state(1) | {"planned": torch.tensor([planned])}
    return Overlap.of(method, state, Execution(delay, frozen, elapsed))


def test_weights_by_hand():
    ramp = [w * (math.exp(w) - 1) / (math.e - 1) for w in (0.75, 0.5, 0.25)]
    found = prefix_weights(overlap(delay=2, frozen=1, elapsed=10))  # H - s = 5; row 0 has passed
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 1.0, *ramp] + [0.0] * 10]))
    assert (prefix_weights(overlap(2, 2, 10, planned=False)) == 0).all()
    nothing_committed = prefix_weights(overlap(0, 0, 13))[0, :4]
    torch.testing.assert_close(nothing_committed, torch.tensor([1.0, *(w * (math.exp(w) - 1) / (math.e - 1) for w in (2 / 3, 1 / 3)), 0.0]))


@pytest.mark.parametrize(
    "delay, elapsed, committed, length, out",
    [(2, 6, 2, 9, False), (6, 6, 6, 9, False), (7, 6, 7, 9, True), (4, 12, 3, 3, True), (0, 15, 0, 0, False), (0, 16, 0, -1, True), (0, None, 0, 7, False)],
)
def test_ranges_are_cut_and_counted(delay, elapsed, committed, length, out):
    found = overlap(delay, delay, elapsed)
    assert (found.committed.item(), found.length.item(), found.out_of_range.item()) == (committed, length, out)
    assert not overlap(delay, delay, elapsed, planned=False).out_of_range.item()
    assert ((prefix_weights(found)[0] == 1).sum() == min(committed + 1, 16)) or length < 0  # and the row that has passed


def test_the_state_holds_what_is_played():
    policy = network_policy("flow")
    method = Rtc(RtcConfig(), policy)
    _, first = method.act(OBS, method.initial_state(6), keys(6))
    other = {name: value + 0.3 for name, value in OBS.items()}
    plan, second = method.act(other, first, keys(6, 1), Execution(3, 3, 5))
    played = torch.cat([first["plan"][:, 5:9], plan.actions[:, 3:]], 1)  # To = 2: rows 0 ... 3 are settled
    torch.testing.assert_close(second["plan"][:, :9], played, atol=1e-5, rtol=0)
    error = (policy.encode(plan.actions[:, :1].expand(-1, 16, -1), other) - policy.encode(first["plan"], other)[:, 6:7])[:, :1]
    assert (plan.info["prefix_error"] >= error.abs().amax((1, 2)) - 1e-5).all() and (plan.info["prefix_error"] > 0).all()
    assert plan.info["network_calls"].tolist() == plan.info["backward_calls"].tolist() == [10.0] * 6


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
@pytest.mark.parametrize("form", ["vjp", "identity"])
def test_without_guidance_it_is_the_policy_bit_for_bit(kind, form):
    policy = network_policy(kind)
    naive, method, none = (policy, Rtc(RtcConfig(form=form), policy), Rtc(RtcConfig(form=form, beta=0), policy))
    state = method.initial_state(6)
    plain, _ = naive.act(OBS, {}, keys(6, 1))
    begun, _ = method.act(OBS, state, keys(6, 1))  # no plan before
    assert torch.equal(begun.actions, plain.actions)
    _, state = method.act(OBS, state, keys(6))
    unguided, _ = none.act(OBS, state, keys(6, 1), Execution(2, 2, 4))
    assert torch.equal(unguided.actions, plain.actions)
    steered, _ = method.act(OBS, state, keys(6, 1), Execution(2, 2, 4))
    assert (steered.actions - plain.actions).abs().max() > 1e-3
    assert not steered.actions.requires_grad and all(p.grad is None for p in policy.parameters())


def test_rows_do_not_know_of_each_other():
    policy = network_policy("flow")
    method = Rtc(RtcConfig(), policy)
    _, state = method.act(OBS, method.initial_state(6), keys(6))
    fresh = method.reset(state, torch.tensor([False, True, False, False, True, False]))
    delays, elapsed = torch.tensor([0, 1, 2, 3, 4, 5]), torch.tensor([5, 6, 7, 8, 8, 8])
    together, _ = method.act(OBS, fresh, keys(6, 1), Execution(delays, delays, elapsed))
    for row in range(6):
        one = slice(row, row + 1)
        noise = Noise(row_keys(3, np.arange(6), 1)[one])
        alone, _ = method.act({n: v[one] for n, v in OBS.items()}, {n: v[one] for n, v in fresh.items()}, noise, Execution(row, 0, int(elapsed[row])))
        torch.testing.assert_close(together.actions[one], alone.actions, atol=1e-5, rtol=1e-5)
    plain, _ = policy.act(OBS, {}, keys(6, 1))
    same = (together.actions == plain.actions).all((1, 2)).tolist()
    assert same == [False, True, False, False, True, False]


def test_only_policies_that_walk():
    with pytest.raises(InputError, match="expected a generative policy, such as diffusion or flow, found RegressionPolicy"):
        Rtc(RtcConfig(), toy.build("regression", toy.STATE, BATCH))


# catching


@pytest.mark.parametrize("kind, delays", [("flow", (0, 1, 2, 3, 4)), ("diffusion", (0, 2, 4))])
def test_catching_with_late_plans(kind, delays):
    base = exact(kind, n_action_steps=16)
    naive, rtc = ([play(Rtc(RtcConfig(beta=beta), base), delay, 4, SEEDS) for delay in delays] for beta in (0.0, 5.0))
    rates = np.array([[o.caught.mean() for o in found] for found in (naive, rtc)])
    slopes = np.polyfit(delays, rates.T, 1)[0]
    assert rates[0, 0] > 0.95 and rates[1, 0] > 0.95  # without delay either catches
    assert slopes[0] < -0.15 and slopes[1] > slopes[0] / 3
    assert rates[1, -1] > rates[0, -1] + 0.4
    for late, guided_ in zip(naive, rtc, strict=True):
        assert guided_.jumps.mean() < 0.6 * late.jumps.mean()  # m/s^2 from one plan to the next: jerk times 0.1 s


@pytest.mark.parametrize("kind", ["flow", "diffusion"])
def test_committed_steps_are_planned_again(kind):
    """To 5 % of the actions' range, averaged over committed steps and plans; plans that know nothing of each other are far off."""
    found = {}
    for beta in (0.0, 5.0):
        errors = []

        def compare(plan, state, errors=errors):
            errors.append((plan.actions[:, :3] - state["plan"][:, :3]).abs().mean((1, 2)) / (2 * catch.LIMIT))

        play(Rtc(RtcConfig(beta=beta), exact(kind, n_action_steps=16)), 3, 4, SEEDS, watch=compare)
        found[beta] = torch.stack(errors[1:]).mean().item()
    assert found[5.0] < 0.05 and found[0.0] > 2 * found[5.0]


def test_a_true_deviation_guides_better():
    """Published guidance takes actions for of unit deviation; here they have 0.44."""
    published, told = (play(Rtc(RtcConfig(deviation=d), exact("flow", n_action_steps=16)), 4, 4, SEEDS) for d in (1.0, 0.44))
    assert told.caught.mean() > 0.93 and told.info["prefix_error"][:, 1:].mean() < 0.75 * published.info["prefix_error"][:, 1:].mean()


def test_the_identity_form_catches_too():
    base = exact("flow", n_action_steps=16)
    naive, cheap = (play(Rtc(RtcConfig(beta=beta, form="identity"), base), 3, 4, SEEDS) for beta in (0.0, 5.0))
    assert cheap.caught.mean() > naive.caught.mean() + 0.3 and cheap.jumps.mean() < 0.6 * naive.jumps.mean()


def test_exact_policies_agree():
    """The oracle of these tests: without guidance, flow and diffusion draw plans of the same distribution, the demonstrated one."""
    obs = {n: torch.from_numpy(v).repeat_interleave(2000, 0) for n, v in catch.Catch(np.arange(2)).observation().items()}
    centre, swing = catch.plans(obs["observation.state"][::2000, 0].double().numpy(), obs["observation.environment_state"][::2000, 0].double().numpy())
    for kind, config in (("flow", {"steps": 50}), ("diffusion", {"steps": 50, "sampler": "ddim"})):
        plan, _ = exact(kind, n_action_steps=16, **config).act(obs, {}, Noise(row_keys(0, np.arange(4000))))
        for row in range(2):
            off = plan.actions[2000 * row : 2000 * (row + 1), :, 0].numpy() - centre[row, :, 0]
            kappa = off @ swing[row, :, 0] / (swing[row] ** 2).sum()
            assert abs((kappa > 0).mean() - 0.5) < 0.05 and abs(np.abs(kappa).mean() - 1.0) < 0.06
            assert abs(kappa.std() - math.sqrt(1 + catch.STYLE**2)) < 0.06
            assert 0.5 * catch.SPREAD < (off - kappa[:, None] * swing[row, :, 0]).std() < 1.1 * catch.SPREAD  # 50 steps narrow it


def test_ancestral_sampling_is_steered():
    base = exact("diffusion", n_action_steps=16, sampler="ddpm", steps=20)
    assert base.solver.stochastic
    naive, rtc = (play(Rtc(RtcConfig(beta=beta), base), 3, 4, SEEDS) for beta in (0.0, 5.0))
    assert rtc.caught.mean() > naive.caught.mean() + 0.3
