"""A policy that remembers is served like any other: its memory stays with the session, row by row."""

import numpy as np
import pytest
import torch

from policies import registry
from policies.gaussian import GaussianConfig
from policies.noise import row_keys
from policies.normalize import limits_normalizer
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.policy import act_numpy
from tests.real.sockets import observation

SPEC = Spec(ObservationSpec({"observation.state": Field((3,))}), ActionSpec({"push": Field((2,), low=(-1.0, -1.0), high=(1.0, 1.0), kind="effort")}))


def remembering(kind):
    torch.manual_seed(0)
    memory = {"type": kind, "width": 8, "layers": 2, "window": 3}
    policy = registry.create("gaussian", GaussianConfig.model_validate({"hidden": [8], "memory": memory}), SPEC, limits_normalizer(SPEC))
    for value in policy.parameters():
        torch.nn.init.normal_(value, std=0.5)
    return policy.eval()


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
def test_served_equals_local_over_calls_and_restarts(kind, serve, connect):
    policy = remembering(kind)
    server = serve(remembering(kind))
    clients = [connect(server.address, streams=3), connect(server.address)]
    ours = [client.initial_state(rows) for client, rows in zip(clients, (3, 1), strict=True)]
    theirs, first = [policy.initial_state(3), policy.initial_state(1)], {}
    for call in range(6):
        for k, rows in enumerate((3, 1)):
            obs, keys = observation(policy, rows, seed=k + 10 * (call % 4)), row_keys(7, np.arange(rows), call)  # in call 4 as in call 0
            if call == 4:
                mask = np.arange(rows) == 0
                ours[k], theirs[k] = clients[k].reset(ours[k], mask), policy.reset(theirs[k], mask)
            served, ours[k] = clients[k].act(obs, ours[k], keys)
            local, theirs[k] = act_numpy(policy, obs, theirs[k], keys)
            np.testing.assert_allclose(served.actions, local.actions, atol=1e-5, rtol=0)
            first.setdefault(k, served.actions)
            if call == 4:
                again = np.abs(served.actions - first[k]).max(axis=(1, 2)) < 1e-5
                assert again.tolist() == [row == 0 for row in range(rows)]
