"""What every learnt policy must do, whatever its name, backbone and observations."""

import copy

import numpy as np
import pydantic
import pytest
import torch

from policies import registry
from policies.base import Execution, Policy
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer
from policies.spec import InputError, SpecMismatch
from tests.policies.toy import CAMERA, IMAGE, SMALL, STATE, build, observation, random_batch, stats_of, train

NAMES = registry.chunk_policy_names()
BACKBONES = ("mlp", "unet", "transformer")
BATCH = random_batch(STATE, 8)


def act(policy, obs, keys, state=None):
    return policy.act(obs, policy.initial_state(len(keys)) if state is None else state, Noise(keys))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", NAMES)
def test_a_plan_has_the_agreed_form(name, backbone):
    policy = build(name, STATE, BATCH, backbone=backbone).eval()
    assert isinstance(policy, Policy)
    assert (policy.n_obs_steps, policy.horizon, policy.n_action_steps) == (2, 16, 8) == type(policy).window(policy.config)
    plan, state = act(policy, observation(BATCH), row_keys(0, np.arange(8)))
    assert plan.actions.shape == (8, 8, 4) and plan.actions.dtype == torch.float32 and torch.isfinite(plan.actions).all()
    calls = plan.info["network_calls"]
    assert calls.shape == (8,) and calls.dtype == torch.float32 and (calls >= 1).all()
    assert isinstance(state, dict) and not plan.actions.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_network_calls_are_the_calls_made(name):
    policy = build(name, STATE, BATCH).eval()
    made = []
    policy.network.register_forward_hook(lambda *a: made.append(1))
    plan, _ = act(policy, observation(BATCH), row_keys(0, np.arange(8)))
    assert plan.info["network_calls"].unique().tolist() == [len(made)]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", NAMES)
def test_loss_is_a_finite_scalar_that_trains_every_weight(name, backbone):
    policy = build(name, STATE, BATCH, backbone=backbone)
    loss, metrics = policy.loss(BATCH, Noise(row_keys(0, np.arange(8))))
    assert loss.shape == () and torch.isfinite(loss) and all(torch.as_tensor(v).shape == () for v in metrics.values())
    loss.backward()
    idle = {n for n, p in policy.named_parameters() if p.grad is None}
    assert idle == set()


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_several_tasks_are_told_apart(name):
    policy, noise = build(name, STATE, BATCH), (lambda: Noise(row_keys(0, np.arange(8))))
    torch.manual_seed(1)
    alone, _ = policy.loss(BATCH, noise())
    torch.manual_seed(1)
    loss, metrics = policy.loss({**BATCH, "task_index": torch.arange(8)}, noise())
    assert torch.equal(loss, alone) and metrics["row_errors"].shape == (8,) and not metrics["row_errors"].requires_grad
    assert (metrics["row_errors"] > 0).all() and len(metrics["row_errors"].unique()) == 8


@pytest.mark.parametrize("name", NAMES)
def test_the_same_noise_gives_the_same_bits(name):
    policy = build(name, STATE, BATCH).eval()
    keys = row_keys(0, np.arange(8))
    assert torch.equal(act(policy, observation(BATCH), keys)[0].actions, act(policy, observation(BATCH), keys)[0].actions)
    losses = [policy.loss(BATCH, Noise(keys))[0] for _ in range(2)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(name, backbone):
    policy = build(name, STATE, BATCH, backbone=backbone).eval()
    keys = row_keys(0, np.arange(8))
    whole = act(policy, observation(BATCH), keys)[0].actions
    for row in (0, 3, 7):
        alone = act(policy, {n: v[row : row + 1] for n, v in observation(BATCH).items()}, keys[row : row + 1])[0].actions
        assert (alone[0] - whole[row]).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_reset_begins_masked_rows_anew(name):
    policy = build(name, STATE, BATCH).eval()
    keys = row_keys(0, np.arange(8))
    fresh = act(policy, observation(BATCH), keys)[0].actions
    state = act(policy, observation(BATCH), keys)[1]
    _, state = act(policy, {n: v.flip(0) for n, v in observation(BATCH).items()}, keys, state)
    mask = torch.arange(8) < 4
    again = act(policy, observation(BATCH), keys, policy.reset(state, mask))[0].actions
    assert torch.equal(again[:4], fresh[:4])


@pytest.mark.parametrize("name", NAMES)
def test_images_are_seen(name):
    batch = random_batch(IMAGE, 4)
    policy = build(name, IMAGE, batch)
    loss, _ = policy.loss(batch, Noise(row_keys(0, np.arange(4))))
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in policy.cameras.parameters())
    policy.eval()
    keys = row_keys(0, np.arange(4))
    before = act(policy, observation(batch), keys)[0].actions
    dark = {**observation(batch), CAMERA: torch.zeros_like(batch[CAMERA])}
    assert (act(policy, dark, keys)[0].actions - before).abs().max() > 1e-5


