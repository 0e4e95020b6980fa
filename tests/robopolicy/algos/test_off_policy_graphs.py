"""Updates recorded as CUDA graphs do what updates that are not do: on a GPU only."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from policies.noise import Noise
from robopolicy.algos.rule import Transitions
from tests.require import require
from tests.robopolicy.algos.off_policy_toys import noise, rule, spec, transitions


def _there(batch: Transitions) -> Transitions:
    """Return ``batch`` on the GPU."""
    moved: dict[str, Any] = {}
    for field in dataclasses.fields(Transitions):
        value = getattr(batch, field.name)
        moved[field.name] = value.cuda() if isinstance(value, torch.Tensor) else {name: tensor.cuda() for name, tensor in value.items()}
    return Transitions(**moved)


@pytest.mark.parametrize("name", ["sac", "td3", "dsact", "rlpd", "off_policy_mdpo"])
def test_a_recorded_update_is_the_update(name: str) -> None:
    require("gpu")
    of = spec()
    plain, recorded = (rule(name, of, device="cuda", graph=graph) for graph in (False, True))
    for step in range(12):
        batches = [_there(transitions(of, 32, seed=10 * step + s)) for s in range(2)]
        said = [made.update(batches, Noise(noise(32, step=step).keys, "cuda")) for made in (plain, recorded)]
        torch.testing.assert_close(said[0].metrics, said[1].metrics, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(said[0].priority, said[1].priority, rtol=1e-4, atol=1e-5)
    assert len(recorded._captured.recorded) == len({True} if name in ("sac", "off_policy_mdpo") else {True, False})
    for (key, a), b in zip(plain.state_dict().items(), recorded.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=key)
