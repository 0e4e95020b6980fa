"""Few-step policies against DDIM on two routes: same network, data and updates, at 1, 2 and 4 calls. Fixed seeds, trained in seconds."""

import pytest

from tests.policies.few_step_tasks import ROUTES, ROUTES_CONFIG, routes_batch, routes_success
from tests.policies.toy import build, train

UPDATES = 500
CALLS = (1, 2, 4)


def trained(name, teacher=None, **config):
    policy = build(name, ROUTES, routes_batch(0, 4096), **{**ROUTES_CONFIG, **config})
    if teacher is not None:
        policy.follow(teacher)
    train(policy, routes_batch, UPDATES, lr=3e-3)
    return policy


def successes(policy):
    """Return calls -> (success, share on the right); a policy of one call has no ``steps``."""
    found = {}
    for calls in CALLS if hasattr(policy.config, "steps") else (1,):
        if calls > 1:
            policy.config.steps = calls
        found[calls] = routes_success(policy)
    return found


@pytest.fixture(scope="module")
def teacher():
    policy = trained("flow")
    policy.config.steps = 10
    return policy


@pytest.fixture(scope="module")
def ddim():
    policy = trained("diffusion")
    policy.config.steps = 1
    found = {1: routes_success(policy)}
    for calls in (2, 4):
        policy.config.steps = calls
        found[calls] = routes_success(policy)
    return found


@pytest.mark.parametrize(
    ("name", "taught"),
    [
        ("consistency", False),
        ("meanflow", False),
        pytest.param("consistency", True, marks=pytest.mark.soak),  # always run: their losses by hand, in test_consistency and test_onestep
        pytest.param("onestep", True, marks=pytest.mark.soak),
    ],
)
def test_better_than_ddim_at_equal_calls_and_at_four(name, taught, request, ddim):
    policy = trained(name, request.getfixturevalue("teacher") if taught else None)
    found = successes(policy)
    for calls, (success, right) in found.items():
        assert success > ddim[calls][0] + 0.1, (calls, found, ddim)
        assert 0.35 < right < 0.65, (calls, found)
    assert found[1][0] > max(rate for rate, _ in ddim.values()), (found, ddim)