def test_crops_are_random_in_training_alone():
    batch = random_batch(IMAGE, 4)
    policy = build("regression", IMAGE, batch)
    losses = {policy.loss(batch, Noise(row_keys(seed, np.arange(4))))[0].item() for seed in range(4)}
    assert len(losses) == 4
    policy.eval()
    assert len({policy.loss(batch, Noise(row_keys(seed, np.arange(4))))[0].item() for seed in range(4)}) == 1


def test_the_three_policies_are_equally_large():
    for backbone in BACKBONES:
        mlp = {**SMALL["mlp"], "skip": False}  # what diffusion has beyond the others: 4,225 weights at the usual size
        sizes = [sum(p.numel() for p in build(n, STATE, BATCH, backbone=backbone, mlp=mlp).parameters()) for n in ("diffusion", "flow", "regression")]
        assert max(sizes) <= 1.01 * min(sizes)


@pytest.mark.parametrize("name", NAMES)
def test_observations_narrow_what_is_read(name):
    policy = build(name, IMAGE, random_batch(IMAGE, 4), observations=["observation.environment_state"]).eval()
    assert list(policy.spec.observation.fields) == ["observation.environment_state"]
    assert policy.spec.action == IMAGE.action
    plan, _ = act(policy, {"observation.environment_state": torch.zeros(1, 2, 2)}, row_keys(0, 0))
    assert plan.actions.shape == (1, 8, 4)
    again = type(policy)(policy.config, policy.spec, policy.normalizer)  # from a checkpoint, which holds the narrowed spec
    assert again.spec == policy.spec


@pytest.mark.parametrize("mode", ["delta", "chunk_relative"])
def test_relative_actions_come_out_absolute(mode):
    # the commands keep a fixed offset from the state: what is predicted is constant, and what comes out moves with the state
    batch = random_batch(STATE, 64)
    offset = torch.tensor([0.1, 0.2, 0.3])
    batch["action"][..., :3] = batch["observation.state"][:, -1:] + offset
    batch["observation.state"][:, 0] = batch["observation.state"][:, 1]
    batch["action"][..., 3] = 0.5
    policy = build("regression", STATE, batch, actions=mode, action_reference={"position": "observation.state"})
    train(policy, lambda step: batch, 60, lr=3e-3)
    moved = {**observation(batch), "observation.state": observation(batch)["observation.state"] + 0.5}
    for obs in (observation(batch), moved):
        plan, _ = act(policy, obs, row_keys(0, np.arange(64)))
        assert (plan.actions[..., :3] - obs["observation.state"][:, -1:] - offset).abs().mean() < 0.05
        assert (plan.actions[..., 3] - 0.5).abs().mean() < 0.05


