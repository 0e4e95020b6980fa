"""Mirrors of what networks see and do: twice is nothing, an equivariant policy has no mirror loss, and training makes one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies import registry
from policies.distributions import Gaussian
from policies.gaussian import GaussianConfig, GaussianPolicy
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.algos.symmetry import Symmetry, open_symmetry
from robopolicy.training.on_policy_config import SymmetryConfig
from robopolicy.training.rollout import Minibatch
from sim.mirror import Mirror
from sim.registry import make

MIRROR = Mirror((("l_", "r_"),), ("side*", "*_hip"))
SPEC = Spec(
    ObservationSpec(
        {
            "observation.state": Field((6,), names=("l_hip", "r_hip", "l_knee", "r_knee", "side.y", "side.x")),
            "observation.environment_state": Field((2,), names=("side.wind", "slope")),
        }
    ),
    ActionSpec({"torque": Field((4,), low=(-1.0, -1.0, -0.5, -0.5), high=(1.0, 1.0, 2.0, 2.0), names=("l_hip", "r_hip", "l_knee", "r_knee"))}),
)


def uneven_normalizer(spec):
    """Return a normaliser whose statistics are those of a robot that leans to one side."""
    normalizer, generator = limits_normalizer(spec), torch.Generator().manual_seed(5)
    for name, field in spec.observation.fields.items():
        normalizer.refit(name, torch.randn(field.shape, generator=generator), 0.5 + torch.rand(field.shape, generator=generator))
    return normalizer


def build(spec=SPEC, mirror=MIRROR, **training):
    torch.manual_seed(0)
    policy = registry.create("gaussian", GaussianConfig(hidden=[16]), spec, uneven_normalizer(spec))
    assert isinstance(policy, GaussianPolicy)
    torch.nn.init.normal_(list(policy.network.parameters())[-2])
    policy.log_std.data = torch.linspace(-1.0, 0.0, policy.action_dim)
    fields = tuple(spec.observation.fields)
    inputs = {"policy": (policy.encoder.states, policy.normalizer), "critic": (fields[:1], policy.normalizer)}
    return policy, Symmetry(SymmetryConfig(**training), mirror, spec, policy, inputs)


def minibatch(policy, rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(rows, policy.encoder.features, generator=generator)
    law = policy.distribution(seen).detach()
    numbers = torch.randn(4, rows, generator=generator)
    action = law.draw(torch.randn(rows, policy.action_dim, generator=generator))
    critic = seen[:, : policy.spec.observation.fields["observation.state"].size]
    return Minibatch(
        vectors={"policy": seen, "critic": critic},
        images={},
        action=action,
        old=law,
        old_log_prob=law.log_prob(action),
        advantage=numbers[0],
        value=numbers[1],
        returns=numbers[2],
        keys=torch.arange(rows),
        labels={"mean": action + 1.0, "cost": numbers[3]},
        state={},
        begun=torch.zeros(rows, dtype=torch.bool),
        share=1.0,
    )


def test_a_mirrored_field_by_hand():
    _, mirror = build()
    state = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    assert mirror.field("observation.state", state).tolist() == [[-2.0, -1.0, 4.0, 3.0, -5.0, -6.0]]
    assert mirror.field("observation.environment_state", torch.tensor([[1.0, 2.0]])).tolist() == [[-1.0, 2.0]]
    assert mirror.action(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [-2.0, -1.0, 4.0, 3.0]


@pytest.mark.parametrize("network", ["policy", "critic"])
def test_twice_mirrored_is_what_it_was(network):
    policy, mirror = build()
    vector = minibatch(policy).vectors[network]
    assert torch.allclose(mirror.vector(network, mirror.vector(network, vector)), vector, atol=1e-5)
    assert not torch.allclose(mirror.vector(network, vector), vector, atol=0.1)


def test_what_a_network_sees_is_the_normalised_mirror_image():
    policy, mirror = build()
    generator = torch.Generator().manual_seed(3)
    obs = {name: torch.randn(5, *f.shape, generator=generator) for name, f in SPEC.observation.fields.items()}
    image = {name: mirror.field(name, value) for name, value in obs.items()}
    seen, expected = (policy.encoder.vector(x, policy.normalizer) for x in (obs, image))
    assert torch.allclose(mirror.vector("policy", seen), expected, atol=1e-5)


def test_augmented_samples_have_the_numbers_of_the_originals_in_the_mirror():
    policy, mirror = build()
    batch = minibatch(policy)
    both = mirror.augment(batch)
    assert torch.equal(both.action[:8], batch.action) and torch.equal(both.action[8:], mirror.action(batch.action))
    for name in ("advantage", "value", "returns", "old_log_prob", "keys", "begun"):
        assert torch.equal(getattr(both, name), getattr(batch, name).repeat(2)), name
    assert torch.allclose(both.old.log_prob(both.action), both.old_log_prob, atol=1e-5)  # the mirrored law of mirrored actions
    assert torch.equal(both.labels["mean"][8:], mirror.action(batch.labels["mean"])) and torch.equal(both.labels["cost"][8:], batch.labels["cost"])
    assert torch.equal(both.vectors["critic"][8:], mirror.vector("critic", batch.vectors["critic"]))
    assert build(augment=False, weight=1.0)[1].augment(batch) is batch


def test_samples_of_a_rule_without_a_critic_are_augmented_too():
    """Distillation learns no values: what a critic would see has no mirror, and training with symmetry ended in a traceback."""
    policy, mirror = build()
    mirror.inputs = {"policy": mirror.inputs["policy"]}
    both = mirror.augment(minibatch(policy))
    assert list(both.vectors) == ["policy"] and len(both.vectors["policy"]) == len(both.labels["mean"]) == 16


def equivariant(policy, mirror):
    """Make ``policy`` one that commutes with the mirror: half of its hidden units see the mirror image, and act mirrored."""
    first, last = policy.network[0], policy.network[2]
    features = policy.encoder.features
    with torch.no_grad():
        shift = mirror.vector("policy", torch.zeros(1, features))[0]
        gain = (mirror.vector("policy", torch.eye(features)) - shift).T  # vector(z) = gain z + shift
        first.weight[8:], first.bias[8:] = first.weight[:8] @ gain, first.bias[:8] + first.weight[:8] @ shift
        last.weight[:, 8:] = mirror.action(last.weight[:, :8].T).T
        last.bias[:] = last.bias + mirror.action(last.bias)


@pytest.mark.parametrize("augment", [True, False])
def test_the_loss_is_zero_for_an_equivariant_policy_alone(augment):
    policy, mirror = build(augment=augment, weight=0.5)
    errors = []
    for make_equivariant in (False, True):
        if make_equivariant:
            equivariant(policy, mirror)
        batch = mirror.augment(minibatch(policy))
        law = policy.distribution(batch.vectors["policy"])
        errors.append(mirror.error(batch, law))
        assert errors[-1].shape == law.mean.shape[:1] and torch.allclose(mirror.loss(batch, law), 0.5 * errors[-1])
    assert errors[0].mean() > 0.1 and errors[1].max() < 1e-8


def test_the_loss_by_hand_and_both_ways_alike():
    errors = []
    for augment in (True, False):
        policy, mirror = build(augment=augment, weight=1.0)
        batch = mirror.augment(minibatch(policy))
        errors.append(mirror.error(batch, policy.distribution(batch.vectors["policy"]))[:8])
    seen = minibatch(policy).vectors["policy"]
    there = policy.distribution(mirror.vector("policy", seen)).mean
    order, sign = [1, 0, 3, 2], torch.tensor([-1.0, -1.0, 1.0, 1.0])
    expected = (there - policy.distribution(seen).mean[:, order] * sign).square().mean(-1)
    assert torch.allclose(errors[0], expected, atol=1e-5) and torch.allclose(errors[1], expected, atol=1e-5)


def test_the_mirror_of_a_distribution():
    _, mirror = build()
    law = mirror.law(Gaussian(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0.1, 0.2, 0.3, 0.4])))
    assert law.mean.tolist() == [[-2.0, -1.0, 4.0, 3.0]]
    assert torch.equal(law.log_std, torch.tensor([0.2, 0.1, 0.4, 0.3]))


def test_what_cannot_be_mirrored_is_refused_in_one_line():
    world = make("gymnasium/half-cheetah", 1)
    policy = registry.create("gaussian", GaussianConfig(), world.spec, limits_normalizer(world.spec))
    cart = make("classic/cartpole", 1)
    remembering = registry.create("gaussian", GaussianConfig.model_validate({"memory": {"type": "gru"}}), cart.spec, limits_normalizer(cart.spec))
    lopsided = Spec(SPEC.observation, ActionSpec({"torque": Field((2,), low=(-1.0, -2.0), high=(1.0, 1.0), names=("l_hip", "r_hip"))}))
    assert isinstance(policy, GaussianPolicy) and isinstance(remembering, GaussianPolicy)
    for ask, words in (
        (lambda: open_symmetry(SymmetryConfig(), world, policy, {}), "'gymnasium/half-cheetah' declares no mirror symmetry"),
        (lambda: open_symmetry(SymmetryConfig(), cart, remembering, {}), "memory 'gru' holds cannot be mirrored"),
        (lambda: build(lopsided), "limits of actions 'l_hip' and 'r_hip' are not mirror images"),
    ):
        with pytest.raises(InputError) as error:
            ask()
        assert words in str(error.value) and "\n" not in str(error.value)
    assert open_symmetry(None, world, policy, {}) is None
    with pytest.raises(ValueError, match="expected augment, or a weight above 0"):
        SymmetryConfig(augment=False)
    world.close()
    cart.close()


def test_declared_mirrors_fit_their_worlds():
    for task in ("classic/cartpole", "locomotion/quadruped", "locomotion/ant", "gymnasium/walker2d"):
        world = make(task, 2)
        policy = registry.create("gaussian", GaussianConfig(), world.spec, limits_normalizer(world.spec))
        assert isinstance(policy, GaussianPolicy)
        mirror = open_symmetry(SymmetryConfig(), world, policy, {"policy": (policy.encoder.states, policy.normalizer)})
        assert mirror is not None
        state = torch.from_numpy(np.array(world.reset(np.arange(2))["observation.state"]))
        assert torch.equal(mirror.field("observation.state", mirror.field("observation.state", state)), state)
        world.close()


def test_a_policy_whose_own_units_are_lopsided_is_refused():
    """One that came with its own normaliser: mirroring what it says would not mirror what the robot does."""
    normalizer = uneven_normalizer(SPEC)
    offset = torch.tensor([0.0, 0.3, 0.75, 0.75])
    normalizer.refit("action", offset, torch.tensor([1.0, 1.0, 1.25, 1.25]))
    policy = registry.create("gaussian", GaussianConfig(hidden=[16]), SPEC, normalizer)
    assert isinstance(policy, GaussianPolicy)
    with pytest.raises(InputError, match="limits of actions 'l_hip' and 'r_hip' are not mirror images"):
        Symmetry(SymmetryConfig(), MIRROR, SPEC, policy, {"policy": (policy.encoder.states, policy.normalizer)})
