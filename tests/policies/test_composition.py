"""Composition: averaged scores and unions against closed forms, other paths and units, and what may not be composed."""

import itertools

import numpy as np
import pytest
import torch

from policies.composition import ComposedPolicy, LouderPath, UnitChange
from policies.generative.paths import DdpmPath, KarrasPath, LinearPath
from policies.generative.policy import GenerativePolicy
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer
from policies.realtime.registry import apply, method_names
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from tests.oracles.mixture import GaussianMixture, level_of, two_modes
from tests.oracles.policy import OracleNetwork, oracle_policy, plans
from tests.policies.toy import CAMERA, IMAGE, STATE, build, observation, random_batch

SPACE = GaussianMixture.of((0.3, (-0.8, 0.3, 0.4, -0.5), 0.15), (0.7, (0.5, -0.2, -0.6, 0.6), 0.2))
PLANE = GaussianMixture.of((0.3, (-0.8, 0.3), 0.1), (0.7, (0.5, -0.2), 0.2))
KINDS = ("diffusion", "flow")


def point(name: str, mean: float, deviation: float = 0.1, **config) -> GenerativePolicy:
    """Return an exact policy whose actions are N(mean, deviation^2)."""
    return oracle_policy(name, GaussianMixture.of((1.0, [mean], deviation)), **config)


class ErringNetwork(OracleNetwork):
    """The exact network with a smooth error of its own in the estimate of the data, of deviation ``size``."""

    def __init__(self, exact: OracleNetwork, size: float, seed: int) -> None:
        super().__init__(exact.mixture, exact.path, exact.prediction)
        generator, dim, waves = torch.Generator().manual_seed(seed), exact.mixture.dim, 16
        self.frequency = 6.0 * torch.randn(waves, dim + 1, generator=generator, dtype=torch.float64)
        self.phase = 2.0 * np.pi * torch.rand(waves, generator=generator, dtype=torch.float64)
        self.height = torch.randn(dim, waves, generator=generator, dtype=torch.float64) * size * (2.0 / waves) ** 0.5

    def forward(self, x, clock, condition):
        flat, t = x.flatten(1).double(), level_of(self.path, clock)
        place = torch.cat([flat, clock[:, None].double() / 50.0], -1)
        data = self.mixture.estimate(self.path, flat, t).data + torch.sin(place @ self.frequency.mT + self.phase) @ self.height.mT
        return self.path.target(self.prediction, data, self.path.noise_in(flat, data, t), t).to(x.dtype).reshape(x.shape)


def erring(name: str, seed: int) -> GenerativePolicy:
    policy = oracle_policy(name, SPACE, steps=20)
    policy.network = ErringNetwork(policy.network, 0.6, seed)
    return policy


def in_units(name: str, mixture: GaussianMixture, scale, offset, mode: str = "min_max", **config) -> GenerativePolicy:
    """Return an exact policy for ``mixture`` (robot units) whose network works on (action - offset) / scale."""
    scale, offset = (torch.tensor(v, dtype=torch.float64) for v in (scale, offset))
    inside = GaussianMixture(mixture.weights, (mixture.means - offset) / scale, mixture.deviations.expand_as(mixture.means) / scale)
    policy = oracle_policy(name, inside, **config)
    code = torch.full(scale.shape, ("identity", "mean_std", "min_max").index(mode), dtype=torch.int8)
    action = {"action.offset": offset.float(), "action.scale": scale.float(), "action.mode": code}
    policy.normalizer = Normalizer.from_tensors({**policy.normalizer.tensors(), **action})
    return policy


# --- what comes out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [*itertools.product(KINDS, KINDS)])
def test_the_average_of_two_normals_of_one_width_is_the_normal_between(names):
    # closed form: the mean of the scores -(x - a m_i) / v is the score of the mean of the m_i
    parts = [point(name, mean, steps=30) for name, mean in zip(names, (0.5, -0.7), strict=True)]
    for weights, mean in (((0.75, 0.25), 0.2), ((0.4, 0.6), -0.22)):
        composed = ComposedPolicy(parts, weights)
        between = point(names[parts.index(composed.lead)], mean, steps=30)
        assert (plans(composed, 500) - plans(between, 500)).abs().max() < 0.02  # a diffusion's oracle knows whole levels only


@pytest.mark.parametrize("names", [("diffusion", "diffusion"), ("flow", "flow"), ("diffusion", "flow")])
def test_independent_errors_cancel(names):
    distances = []
    for case in range(4):
        parts = [erring(name, 2 * case + i) for i, name in enumerate(names)]
        distances.append([SPACE.distance(plans(p, 600).flatten(1), 4) for p in (*parts, ComposedPolicy(parts, (0.5, 0.5)))])
    first, second, composed = np.array(distances).T
    assert (composed < np.minimum(first, second)).all() and composed.mean() < 0.85 * min(first.mean(), second.mean())


