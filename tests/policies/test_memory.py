"""Memories: one step after the other equals the whole sequence, streams begin anew alone, and what is remembered is enough."""

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import checkpoint, registry
from policies.export import to_onnx
from policies.gaussian import GaussianConfig, GaussianPolicy
from policies.networks.memory import MemoryConfig, build_memory
from policies.noise import Noise, row_keys
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from real.onnx import OnnxPolicy

SPEC = Spec(
    ObservationSpec({"observation.state": Field((3,))}),
    ActionSpec({"push": Field((2,), low=(-2.0, -1.0), high=(2.0, 3.0), kind="effort")}),
)
KINDS = ("gru", "lstm", "transformer")
STEPS, ROWS = 11, 4


def config(kind, layers=2, **more):
    return GaussianConfig.model_validate({"hidden": [16], "memory": {"type": kind, "width": 16, "layers": layers, "window": 4}, **more})


def build(kind, seed=0, **more):
    torch.manual_seed(seed)
    policy = registry.create("gaussian", config(kind, **more), SPEC, limits_normalizer(SPEC))
    assert isinstance(policy, GaussianPolicy)
    last = list(policy.network.parameters())[-2]
    torch.nn.init.normal_(last)  # so that what is remembered shows in the actions
    return policy


def stepped(policy, features, state, begun):
    means = []
    for x, anew in zip(features, begun, strict=True):
        law, state = policy.remember(x, policy.reset(state, anew))
        means.append(law.mean)
    return torch.stack(means), state