def test_normalizer_of_relative_actions_is_fitted_to_all_windows():
    flow = registry.policy_class("flow")
    config = flow.Config(actions="chunk_relative", action_reference={"position": "observation.state"})
    first, second = random_batch(STATE, 6, seed=1), random_batch(STATE, 6, seed=2)
    normalizer = flow.fit_normalizer(config, STATE, stats_of(first, STATE), iter([first, second]))
    encoded = torch.cat([b["action"][..., :3] - b["observation.state"][:, -1:] for b in (first, second)])
    scaled = normalizer.normalize("action", torch.cat([encoded, torch.cat([first["action"], second["action"]])[..., 3:]], -1))
    assert torch.allclose(scaled.flatten(0, 1).amin(0), -torch.ones(4), atol=1e-5)
    assert torch.allclose(scaled.flatten(0, 1).amax(0), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_masked_padding_does_not_count(name):
    keys = row_keys(0, np.arange(8))
    other = {**BATCH, "action": torch.where(BATCH["action_is_pad"][..., None], BATCH["action"] + 0.1, BATCH["action"])}
    for masked in (False, True):
        policy = build(name, STATE, BATCH, backbone="transformer", mask_padding=masked).eval()  # causal: padding cannot leak back
        losses = [policy.loss(b, Noise(keys))[0].item() for b in (BATCH, other)]
        unread = getattr(policy, "needs_teacher", False)  # learns what its teacher does, not what was demonstrated
        assert (losses[0] == pytest.approx(losses[1], rel=1e-6)) == (masked or unread)


def test_masked_loss_is_the_mean_over_what_is_real():
    policy = build("regression", STATE, BATCH, mask_padding=True).eval()
    noise = Noise(row_keys(0, np.arange(8)))
    chunk = policy.normalizer.normalize("action", BATCH["action"])
    errors = policy.errors(chunk, policy.condition(BATCH, noise), noise)
    real = errors[:, :-3]  # the toy batch pads the last three steps
    assert policy.loss(BATCH, noise)[0].item() == pytest.approx(real.mean().item(), rel=1e-5)


def test_the_plan_is_cut_at_the_present_step():
    # a regression network that says 0, 1, 2, ... whatever it sees: the plan must begin at To - 1
    for n_obs_steps, n_action_steps in ((1, 8), (2, 8), (3, 5), (2, 15)):
        batch = random_batch(STATE, 4, n_obs_steps=n_obs_steps)
        policy = build("regression", STATE, batch, n_obs_steps=n_obs_steps, n_action_steps=n_action_steps, action_normalization="identity").eval()
        with torch.no_grad():
            policy.network.last.weight.zero_()
            policy.network.last.bias.copy_(torch.arange(16.0).repeat_interleave(4))
        plan, _ = act(policy, observation(batch), row_keys(0, np.arange(4)))
        expected = torch.arange(n_obs_steps - 1.0, n_obs_steps - 1 + n_action_steps)
        assert torch.equal(plan.actions, expected[None, :, None].expand(4, -1, 4))


def test_on_a_ramp_the_plan_begins_now():
    # state = time, action = time + 0.5: the first planned action belongs to the latest observation
    def batch_of(step: int, rows: int = 64):
        steps = Noise(row_keys(3, step * rows + np.arange(rows))).uniform(1) + 0.05 * torch.arange(-1, 15)
        batch = {n: v[:1].expand(rows, *v.shape[1:]).clone() for n, v in random_batch(STATE, 1).items()}
        batch["observation.state"] = steps[:, :2, None].expand(-1, -1, 3).contiguous()
        batch["action"] = steps[..., None].expand(-1, -1, 4).contiguous() + 0.5
        return batch

    policy = build("regression", STATE, batch_of(0, 4096))
    train(policy, batch_of, 200, lr=5e-3)
    test = batch_of(1000)
    plan, _ = act(policy, observation(test), row_keys(0, np.arange(64)))
    errors = [(plan.actions - test["action"][:, first : first + 8]).abs().mean().item() for first in (0, 1, 2)]
    assert errors[1] < 0.01 and min(errors[0], errors[2]) > 0.04


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_config_make_the_same_policy_again(name):
    policy = build(name, STATE, BATCH).eval()
    again = registry.create(name, policy.config, policy.spec, policy.normalizer).eval()
    again.load_state_dict(policy.state_dict())
    keys = row_keys(0, np.arange(8))
    assert torch.equal(act(again, observation(BATCH), keys)[0].actions, act(policy, observation(BATCH), keys)[0].actions)
    assert not any(key.startswith("normalizer") for key in policy.state_dict())
    assert torch.equal(act(copy.deepcopy(policy), observation(BATCH), keys)[0].actions, act(policy, observation(BATCH), keys)[0].actions)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_biases_norms_and_positions_do_not_decay(backbone):
    policy = build("flow", IMAGE, random_batch(IMAGE, 2), backbone=backbone)
    decayed, kept = policy.parameter_groups(0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): n for n, p in policy.named_parameters()}
    assert sorted(names[id(p)] for g in (decayed, kept) for p in g["params"]) == sorted(names.values())
    still = {names[id(p)] for p in kept["params"]}
    assert all(n in still for n in names.values() if n.endswith("bias") or "position" in n)
    assert all(p.ndim >= 2 for p in decayed["params"])


