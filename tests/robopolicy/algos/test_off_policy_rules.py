"""What holds for every off-policy rule: exact repetition and resuming, importance, discounts, who sees what."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policies.noise import Noise, row_keys
from policies.spec import Field, InputError, ObservationSpec, Spec
from robopolicy.algos import registry
from robopolicy.algos.rule import OffPolicyRule
from robopolicy.training import trial_state
from tests.robopolicy.algos.off_policy_toys import STATE, noise, rule, spec, transitions

NAMES = sorted(n for n in registry.algo_names() if issubclass(registry.rule_class(n), OffPolicyRule))
OF = spec()
HIDDEN_FROM_POLICY, CAMERA = "observation.environment_state", "observation.images.front"
ASYMMETRIC = Spec(ObservationSpec({**OF.observation.fields, HIDDEN_FROM_POLICY: Field((2,))}), OF.action)
IMAGE = Spec(ObservationSpec({**OF.observation.fields, CAMERA: Field((16, 16, 3), "uint8", kind="image")}), OF.action)
TINY = {"channels": [8], "features": 4, "keypoints": 4}


def _weights(made: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in made.state_dict().items()}


def _run(made: Any, steps: range) -> None:
    for step in steps:
        made.update([transitions(made.spec, 8, seed=step), transitions(made.spec, 8, seed=100 + step)], noise(8, step=step))


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_all_five_are_known() -> None:
    assert set(NAMES) >= {"sac", "td3", "dsact", "rlpd", "off_policy_mdpo"}


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, first, second = rule(name, OF), rule(name, OF), rule(name, OF, seed=9)
    _run(whole, range(5))
    _run(first, range(3))
    parts = [{"rule": one, **one.optimizers()} for one in (first, second)]
    trial_state.save(tmp_path / "state.safetensors", parts[0], {})
    trial_state.load(tmp_path / "state.safetensors", parts[1])
    _run(second, range(3, 5))
    assert _equal(_weights(whole), _weights(second))
    assert not _equal(_weights(whole), _weights(first))


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_moves(name: str) -> None:
    """Critics, targets and policy change in four updates, and other noise makes other weights."""
    made, other = rule(name, OF), rule(name, OF)
    before = _weights(made)
    _run(made, range(2))
    after = _weights(made)
    assert [n for n in before if torch.equal(before[n], after[n]) and not n.startswith("previous.")] == []
    for step in range(2):
        other.update([transitions(OF, 8, seed=step), transitions(OF, 8, seed=100 + step)], noise(8, seed=5, step=step))
    assert not _equal(after, _weights(other))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_no_importance_teaches_the_critics_nothing(name: str) -> None:
    weight = torch.tensor([1.0] * 7 + [0.0])
    results = []
    for reward in (0.0, 100.0):
        made, batch = rule(name, OF), transitions(OF, 8, weight=weight)
        batch.reward[-1] = reward
        made.update([batch], noise(8))
        results.append(_weights(made.critics))
    assert _equal(*results)
    batch = transitions(OF, 8)
    batch.reward[-1] = 100.0
    made = rule(name, OF)
    made.update([batch], noise(8))
    assert not _equal(results[0], _weights(made.critics))


@pytest.mark.parametrize("name", NAMES)
def test_the_discount_is_used_as_it_is_given(name: str) -> None:
    """0 where the task ended; gamma^n after n steps: the target is linear in it, row by row."""
    made, standard = rule(name, OF), noise(8).normal(rule(name, OF).numbers)
    targets = {}
    for gamma in (0.0, 0.5, 0.99**3):
        batch = transitions(OF, 8, discount=torch.full((8,), gamma))
        with torch.no_grad():
            targets[gamma] = made.target(batch, made.see_next(batch.next_obs, noise(8)), standard)
    reward = transitions(OF, 8).reward
    torch.testing.assert_close(targets[0.0], reward.expand_as(targets[0.0]))
    torch.testing.assert_close((targets[0.99**3] - reward) / 0.99**3, (targets[0.5] - reward) / 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_exploring_stays_within_the_limits_and_rows_are_their_own(name: str) -> None:
    made, obs, keys = rule(name, OF), transitions(OF, 8).obs, row_keys(0, np.arange(8))
    whole = made.explore(obs, Noise(keys))
    assert whole.shape == (8, 2) and whole.abs().max() <= 1.0 and not whole.requires_grad
    assert len({round(float(v), 6) for v in whole.flatten()}) == 16
    alone = made.explore({STATE: obs[STATE][3:4]}, Noise(keys[3:4]))
    torch.testing.assert_close(alone[0], whole[3])


@pytest.mark.parametrize("name", NAMES)
def test_priorities_are_the_errors_of_all_batches_in_their_order(name: str) -> None:
    first, last = transitions(OF, 8, seed=1), transitions(OF, 8, seed=2)
    first.reward[3], last.reward[4] = 500.0, 1000.0
    priority = rule(name, OF).update([first, last], noise(8)).priority
    assert priority.shape == (16,) and priority.topk(2).indices.tolist() == [12, 3]


@pytest.mark.parametrize("name", NAMES)
def test_chunks_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^training.replay.chunk: .* expected chunk 1, found 6 numbers an action, not 2$"):
        rule(name, OF).update([transitions(OF, 8, action=torch.zeros(8, 6))], noise(8))


@pytest.mark.parametrize("name", NAMES)
def test_critics_read_what_the_policy_does_not(name: str) -> None:
    made = rule(name, ASYMMETRIC, policy={"observations": [STATE]})
    _run(made, range(2))
    obs, action = transitions(ASYMMETRIC, 8).obs, torch.zeros(8, 2)
    moved = {**obs, HIDDEN_FROM_POLICY: obs[HIDDEN_FROM_POLICY] + 1.0}
    assert torch.equal(made.explore(obs, noise(8)), made.explore(moved, noise(8)))
    assert (made.value(obs, action, noise(8)) - made.value(moved, action, noise(8))).abs().min() > 0.0


@pytest.mark.parametrize("name", NAMES)
def test_images_train_the_encoder_through_the_critics_alone(name: str) -> None:
    made = rule(name, IMAGE, policy={"image": {**TINY, "shift": 2}})
    before = _weights(made)
    _run(made, range(1))
    after = _weights(made)
    idle = [n for n in before if torch.equal(before[n], after[n]) and "bias" not in n and not n.startswith("previous.")]
    assert idle == [] and any(n.startswith("target_encoders.0.cameras") for n in after)
    encoders = {id(p) for p in made.policy.encoder.parameters()}
    held = {k: {id(p) for g in o.param_groups for p in g["params"]} for k, o in made.optimizers().items()}
    assert encoders <= held["critic"] and not encoders & held["actor"]
    obs = transitions(IMAGE, 8).obs
    made.policy.train()
    assert torch.equal(made.explore(obs, noise(8)), made.explore(obs, noise(8)))


def test_the_policy_of_rlpd_learns_once_from_many_batches() -> None:
    batches = [transitions(OF, 8, seed=s) for s in range(6)]
    for name, steps in (("rlpd", 1), ("sac", 6), ("td3", 3), ("dsact", 3)):
        made = rule(name, OF)
        made.update(batches, noise(8))
        counts = {key: float(next(iter(o.state.values()))["step"]) for key, o in made.optimizers().items()}
        assert counts == {"critic": 6.0, "actor": float(steps)}, name


def test_delays_count_on_across_calls() -> None:
    made = rule("td3", OF)
    said = [made.update([transitions(OF, 8, seed=s)], noise(8, step=s)).metrics for s in range(4)]
    assert ["actor_loss" in metrics for metrics in said] == [False, True, False, True]


def test_mdpo_takes_the_new_policy_every_so_many_updates() -> None:
    made = rule("off_policy_mdpo", OF, policy_steps=3)
    equal = []
    for step in range(6):
        made.update([transitions(OF, 8, seed=step)], noise(8, step=step))
        pairs = zip(made.previous.parameters(), made.policy.parameters(), strict=True)
        equal.append(all(torch.equal(a, b) for a, b in pairs))
    assert equal == [False, False, True, False, False, True]


def test_rlpd_refuses_a_subset_larger_than_its_ensemble() -> None:
    with pytest.raises(InputError, match=r"algo.subset: expected at most algo.members \(3\), found 4"):
        rule("rlpd", OF, members=3, subset=4)


def test_policies_that_remember_are_refused() -> None:
    with pytest.raises(InputError, match="use memory none"):
        rule("sac", OF, policy={"memory": {"type": "gru"}})


@pytest.mark.parametrize("name", NAMES)
def test_compiled_losses_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by dynamo and run as they are; generating kernels takes a minute a rule and is torch's own affair."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compiler(f, backend="eager"))
    plain, traced = rule(name, OF), rule(name, OF, compile=True)
    for made in (plain, traced):
        _run(made, range(2))
    for (key, a), b in zip(_weights(plain).items(), itertools.chain(_weights(traced).values()), strict=True):
        torch.testing.assert_close(a, b, msg=key)
