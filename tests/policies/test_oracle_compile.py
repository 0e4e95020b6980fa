"""A whole walk, from noise to a plan, runs unchanged under torch.compile: one graph, the same numbers."""

import numpy as np
import pytest
import torch

from policies.generative.policy import WarmStart
from policies.noise import Noise, row_keys
from tests.policies.toy import STATE, build, random_batch

KEYS = row_keys(0, np.arange(4))
CASES = {
    "diffusion ddim": ("diffusion", {"steps": 4}),
    "diffusion ddpm": ("diffusion", {"steps": 4, "sampler": "ddpm"}),
    "flow euler": ("flow", {"steps": 4}),
    "flow heun": ("flow", {"steps": 3, "solver": "heun"}),
}


def small(name: str, options: dict):
    policy = build(name, STATE, random_batch(STATE, 8), mlp={"width": 16, "blocks": 1, "clock_features": 8}, **options).eval()
    condition = Noise(row_keys(1, np.arange(4))).normal(2, 5)
    return policy, condition


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)
def test_a_walk_is_one_graph(name, options, backend):
    policy, condition = small(name, options)
    compiled = torch.compile(lambda c: policy.walk(c, Noise(KEYS))[0], fullgraph=True, backend=backend)
    assert (compiled(condition) - policy.walk(condition, Noise(KEYS))[0]).abs().max() < 1e-5


def test_a_warm_start_is_one_graph():
    policy, condition = small("diffusion", {"sampler": "ddpm"})
    plan = Noise(row_keys(2, np.arange(4))).normal(16, 4)

    def walk(c, plan):
        return policy.walk(c, Noise(KEYS), start=WarmStart(plan, (5, 2, 0, -1)))[0]

    assert (torch.compile(walk, fullgraph=True, backend="aot_eager")(condition, plan) - walk(condition, plan)).abs().max() < 1e-5


def test_other_noise_needs_no_other_graph():
    # the noise is data of the graph, not a constant in it
    policy, condition = small("diffusion", {"steps": 4, "sampler": "ddpm"})
    counter = torch._dynamo.testing.CompileCounter()

    def walk(c, keys):
        return policy.walk(c, Noise(keys))[0]

    compiled = torch.compile(walk, fullgraph=True, backend=counter)
    for seed in (0, 1):
        keys = torch.from_numpy(row_keys(seed, np.arange(4)))
        assert (compiled(condition, keys) - walk(condition, keys)).abs().max() < 1e-5
    assert counter.frame_count == 1


@pytest.mark.soak  # minutes of compiling on a busy machine
@pytest.mark.parametrize("name", ["diffusion", "flow"])
def test_a_walk_runs_as_machine_code(name):
    policy, condition = small(name, {"steps": 4})
    compiled = torch.compile(lambda c: policy.walk(c, Noise(KEYS))[0], fullgraph=True)
    assert (compiled(condition) - policy.walk(condition, Noise(KEYS))[0]).abs().max() < 1e-5