def features_of(seed, steps=STEPS):
    return torch.randn(steps, ROWS, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(pattern=st.lists(st.booleans(), min_size=STEPS * ROWS, max_size=STEPS * ROWS), seed=st.integers(0, 9))
def test_a_sequence_equals_its_steps_wherever_streams_begin(kind, pattern, seed):
    policy, begun = build(kind), torch.tensor(pattern).reshape(STEPS, ROWS)
    with torch.no_grad():
        _, state = stepped(policy, features_of(seed + 100, 7), policy.initial_state(ROWS), torch.zeros(7, ROWS, dtype=torch.bool))
        expected, _ = stepped(policy, features_of(seed), state, begun)
        found = policy.over(features_of(seed), state, begun)
    assert (found.mean - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_sequence_equal_those_of_its_steps(kind):
    begun = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    begun[5, 1] = begun[0, 2] = begun[10, 3] = True
    gradients = []
    for whole in (True, False):
        policy = build(kind)
        mean = (
            policy.over(features_of(1), policy.initial_state(ROWS), begun).mean
            if whole
            else stepped(policy, features_of(1), policy.initial_state(ROWS), begun)[0]
        )
        mean.square().sum().backward()
        gradients.append([p.grad for p in policy.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 5
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_past_matters_the_future_and_other_rows_do_not(kind):
    policy, none = build(kind), torch.zeros(STEPS, ROWS, dtype=torch.bool)
    first = features_of(0)
    changed = first.clone()
    changed[4, 1] += 1.0
    a, b = (policy.over(x, policy.initial_state(ROWS), none).mean for x in (first, changed))
    differs = ((a - b).abs() > 1e-6).any(-1)
    assert not differs[:4].any() and differs[4:7, 1].all() and not differs[:, [0, 2, 3]].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_begins_anew_is_a_fresh_one(kind):
    policy = build(kind)
    _, state = stepped(policy, features_of(0), policy.initial_state(ROWS), torch.zeros(STEPS, ROWS, dtype=torch.bool))
    x = features_of(1)[0]
    again = policy.remember(x, policy.reset(state, np.array([True, False, True, False])))[0].mean
    fresh, on = policy.remember(x, policy.initial_state(ROWS))[0].mean, policy.remember(x, state)[0].mean
    assert torch.equal(again[[0, 2]], fresh[[0, 2]]) and torch.equal(again[[1, 3]], on[[1, 3]])
    assert ((fresh - on).abs().amax(-1) > 1e-3).all()


def test_an_episode_leaves_nothing_to_the_next_one():
    begun = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    begun[6] = True
    for kind in KINDS:
        policy = build(kind)
        whole = policy.over(features_of(0), policy.initial_state(ROWS), begun).mean
        second = policy.over(features_of(0)[6:], policy.initial_state(ROWS), begun[6:]).mean
        assert (whole[6:] - second).abs().max() < 1e-5


def test_gru_and_lstm_are_their_equations():
    x = features_of(3, 5).numpy().astype(np.float64)
    sigmoid = lambda v: 1.0 / (1.0 + np.exp(-v))  # noqa: E731
    for kind in ("gru", "lstm"):
        torch.manual_seed(0)
        memory = build_memory(MemoryConfig(type=kind, width=6, layers=1), 3)
        assert memory is not None
        w = {name.removeprefix("cells.")[:-3]: value.detach().numpy().astype(np.float64) for name, value in memory.named_parameters()}
        h, c, out = np.zeros((ROWS, 6)), np.zeros((ROWS, 6)), []
        for now in x:
            given, before = now @ w["weight_ih"].T + w["bias_ih"], h @ w["weight_hh"].T + w["bias_hh"]
            if kind == "gru":
                (ir, iz, i_n), (hr, hz, hn) = np.split(given, 3, 1), np.split(before, 3, 1)
                z = sigmoid(iz + hz)
                h = (1 - z) * np.tanh(i_n + sigmoid(ir + hr) * hn) + z * h
            else:
                i, f, g, o = np.split(given + before, 4, 1)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            out.append(h)
        state = memory.fresh(ROWS, torch.device("cpu"))
        found = memory.over(torch.tensor(x, dtype=torch.float32), state, torch.zeros(5, ROWS, dtype=torch.bool))
        assert np.abs(found.detach().numpy() - np.array(out)).max() < 1e-5


def test_the_forget_gate_is_open_at_first_and_recurrent_matrices_are_orthogonal():
    lstm = build_memory(MemoryConfig(type="lstm", width=8), 3)
    assert lstm is not None
    values = {name: value.detach() for name, value in lstm.named_parameters()}
    assert torch.equal(values["cells.bias_ih_l0"], torch.tensor([0.0] * 8 + [1.0] * 8 + [0.0] * 16)) and not values["cells.bias_hh_l0"].any()
    for gate in values["cells.weight_hh_l0"].split(8):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)


def test_one_layer_of_a_transformer_sees_its_window_and_nothing_else():
    policy, none = build("transformer", layers=1), torch.zeros(STEPS, ROWS, dtype=torch.bool)
    mean = policy.over(features_of(0), policy.initial_state(ROWS), none).mean
    for t in range(3, STEPS):  # whoever was shown the last K steps alone does the same
        alone = policy.over(features_of(0)[t - 3 : t + 1], policy.initial_state(ROWS), none[:4]).mean[-1]
        assert (alone - mean[t]).abs().max() < 1e-5
        less = policy.over(features_of(0)[t - 2 : t + 1], policy.initial_state(ROWS), none[:3]).mean[-1]
        assert (less - mean[t]).abs().max() > 1e-4


def test_a_transformer_tells_the_order_of_what_it_saw():
    policy, none = build("transformer", layers=1), torch.zeros(3, ROWS, dtype=torch.bool)
    x = features_of(0)[:3]
    a, b = (policy.over(y, policy.initial_state(ROWS), none).mean[-1] for y in (x, x[[1, 0, 2]]))
    assert ((a - b).abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_acting_carries_the_state_one_row_a_stream(kind):
    policy = build(kind).eval()
    state, noise = policy.initial_state(ROWS), Noise(row_keys(0, np.arange(ROWS)))
    assert policy.recurrent and all(v.shape[0] == ROWS for v in state.values())
    alone, plans = [policy.initial_state(1) for _ in range(ROWS)], []
    for x in features_of(0):
        plan, state = policy.act({"observation.state": x[:, None]}, state, noise)
        plans.append(plan.actions)
        for row in range(ROWS):
            one, alone[row] = policy.act({"observation.state": x[row : row + 1, None]}, alone[row], Noise(row_keys(0, row)))
            assert (one.actions[0] - plan.actions[row]).abs().max() < 1e-5
    low, high = torch.tensor([-2.0, -1.0]), torch.tensor([2.0, 3.0])
    with torch.no_grad():
        mean = policy.over(features_of(0), policy.initial_state(ROWS), torch.zeros(STEPS, ROWS, dtype=torch.bool)).mean
    assert torch.allclose(torch.stack(plans)[:, :, 0], (low + high) / 2 + mean * (high - low) / 2, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_remembers_the_same(kind, tmp_path):
    policy = build(kind).eval()
    again = checkpoint.load(checkpoint.save(tmp_path / "c", policy, recipe={}, extra={}))
    assert isinstance(again, GaussianPolicy)
    begun = torch.zeros(STEPS, ROWS, dtype=torch.bool)
    means = [p.over(features_of(0), p.initial_state(ROWS), begun).mean for p in (policy, again)]
    assert torch.equal(*means)


def test_without_a_memory_nothing_changes():
    policy = build("none")
    assert not policy.recurrent and policy.initial_state(3) == {} == policy.reset({}, np.ones(3, bool))
    assert sorted(policy.state_dict()) == ["log_std", "network.0.bias", "network.0.weight", "network.2.bias", "network.2.weight"]
    x, begun = features_of(0), torch.zeros(STEPS, ROWS, dtype=torch.bool)
    law, state = policy.remember(x[0], {})
    assert state == {} and torch.equal(law.mean, policy.distribution(x[0]).mean)
    assert torch.equal(policy.over(x, {}, begun).mean, policy.distribution(x).mean)


def test_what_cannot_be_is_refused_in_one_line():
    with pytest.raises(pydantic.ValidationError, match="multiple of heads"):
        MemoryConfig(type="transformer", width=18)
    with pytest.raises(pydantic.ValidationError, match="window"):
        MemoryConfig(type="transformer", window=1)
    policy = build("gru")
    batch = {"observation.state": torch.zeros(2, 1, 3), "action": torch.zeros(2, 1, 2)}
    for ask in (lambda: policy.loss(batch, Noise(row_keys(0, 2))), lambda: policy.sample(torch.zeros(2, 3), torch.zeros(2, 2))):
        with pytest.raises(InputError, match=r"memory 'gru': only on-policy rules") as error:
            ask()
        assert "\n" not in str(error.value)


# --- a task that cannot be done without ------------------------------------------------------------------------------


def recall_error(kind, steps=250, length=8, seed=0):
    """Return the share of wrong answers: the sign shown at the first step is wanted at the last, noise is shown in between."""
    policy = build(kind, seed, layers=1)
    if kind == "transformer":
        policy = registry.create(
            "gaussian", config(kind).model_copy(update={"memory": MemoryConfig(type=kind, width=16, window=length)}), SPEC, limits_normalizer(SPEC)
        )
    assert isinstance(policy, GaussianPolicy)
    optimizer, begun = torch.optim.Adam(policy.parameters(), 5e-3), torch.zeros(length, 64, dtype=torch.bool)
    for step in range(steps + 1):
        noise = Noise(row_keys(seed, step, np.arange(64)))
        x, sign = 0.3 * noise.normal(length, 3).transpose(0, 1), noise.integers(2).float() * 2 - 1
        x[0, :, 0] = sign
        x[1:, :, 0] = 0.0
        mean = policy.over(x, policy.initial_state(64), begun).mean[-1, :, 0]
        if step == steps:
            return float((mean.sign() != sign).float().mean())
        optimizer.zero_grad()
        (mean - sign).square().mean().backward()
        optimizer.step()
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_shown_first_is_known_at_the_last_step(kind):
    assert recall_error(kind) < 0.05


def test_without_a_memory_it_is_not():
    assert recall_error("none", 100) > 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_policy_remembers_the_same(kind, tmp_path):
    policy = build(kind).eval()
    (tmp_path / "policy.onnx").write_bytes(to_onnx(policy, {}))
    file = OnnxPolicy(tmp_path / "policy.onnx")
    state, carried = policy.initial_state(ROWS), file.initial_state(ROWS)
    for step, x in enumerate(features_of(0)):
        mask = np.arange(ROWS) == step % 5
        state, carried = policy.reset(state, mask), file.reset(carried, mask)
        plan, state = policy.act({"observation.state": x[:, None]}, state, Noise(row_keys(0, np.arange(ROWS))))
        found, carried = file.act({"observation.state": x[:, None].numpy()}, carried, row_keys(0, np.arange(ROWS)))
        assert np.abs(found.actions - plan.actions.numpy()).max() < 1e-4
    assert file.batch is None and {n: v.dtype for n, v in carried.items()} == {n: v.numpy().dtype for n, v in state.items()}