def test_averaging_fails_where_modes_are_disjoint_and_or_does_not():
    parts = [point("diffusion", sign) for sign in (1.0, -1.0)]
    between = {by: (plans(ComposedPolicy(parts, (0.5, 0.5), by), 2000).abs() < 0.5).float().mean().item() for by in ("average", "or")}
    assert between["average"] > 0.5 and between["or"] == 0.0


@pytest.mark.parametrize("names", [*itertools.product(KINDS, KINDS)])
def test_or_is_the_mixture(names):
    parts = [point(name, sign, steps=30) for name, sign in zip(names, (1.0, -1.0), strict=True)]
    x = plans(ComposedPolicy(parts, (0.3, 0.7), "or"), 4000).flatten(1)
    assert two_modes(deviation=0.1, share=0.3).distance(x) < 0.04
    assert (x > 0).float().mean().item() == pytest.approx(0.3, abs=0.025)


def test_three_parts():
    parts = [point("flow", 0.6), point("diffusion", 0.0), point("flow", -0.9)]
    x = plans(ComposedPolicy(parts, (0.5, 0.2, 0.3)), 1000)
    assert x.mean().item() == pytest.approx(0.03, abs=0.02)
    y = plans(ComposedPolicy(parts, (0.5, 0.2, 0.3), "or"), 4000)
    shares = [((y - m).abs() < 0.3).float().mean().item() for m in (0.6, 0.0, -0.9)]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.03)


# --- other paths, predictions and units ------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_same_policy_told_in_another_way_changes_nothing(prediction):
    flow, diffusion = oracle_policy("flow", PLANE, steps=30), oracle_policy("diffusion", PLANE, steps=30, prediction=prediction)
    alone, both = plans(diffusion, 500), plans(ComposedPolicy([flow, diffusion], (0.4, 0.6)), 500)
    assert (alone - both).abs().max() < 1e-3  # float32, and the flow is asked where the diffusion's level lies


def test_the_sample_lives_with_the_heaviest_part():
    flow, diffusion = point("flow", 0.1), point("diffusion", 0.1, steps=7, sampler="ddpm")
    heavy = ComposedPolicy([flow, diffusion], (0.4, 0.6))
    assert heavy.lead is diffusion and (heavy.path, heavy.solver, heavy.steps) == (diffusion.path, diffusion.solver, 7)
    assert ComposedPolicy([flow, diffusion], (0.5, 0.5)).lead is flow


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("by", ["average", "or"])
def test_a_weight_of_one_is_that_policy_bit_for_bit(weights, by):
    batch = random_batch(STATE, 8)
    parts = [build(name, STATE, batch, seed=i).eval() for i, name in enumerate(("diffusion", "flow"))]
    composed = ComposedPolicy(parts, weights, by)
    expected, found = (_act(p, observation(batch)) for p in (parts[weights.index(1.0)], composed))
    if by == "average":
        assert torch.equal(expected.actions, found.actions)
    assert torch.equal(expected.info["network_calls"], found.info["network_calls"])


@pytest.mark.parametrize("paths", [("diffusion", "diffusion"), ("diffusion", "flow"), ("flow", "flow")])
def test_units_that_differ_by_one_factor_are_converted_exactly(paths):
    ours = in_units(paths[0], PLANE, (1.0, 1.0), (0.0, 0.0))
    theirs = in_units(paths[1], PLANE, (0.4, 0.4), (0.3, -0.1))
    composed = ComposedPolicy([ours, theirs], (0.5, 0.5))
    x = torch.randn(64, 1, 2, generator=torch.Generator().manual_seed(0))
    condition = torch.zeros(64, 1, 2)
    for t in (20, 50, 80) if paths[0] == "diffusion" else (0.2, 0.5, 0.8):
        exact = PLANE.estimate(ours.path, x[:, 0].double(), t).data
        # an oracle of a diffusion knows whole levels only, a fraction of a level from where it is asked
        tolerance = 1e-4 if paths[1] == "flow" else 0.03
        found = composed._translated(theirs, UnitChange(theirs, ours), condition[..., :1])(x, t)
        assert (found.data[:, 0] - exact).abs().max() < tolerance
        both = composed.model(condition)(x, t)
        assert (both.data[:, 0] - exact).abs().max() < tolerance
        assert (ours.path.mix(both.data, both.noise, t) - x).abs().max() < 1e-5
    alone, both = plans(ours, 1000).flatten(1), plans(composed, 1000).flatten(1)
    assert PLANE.distance(both, 8) < PLANE.distance(alone, 8) + 0.01


