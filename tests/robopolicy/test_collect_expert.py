"""A trained policy demonstrates: what it does is what is recorded, for any number of workers, and only what was worth it is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.gaussian import GaussianConfig, GaussianPolicy
from policies.normalize import limits_normalizer
from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.data import layout
from robopolicy.data.collect import Disturbing, collect
from robopolicy.data.dataset import Dataset
from sim import registry
from sim.suites.classic.cartpole import GAINS

TASK, STEPS = "classic/cartpole", 120


@pytest.fixture(scope="module")
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose mean is the linear feedback that keeps the pole up, through a tanh that is nearly linear; it draws a fifth around it."""
    spec = registry.make(TASK).spec
    policy = GaussianPolicy(GaussianConfig(hidden=[1], initial_std=0.2), spec, limits_normalizer(spec))
    layers = [module for module in policy.network if isinstance(module, torch.nn.Linear)]
    with torch.no_grad():
        for layer in layers:
            layer.bias.zero_()
        layers[0].weight[:] = torch.as_tensor(GAINS / 10 * 1e-3, dtype=torch.float32)
        layers[1].weight[:] = 1e3
    folder = tmp_path_factory.mktemp("balancer") / "checkpoint"
    return checkpoint.save(folder, policy, recipe={"task": TASK, "env": {"observations": "state"}}, extra={})


def of(path: Path) -> Dataset:
    return Dataset.open(path)


def test_what_the_policy_does_is_recorded(balancer: Path, tmp_path: Path) -> None:
    done = collect(TASK, tmp_path / "set", 3, workers=1, progress=False, expert=balancer, act="mean", max_episode_steps=STEPS)
    dataset = of(done.path)
    assert done.episodes == 3 and dataset.success.all() and dataset.seeds.tolist() == [0, 1, 2]
    wanted = np.clip(dataset.arrays["observation.state"].astype(np.float64) @ GAINS / 10, -1, 1)
    np.testing.assert_allclose(dataset.arrays["action"][:, 0], wanted, atol=1e-4)
    kept = (layout.read_own(done.path) or {})["provenance"]["collect"]["expert"]
    assert kept == {"policy": "gaussian", "hash": checkpoint.fingerprint(balancer), "act": "mean"}


def test_the_same_for_any_number_of_workers_and_after_an_interruption(balancer: Path, tmp_path: Path) -> None:
    """Drawing, more than one block of seeds, with noise: the policy's own noise is keyed by the seed of the episode."""
    settings = {"progress": False, "expert": balancer, "act": "sample", "noise": 0.1, "max_episode_steps": 30, "only_success": False}
    for name, counts, workers in (("one", (20,), 1), ("two", (20,), 2), ("parts", (7, 20), 1)):
        for episodes in counts:
            collect(TASK, tmp_path / name, episodes, workers=workers, **settings)
    one, two, parts = (of(tmp_path / name) for name in ("one", "two", "parts"))
    assert one.fingerprint == two.fingerprint == parts.fingerprint and one.num_episodes == 20
    off = one.arrays["action"][:, 0] - np.clip(one.arrays["observation.state"].astype(np.float64) @ GAINS / 10, -1, 1)
    assert 0.1 < off.std() < 0.3, "drawn, not the mean"
    with pytest.raises(InputError, match="collected with expert"):
        collect(TASK, tmp_path / "one", 20, workers=1, **{**settings, "act": "mean"})


def test_only_returns_above_the_threshold_are_kept_and_whole(balancer: Path, tmp_path: Path) -> None:
    settings = {"workers": 1, "progress": False, "expert": balancer, "act": "mean", "max_episode_steps": STEPS}
    every = of(collect(TASK, tmp_path / "all", 16, only_success=False, **settings, extra_steps=STEPS).path)
    returns = np.add.reduceat(every.arrays["next.reward"][:, 0].astype(np.float64), every.episode_starts[:-1])
    threshold = float(np.sort(returns)[8] - 1e-9)
    done = collect(TASK, tmp_path / "best", 6, min_return=threshold, **settings)
    best = of(done.path)
    assert best.seeds.tolist() == np.flatnonzero(returns >= threshold)[:6].tolist()
    assert np.diff(best.episode_starts).tolist() == [STEPS] * 6, "success in the 100th step cuts nothing"
    with pytest.raises(InputError, match=r"no episode of classic/cartpole reached a return of 1e\+06 in 100"):
        collect(TASK, tmp_path / "never", 2, min_return=1e6, **{**settings, "max_episode_steps": 3})


def test_a_policy_recovers_too(balancer: Path, tmp_path: Path) -> None:
    disturbing = Disturbing(1.0, steps=4, within=40)
    done = collect(TASK, tmp_path / "set", 2, workers=1, progress=False, expert=balancer, act="mean", recovery=disturbing, max_episode_steps=STEPS)
    dataset = of(done.path)
    begun = dataset.arrays["step"][dataset.episode_starts[:-1], 0]
    assert (begun >= 2).all() and (begun <= 44).all() and dataset.success.all()


def test_chunks_are_executed_as_in_an_evaluation(tmp_path: Path) -> None:
    """A flow policy, trained for a moment: the recorded actions are those that an evaluation commands from the same seed."""
    from robopolicy.evaluation.blocks import PolicyPlanner, run_block
    from robopolicy.execution import load_policy
    from robopolicy.training.imitation import train
    from tests.robopolicy.small_runs import recipe

    train(recipe(tmp_path / "run", steps=7), progress=False)
    settings = {"workers": 1, "progress": False, "expert": tmp_path / "run", "max_episode_steps": 40, "only_success": False}
    dataset = of(collect("two-route", tmp_path / "set", 16, **settings).path)
    env = registry.make("two-route", 16, max_episode_steps=40)
    told = run_block(env, PolicyPlanner(load_policy(str(next((tmp_path / "run").glob("checkpoints/*")))), 0), np.arange(16), 0)
    env.close()
    for e in range(16):
        np.testing.assert_array_equal(dataset.episode(e)["action"], env.spec.action.clip(told.actions[e]))
    with pytest.raises(InputError, match=r"--mean: policy 'flow' of .* has no distribution"):
        collect("two-route", tmp_path / "other", 1, act="mean", **settings)


def test_what_cannot_demonstrate_is_one_line(balancer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["-n", "1", "--workers", "1", "--out", str(tmp_path / "set")]
    for words, told in (
        ([TASK, "--expert", str(tmp_path / "nobody")], "no such checkpoint or run"),
        (["two-route", "--expert", str(balancer)], "observation.state"),
        ([TASK, "--sample"], "give it with --expert"),
        (["gymnasium/hopper"], "let a trained policy demonstrate"),
        ([TASK, "--recovery-steps", "3"], "give --recovery CHANCE too"),
        ([TASK, "--merge"], "--merge goes with --all"),
        ([TASK, "noise=3"], "'noise=3' changes a recipe: give it with --all"),
        ([TASK, "--all", "--noise", "0.1"], "noise=VALUE"),
    ):
        assert main(["collect", *words, *common[: 0 if "--all" in words else 6]]) == 2
        err = capsys.readouterr().err.strip()
        assert told in err and len(err.splitlines()) == 1, err
    assert not (tmp_path / "set").exists()
