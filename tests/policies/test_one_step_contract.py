"""What every policy of one step is held to (those that are not ``ChunkPolicy``): a new file in ``policies/`` is picked up here by itself."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pydantic
import pytest
import torch

from policies import checkpoint, registry
from policies.base import Policy
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer, limits_normalizer
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, SpecMismatch
from real.client import PolicyClient
from real.server import PolicyServer
from tests.policies.toy import CAMERA, IMAGE, STATE, random_batch, stats_of, train

NAMES = tuple(sorted(set(registry.policy_names()) - set(registry.chunk_policy_names())))
#: What else a policy can be told that changes how it acts: name -> configs.
VARIANTS = [(name, {}) for name in NAMES] + [
    ("gaussian", {"stochastic": True}),
    ("gaussian", {"squash": True, "deviation": "observed"}),
    ("gaussian", {"squash": True, "stochastic": True}),
    ("gaussian", {"memory": {"type": "gru", "width": 16}}),
    ("gaussian", {"memory": {"type": "transformer", "width": 16, "window": 4}}),
]
variants = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "default")
names = pytest.mark.parametrize("name", NAMES)
KEYS = row_keys(0, np.arange(8))
SMALL_IMAGE = {"channels": [8, 16], "features": 8, "keypoints": 4}


def build(name, spec=STATE, seed=0, **options):
    """Return a policy in eval mode whose outputs are not nearly zero (the last layer of a fresh one is)."""
    kind = registry.policy_class(name)
    config = kind.Config(**{"hidden": [16, 16], "image": SMALL_IMAGE, **options})
    batch = random_batch(spec, 64, horizon=1, n_obs_steps=1)
    torch.manual_seed(seed)
    policy = registry.create(name, config, spec, kind.fit_normalizer(config, spec, stats_of(batch, spec), [batch]))
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy.eval()


def batch_of(spec=STATE, rows=8, seed=1):
    return random_batch(spec, rows, horizon=1, n_obs_steps=1, seed=seed)


def observed(spec=STATE, rows=8, seed=1):
    return {n: v for n, v in batch_of(spec, rows, seed).items() if not n.startswith("action")}


def act(policy, obs, keys=KEYS, state=None):
    return policy.act(obs, policy.initial_state(len(keys)) if state is None else state, Noise(keys))


@variants
def test_a_plan_has_the_agreed_form(name, options):
    policy = build(name, **options)
    assert isinstance(policy, Policy)
    assert (policy.n_obs_steps, policy.horizon, policy.n_action_steps) == (1, 1, 1) == type(policy).window(policy.config)
    plan, state = act(policy, observed())
    assert plan.actions.shape == (8, 1, 4) and plan.actions.dtype == torch.float32 and torch.isfinite(plan.actions).all()
    assert not plan.actions.requires_grad and isinstance(state, dict)
    assert all(len(part) == 8 for part in state.values())  # one row a stream
    for value in plan.info.values():
        assert value.shape == (8,) and value.dtype == torch.float32 and torch.isfinite(value).all()
    assert plan.info["network_calls"].unique().tolist() == [1.0]


@variants
def test_the_same_noise_gives_the_same_bits(name, options):
    policy = build(name, **options)
    assert torch.equal(act(policy, observed())[0].actions, act(policy, observed())[0].actions)
    if not policy.initial_state(1):  # demonstrations are learnt from one step at a time, so not by what remembers
        losses = [policy.loss(batch_of(), Noise(KEYS))[0] for _ in range(2)]
        assert torch.equal(*losses)


@variants
def test_other_noise_changes_what_draws_and_nothing_else(name, options):
    policy = build(name, **options)
    other = act(policy, observed(), row_keys(1, np.arange(8)))[0].actions
    assert torch.equal(other, act(policy, observed())[0].actions) != bool(options.get("stochastic"))


@variants
def test_a_row_does_not_depend_on_its_batch(name, options):
    policy = build(name, **options)
    whole = act(policy, observed())[0].actions
    for row in (0, 3, 7):
        alone = act(policy, {n: v[row : row + 1] for n, v in observed().items()}, KEYS[row : row + 1])[0].actions
        assert (alone[0] - whole[row]).abs().max() < 1e-6 * max(1.0, float(whole.abs().max()))


@variants
def test_reset_begins_masked_rows_anew(name, options):
    policy = build(name, **options)
    fresh = act(policy, observed())[0].actions
    _, state = act(policy, observed())
    _, state = act(policy, observed(seed=2), state=state)
    kept = act(policy, observed(), state=state)[0].actions
    again = act(policy, observed(), state=policy.reset(state, torch.arange(8) < 4))[0].actions
    assert torch.equal(again[:4], fresh[:4]) and torch.equal(again[4:], kept[4:])
    assert torch.equal(kept, fresh) == (not state)  # what is remembered matters


@variants
def test_a_checkpoint_acts_bit_for_bit_like_what_was_saved(name, options, tmp_path):
    policy = build(name, **options)
    folder = checkpoint.save(tmp_path / "saved", policy, recipe={"task": "toy"}, extra={})
    again = checkpoint.load(folder)
    assert type(again) is type(policy) and again.config == policy.config and again.spec == policy.spec and not again.training
    state, theirs = policy.initial_state(8), again.initial_state(8)
    for seed in (1, 2, 3):
        mine, state = act(policy, observed(seed=seed), state=state)
        plan, theirs = act(again, observed(seed=seed), state=theirs)
        assert torch.equal(plan.actions, mine.actions) and all(torch.equal(plan.info[k], mine.info[k]) for k in mine.info)


@variants
def test_weights_and_config_make_the_same_policy_again(name, options):
    policy = build(name, **options)
    again = registry.create(name, policy.config, policy.spec, policy.normalizer).eval()
    again.load_state_dict(policy.state_dict())
    assert torch.equal(act(again, observed())[0].actions, act(policy, observed())[0].actions)
    assert not any(key.startswith("normalizer") for key in policy.state_dict())
    assert torch.equal(act(copy.deepcopy(policy), observed())[0].actions, act(policy, observed())[0].actions)


@variants
def test_a_server_acts_like_the_policy_itself(name, options):
    policy = build(name, **options)
    server, stop = PolicyServer(policy, "tcp://127.0.0.1:0", stats_s=0, log=lambda line: None), threading.Event()
    thread = threading.Thread(target=server.serve, args=(stop.is_set, 0.02), daemon=True)
    thread.start()
    client = PolicyClient(server.address, streams=3, connect_s=30)
    try:
        assert (client.n_obs_steps, client.n_action_steps) == (1, 1)
        mine, theirs = policy.initial_state(3), client.initial_state(3)
        for call in range(3):
            obs, keys = observed(rows=3, seed=call), row_keys(0, np.arange(3), call)
            plan, mine = policy.act(obs, mine, Noise(keys))
            served, theirs = client.act({n: v.numpy() for n, v in obs.items()}, theirs, keys)
            assert np.array_equal(plan.actions.numpy(), served.actions)
    finally:
        client.close()
        stop.set()
        thread.join(30)


# --- learning from demonstrations --------------------------------------------------------------------------------------


@names
def test_loss_is_a_finite_scalar_that_trains_every_weight(name):
    policy = build(name)
    loss, metrics = policy.loss(batch_of(), Noise(KEYS))
    assert loss.shape == () and torch.isfinite(loss) and all(torch.as_tensor(v).shape == () for v in metrics.values())
    loss.backward()
    assert {n for n, p in policy.named_parameters() if p.grad is None} == set()
    again, metrics = policy.loss({**batch_of(), "task_index": torch.arange(8)}, Noise(KEYS))
    assert torch.equal(again, loss) and torch.allclose(metrics["row_errors"].mean(), metrics["mse"])


@pytest.mark.parametrize(("name", "options"), [(n, {}) for n in NAMES] + [("gaussian", {"squash": True})])
def test_it_learns_what_was_demonstrated(name, options):
    def demonstrated(step):
        batch = batch_of(rows=128, seed=step)
        batch["action"] = 0.8 * torch.tanh(batch["observation.state"][..., :1] * torch.tensor([1.0, -1.0, 0.5, 2.0]))
        return batch

    kind = registry.policy_class(name)
    config = kind.Config(hidden=[32, 32], **options)
    torch.manual_seed(0)
    policy = registry.create(name, config, STATE, kind.fit_normalizer(config, STATE, stats_of(demonstrated(0), STATE), []))
    test = demonstrated(10_000)
    keys, obs = row_keys(0, np.arange(128)), {n: v for n, v in test.items() if not n.startswith("action")}
    before = (act(policy, obs, keys)[0].actions - test["action"]).square().mean()
    train(policy, lambda step: demonstrated(step + 1), 250, lr=5e-3)
    assert (act(policy, obs, keys)[0].actions - test["action"]).square().mean() < 0.1 * before


@names
def test_images_are_seen(name):
    batch = batch_of(IMAGE, 4)
    policy = build(name, IMAGE).train()
    policy.loss(batch, Noise(KEYS[:4]))[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in policy.encoder.cameras.parameters())
    policy.eval()
    before = act(policy, observed(IMAGE, 4), KEYS[:4])[0].actions
    dark = {**observed(IMAGE, 4), CAMERA: torch.zeros_like(batch[CAMERA])}
    assert (act(policy, dark, KEYS[:4])[0].actions - before).abs().max() > 1e-5


@names
def test_biases_and_free_deviations_do_not_decay(name):
    policy = build(name, IMAGE)
    decayed, kept = policy.parameter_groups(0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim >= 2 for p in decayed["params"]) and all(p.ndim < 2 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(policy.parameters()))


# --- learning by trial -------------------------------------------------------------------------------------------------

LIMITED = Spec(STATE.observation, ActionSpec({"position": Field((3,), low=[-2, 0, 1], high=[2, 4, 3], kind="position"), "gripper": Field((1,), low=0, high=1)}))


@names
def test_normalised_actions_are_the_limits(name):
    policy = registry.create(name, registry.config_class(name)(hidden=[8]), LIMITED, limits_normalizer(LIMITED)).eval()
    corners = torch.tensor([[-1.0] * 4, [0.0] * 4, [1.0] * 4])
    assert policy.normalizer.unnormalize("action", corners).tolist() == [[-2, 0, 1, 0], [0, 2, 2, 0.5], [2, 4, 3, 1]]
    actions = act(policy, observed())[0].actions
    assert (actions >= torch.from_numpy(LIMITED.action.low)).all() and (actions <= torch.from_numpy(LIMITED.action.high)).all()


@names
def test_statistics_of_observations_can_go_on(name):
    policy = build(name)
    before = act(policy, observed())[0].actions
    policy.normalizer.refit("observation.state", torch.ones(3), torch.full((3,), 2.0))
    moved = {**observed(), "observation.state": observed()["observation.state"]}
    assert (act(policy, moved)[0].actions - before).abs().max() > 1e-4


@names
def test_actions_without_limits_are_refused_in_one_line(name):
    with pytest.raises(InputError, match="expected limits for all of them") as error:
        limits_normalizer(STATE)
    assert "\n" not in str(error.value)


# --- bad input -----------------------------------------------------------------------------------------------------------


@names
def test_observations_narrow_what_is_read(name):
    policy = build(name, IMAGE, observations=["observation.environment_state"])
    assert list(policy.spec.observation.fields) == ["observation.environment_state"] and policy.spec.action == IMAGE.action
    plan, _ = act(policy, {"observation.environment_state": torch.zeros(1, 1, 2)}, KEYS[:1])
    assert plan.actions.shape == (1, 1, 4)
    assert type(policy)(policy.config, policy.spec, policy.normalizer).spec == policy.spec  # from a checkpoint, which holds the narrowed spec


@names
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"observations": ["observation.stat"]}, "'observation.stat' does not exist; did you mean 'observation.state'"),
        ({"observations": []}, "no observation field to read"),
    ],
)
def test_specs_that_do_not_fit_are_refused(name, options, words):
    with pytest.raises(InputError) as error:
        build(name, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@names
@pytest.mark.parametrize(
    ("options", "words"), [({"hiden": [3]}, "hiden"), ({"hidden": []}, "hidden"), ({"hidden": [0]}, "hidden"), ({"activation": "tahn"}, "'tanh'")]
)
def test_configs_that_cannot_be_are_refused(name, options, words):
    with pytest.raises(pydantic.ValidationError) as error:
        registry.config_class(name)(**options)
    assert words in str(error.value)


@names
def test_a_field_that_was_not_fitted_is_refused_at_once(name):
    whole = limits_normalizer(LIMITED).tensors()
    for field in ("observation.state", "action"):
        without = Normalizer.from_tensors({k: v for k, v in whole.items() if not k.startswith(f"{field}.")})
        with pytest.raises(InputError, match=rf"'{field}' was not fitted"):
            registry.create(name, registry.config_class(name)(), LIMITED, without)


@names
def test_observations_that_do_not_fit_are_refused(name):
    policy, obs = build(name), observed()
    for changed, words in (
        ({"observation.state": obs["observation.state"]}, "lacks field 'observation.environment_state'"),
        ({**obs, "observation.state": obs["observation.state"][..., :2]}, "expected shape (8, 1, 3), found (8, 1, 2)"),
        ({**obs, "observation.state": obs["observation.state"].double()}, "expected dtype float32, found torch.float64"),
    ):
        with pytest.raises(SpecMismatch) as error:
            act(policy, changed)
        assert words in str(error.value)


def test_a_spec_of_states_alone_of_any_number_is_taken():
    spec = Spec(ObservationSpec({"a": Field((2, 3)), "b": Field(())}), ActionSpec({"action": Field((2,), low=-1, high=1)}))
    for name in NAMES:
        policy = registry.create(name, registry.config_class(name)(hidden=[8]), spec, limits_normalizer(spec)).eval()
        plan, _ = act(policy, {"a": torch.randn(4, 1, 2, 3), "b": torch.randn(4, 1)}, KEYS[:4])
        assert plan.actions.shape == (4, 1, 2)