def test_units_that_differ_by_element_keep_the_modes():
    # no level of theirs has our noise: an approximation, which must be far better than to pass over the difference
    ours, theirs = (in_units("flow", PLANE, *units, steps=50) for units in (((1.0, 1.0), (0.0, 0.0)), ((1.0, 0.5), (0.1, 0.0))))
    composed = ComposedPolicy([ours, theirs], (0.5, 0.5))
    assert not composed._units[1].even and composed._units[1].variance.tolist() == pytest.approx([1 / 3, 1 / 3])
    alone, both = (PLANE.distance(plans(p, 2000).flatten(1), 8) for p in (ours, composed))
    composed._units[1].even, composed._units[1].loudness = True, 1.0
    careless = PLANE.distance(plans(composed, 2000).flatten(1), 8)
    assert both < alone + 0.02 and both < 0.5 * careless


def test_grippers_scaled_down_are_units_too():
    batch = random_batch(STATE, 64)
    batch["action"][..., 3] = torch.where(batch["action"][..., 3] > 0, 1.0, -1.0)
    plain, small = (build("flow", STATE, batch, two_valued_scale=scale) for scale in (None, 0.1))
    change = UnitChange(small, plain)
    assert change.ratio.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.1]) and change.shift.abs().max() < 1e-6
    composed = ComposedPolicy([plain.eval(), small.eval()], (0.4, 0.6))
    assert set(_act(composed, observation(batch)).actions[..., 3].flatten().tolist()) <= {-1.0, 1.0}


# --- a policy like any other -----------------------------------------------------------------------------------------


def _act(policy, obs, keys=None, state=None):
    rows = len(next(iter(obs.values())))
    plan, _ = policy.act(obs, policy.initial_state(rows) if state is None else state, Noise(row_keys(0, np.arange(rows)) if keys is None else keys))
    return plan


@pytest.mark.parametrize("by", ["average", "or"])
def test_it_is_a_policy(by):
    batch = random_batch(STATE, 8)
    parts = [build(name, STATE, batch, seed=i).eval() for i, name in enumerate(("diffusion", "flow"))]
    made: list[int] = []
    for part in parts:
        part.network.register_forward_hook(lambda *_: made.append(1))
    policy = ComposedPolicy(parts, (0.5, 0.5), by)
    assert not policy.training and policy.spec == parts[0].spec
    obs, keys = observation(batch), row_keys(0, np.arange(8))
    plan = _act(policy, obs, keys)
    assert plan.actions.shape == (8, 8, 4) and torch.isfinite(plan.actions).all() and plan.info["network_calls"].tolist() == [len(made)] * 8
    assert torch.equal(plan.actions, _act(policy, obs, keys).actions)
    for row in (0, 5):
        alone = _act(policy, {n: v[row : row + 1] for n, v in obs.items()}, keys[row : row + 1])
        assert (alone.actions[0] - plan.actions[row]).abs().max() < 1e-5
    chunk = torch.randn(8, 16, 4, generator=torch.Generator().manual_seed(0))
    assert (policy.encode(policy.decode(chunk, obs), obs) - chunk).abs().max() < 1e-4
    with pytest.raises(InputError, match="a composition is not trained"):
        policy.loss(batch, Noise(keys))


def test_observations_add_up():
    batch = random_batch(IMAGE, 4)
    reads = (["observation.state"], ["observation.environment_state", CAMERA], ["observation.state", CAMERA])
    parts = [build("flow", IMAGE, batch, seed=i, observations=names).eval() for i, names in enumerate(reads)]
    policy = ComposedPolicy(parts, (0.4, 0.3, 0.3))
    assert set(policy.spec.observation.fields) == set(IMAGE.observation.fields)
    before = _act(policy, observation(batch)).actions
    for name in IMAGE.observation.fields:
        changed = {**observation(batch), name: batch[name] // 2}
        assert (_act(policy, changed).actions - before).abs().max() > 1e-6


def test_a_walk_can_be_steered_and_differentiated():
    parts = [point("flow", 0.5), point("diffusion", -0.5)]
    for by in ("average", "or"):
        policy = ComposedPolicy(parts, (0.5, 0.5), by)
        condition, noise = torch.zeros(64, 1, 2), Noise(row_keys(0, np.arange(64)))
        plain, calls = policy.walk(condition, noise)

        def up(model):
            def steered(x, t):
                estimate = model(x, t)
                return estimate._replace(data=estimate.data + 0.3)

            return steered

        pushed, _ = policy.walk(condition, Noise(row_keys(0, np.arange(64))), steer=up)
        assert calls == 20 and (pushed - plain).mean() > 0.05
    x = torch.zeros(4, 1, 1, requires_grad=True)
    ComposedPolicy(parts, (0.5, 0.5)).model(torch.zeros(4, 1, 2))(x, 0.5).data.sum().backward()
    assert x.grad is not None and (x.grad.abs() > 0).all()


@pytest.mark.parametrize("name", method_names())
@pytest.mark.parametrize("by", ["average", "or"])
def test_methods_of_execution_take_it(name, by):
    batch = random_batch(STATE, 4)
    parts = [build(kind, STATE, batch, seed=i).eval() for i, kind in enumerate(("diffusion", "flow"))]
    method = apply({"type": name}, ComposedPolicy(parts, (0.5, 0.5), by))
    keys, state = row_keys(0, np.arange(4)), method.initial_state(4)
    for _ in range(2):
        plan, state = method.act(observation(batch), state, Noise(keys))
    assert plan.actions.shape == (4, method.n_action_steps, 4) and torch.isfinite(plan.actions).all()
    assert (plan.info["network_calls"] % 2 == 0).all()  # both parts are asked


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.5, 0.6), "weights 0.5, 0.6 sum to 1.1, expected 1"),
        ((1.5, -0.5), "weight 1.5: expected 0 to 1"),
        ((float("nan"), 0.5), "weight nan"),
        ((1.0,), "expected 2 weights, one a policy, found 1"),
    ],
)
def test_weights_that_are_none_are_refused(weights, words):
    with pytest.raises(InputError) as error:
        ComposedPolicy([point("flow", 0.0), point("flow", 0.0)], weights)
    assert words in str(error.value) and "\n" not in str(error.value)


