"""A policy that reads an instruction is served like any other: the bytes cross the wire, and decide what it does."""

from __future__ import annotations

import numpy as np
import torch

from policies.noise import row_keys
from real.policy import act_numpy
from tests.policies.test_text import padded, policy


def test_an_instruction_that_is_served_equals_one_that_is_local(serve, connect):
    client = connect(serve(policy()).address, streams=3)
    said = padded(["open it", "close it", "go"], 24).numpy()[:, None].repeat(2, 1)
    obs = {"observation.state": torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)).numpy(), "observation.text": said}
    keys = row_keys(7, np.arange(3), 0)
    served, _ = client.act(obs, client.initial_state(3), keys)
    local, _ = act_numpy(policy(), obs, policy().initial_state(3), keys)
    np.testing.assert_allclose(served.actions, local.actions, atol=1e-5, rtol=0)
    other, _ = client.act({**obs, "observation.text": said[::-1].copy()}, client.initial_state(3), keys)
    assert np.abs(other.actions[0] - served.actions[0]).max() > 1e-3
