"""The deterministic policy: within the limits, the same for the same row, a checkpoint like any other, and it can clone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.deterministic import DeterministicConfig, DeterministicPolicy
from policies.noise import Noise, row_keys
from policies.normalize import Normalizer, limits_normalizer
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec

STATE = "observation.state"
LOW, HIGH = (-2.0, 0.0), (4.0, 10.0)
SPEC = Spec(ObservationSpec({STATE: Field((3,)), "observation.environment_state": Field((2,))}), ActionSpec({"joints": Field((2,), low=LOW, high=HIGH)}))


def _policy(**config: object) -> DeterministicPolicy:
    torch.manual_seed(0)
    return DeterministicPolicy(DeterministicConfig(hidden=[32], **config), SPEC, limits_normalizer(SPEC))  # type: ignore[arg-type]


def _obs(rows: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, 1, *field.shape, generator=g) for name, field in SPEC.observation.fields.items()}


def test_actions_lie_within_the_limits_and_rows_are_their_own() -> None:
    policy, obs = _policy(), _obs(64)
    with torch.no_grad():
        list(policy.network.parameters())[-2].mul_(1000.0)  # the last layer's matrix
    plan, state = policy.act(obs, {}, Noise(row_keys(0, np.arange(64))))
    assert plan.actions.shape == (64, 1, 2) and state == {} and plan.info["network_calls"].tolist() == [1.0] * 64
    low, high = plan.actions.amin((0, 1)), plan.actions.amax((0, 1))
    torch.testing.assert_close(torch.stack([low, high]), torch.tensor([LOW, HIGH]), rtol=0.0, atol=0.3)
    assert (low >= torch.tensor(LOW)).all() and (high <= torch.tensor(HIGH)).all()
    alone, _ = policy.act({name: value[5:6] for name, value in obs.items()}, {}, Noise(row_keys(9, 0)))
    torch.testing.assert_close(alone.actions[0], plan.actions[5])


def test_it_clones_demonstrations() -> None:
    policy, obs = _policy(), _obs(256)
    wanted = torch.tanh(obs[STATE][..., :2]) * 3.0 + torch.tensor([1.0, 5.0])
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    begun = policy.loss({**obs, "action": wanted}, Noise(np.arange(256)))[0].item()
    loss = torch.tensor(begun)
    for _ in range(200):
        loss = policy.loss({**obs, "action": wanted}, Noise(np.arange(256)))[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01 * begun
    plan, _ = policy.act(obs, {}, Noise(np.arange(256)))
    assert (plan.actions - wanted).abs().mean() < 0.2


def test_a_checkpoint_gives_it_back(tmp_path: Path) -> None:
    policy, obs = _policy(observations=[STATE]), _obs(4)
    assert list(policy.spec.observation.fields) == [STATE]
    checkpoint.save(tmp_path / "one", policy, recipe={}, extra={})
    again = checkpoint.load(tmp_path / "one")
    seen = {STATE: obs[STATE]}
    assert torch.equal(again.act(seen, {}, Noise(np.arange(4)))[0].actions, policy.act(seen, {}, Noise(np.arange(4)))[0].actions)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="leave observations out"):
        _policy(observations=[])
    with pytest.raises(InputError, match="was not fitted"):
        DeterministicPolicy(DeterministicConfig(), SPEC, Normalizer())