def _with(spec: Spec, **action) -> Spec:
    fields = {**spec.action.fields, "gripper": Field((1,), kind="gripper", **action)}
    return Spec(spec.observation, ActionSpec(fields, spec.action.rate_hz))


def _other_state() -> Spec:
    fields = {**STATE.observation.fields, "observation.state": Field((3,), unit="rad")}
    return Spec(ObservationSpec(fields), STATE.action)


@pytest.mark.parametrize(
    ("name", "spec", "config", "words"),
    [
        ("flow", _with(STATE, unit="N"), {}, "action field 'gripper' of A does not fit B: unit: expected 'N', found '1'"),
        ("flow", _other_state(), {}, "observation field 'observation.state' of A does not fit B: unit: expected 'rad', found 'm'"),
        ("flow", Spec(STATE.observation, ActionSpec(STATE.action.fields, 20.0)), {}, "action rate: B expects 20 Hz, A has 10 Hz"),
        ("flow", STATE, {"horizon": 12, "n_action_steps": 4}, "horizon: A has 16, B 12"),
        ("flow", STATE, {"n_action_steps": 4}, "n_action_steps: A has 8, B 4"),
        ("flow", STATE, {"n_obs_steps": 1}, "n_obs_steps: A has 2, B 1"),
        ("flow", STATE, {"actions": "delta", "action_reference": {"position": "observation.state"}}, "actions: A has 'absolute', B 'delta'"),
        ("regression", STATE, {}, "B: a regression policy has no scores to compose"),
        ("consistency", STATE, {}, "B: a consistency policy has no scores to compose"),
        ("meanflow", STATE, {}, "B: a meanflow policy has no scores to compose"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(name, spec, config, words):
    first = build("flow", STATE, random_batch(STATE, 4))
    second = build(name, spec, random_batch(spec, 4, config.get("horizon", 16), config.get("n_obs_steps", 2)), **config)
    with pytest.raises(InputError) as error:
        ComposedPolicy([first, second], (0.5, 0.5), names=["A", "B"])  # type: ignore[list-item]
    assert words in str(error.value) and "\n" not in str(error.value)


def test_other_mistakes_are_refused():
    with pytest.raises(InputError, match="expected two or more policies, found 1"):
        ComposedPolicy([point("flow", 0.0)], [1.0])
    with pytest.raises(InputError, match="rule 'avarage' is unknown; did you mean 'average'"):
        ComposedPolicy([point("flow", 0.0), point("flow", 0.0)], [0.5, 0.5], "avarage")  # type: ignore[arg-type]
    unknown = ComposedPolicy([point("flow", 0.0), point("flow", 0.0)], [0.5, 0.5], "or").model(torch.zeros(1, 1, 2))
    with pytest.raises(InputError, match="draws a part"):
        unknown(torch.zeros(1, 1, 1), 0.5)


@pytest.mark.parametrize("path", [DdpmPath(100), LinearPath(), KarrasPath()])
def test_a_louder_path_is_the_path_with_more_noise(path):
    louder = LouderPath(path, 2.0)
    for t in {DdpmPath: (0, 40, 90), LinearPath: (0.1, 0.9), KarrasPath: (0.02, 5.0)}[type(path)]:
        (a, b), (a2, b2) = path.scales(t), louder.scales(t)
        assert (a2, b2) == (a, 2.0 * b) and louder.level_at(b2 / a2) == pytest.approx(t)
    assert (louder.start, louder.end, louder.step_list(4)) == (path.start, path.end, path.step_list(4))