def test_an_execution_is_taken():
    policy = build("flow", STATE, BATCH).eval()
    plan, _ = policy.act(observation(BATCH), {}, Noise(row_keys(0, np.arange(8))), Execution(delay=1, frozen=2))
    assert plan.actions.shape == (8, 8, 4)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"horizon": 8, "n_action_steps": 8}, "horizon 8: expected at least n_obs_steps - 1 + n_action_steps = 9"),
        ({"horizon": 15, "backbone": "unet"}, "horizon 15: a U-Net with 2 levels needs a multiple of 2"),
        ({"n_obs_steps": 1, "horizon": 2, "n_action_steps": 1, "backbone": "unet", "unet": {"channels": [8, 16]}}, "unet.groups 8: each would be one number"),
        ({"n_obs_steps": 0}, "n_obs_steps"),
        ({"backbone": "unett"}, "'mlp', 'unet' or 'transformer'"),
        ({"widht": 3}, "widht"),
        ({"actions": "relative"}, "'absolute', 'delta' or 'chunk_relative'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_configs_that_cannot_be_are_refused(name, options, words):
    with pytest.raises(pydantic.ValidationError) as error:
        registry.config_class(name)(**options)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"observations": ["observation.stat"]}, "'observation.stat' does not exist; did you mean 'observation.state'"),
        ({"observations": []}, "no observation field to read"),
        ({"actions": "delta"}, "needs a reference"),
        (
            {"actions": "delta", "action_reference": {"position": "observation.state"}, "observations": ["observation.environment_state"]},
            "'observation.state', which observations leaves out",
        ),
        ({"actions": "delta", "action_reference": {"positon": "observation.state"}}, "did you mean 'position'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_specs_that_do_not_fit_are_refused(name, options, words):
    with pytest.raises(InputError) as error:
        build(name, STATE, BATCH, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_field_that_was_not_fitted_is_refused_at_once(name):
    kind = registry.policy_class(name)
    whole = kind.fit_normalizer(kind.Config(), STATE, stats_of(BATCH, STATE), []).tensors()
    without = Normalizer.from_tensors({k: v for k, v in whole.items() if not k.startswith("observation.state")})
    with pytest.raises(InputError, match=r"'observation\.state' was not fitted"):
        registry.create(name, kind.Config(**SMALL), STATE, without)


@pytest.mark.parametrize("name", NAMES)
def test_observations_that_do_not_fit_are_refused(name):
    policy = build(name, STATE, BATCH).eval()
    obs = observation(BATCH)
    for changed, words in (
        ({"observation.state": obs["observation.state"]}, "lacks field 'observation.environment_state'"),
        ({**obs, "observation.state": obs["observation.state"][:, :1]}, "expected shape (8, 2, 3), found (8, 1, 3)"),
        ({**obs, "observation.state": obs["observation.state"].double()}, "expected dtype float32, found torch.float64"),
    ):
        with pytest.raises(SpecMismatch) as error:
            act(policy, changed, row_keys(0, np.arange(8)))
        assert words in str(error.value)
