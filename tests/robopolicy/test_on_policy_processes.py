"""Two processes that share the worlds of on-policy learning do what one does: the same losses, ratios, returns and weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from policies.spec import InputError
from robopolicy.config import dump_yaml
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.launch import launch
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import find_checkpoint
from robopolicy.training.trial import train

WORLDS, ROLLOUT, ITERATIONS = 7, 16, 6  # 7: shares of 3 and 4 worlds
COMPARED = ("loss", "value_loss", "entropy", "kl", "ratio_deviation", "ratio_deviation_max", "grad_norm", "std", "lr", "reward", "return", "length", "episodes")


def _values(output: Path, **training: Any) -> dict[str, Any]:
    settings = {"worlds": WORLDS, "rollout": ROLLOUT, "epochs": 2, "minibatches": 3, "lr": 1e-3, "threads": 1, "log_every": 1, "checkpoint_every": 4}
    return {
        "task": "classic/cartpole",
        "env": {"max_episode_steps": 40},
        "output": str(output),
        "algo": {"type": "ppo"},
        "policy": {"type": "gaussian", "hidden": [16]},
        "training": {**settings, "steps": WORLDS * ROLLOUT * ITERATIONS, "critic": {"hidden": [16]}, **training},
    }


def _train_in_two(folder: Path, output: Path, **training: Any) -> int:
    recipe = folder / f"{output.name}.yaml"
    recipe.write_text(dump_yaml(_values(output, **training)))
    return launch([sys.executable, "-m", "robopolicy", "train", str(recipe), "--quiet"], 2)


def _rows(run: Path) -> list[dict[str, Any]]:
    return list(read_log(run, "train"))


def test_losses_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    extra = {"schedule": "adaptive", "normalize_rewards": True}
    one, two = tmp_path / "one", tmp_path / "two"
    train(recipe_from_dict(_values(one, **extra), "test"), progress=False)
    assert _train_in_two(tmp_path, two, **extra) == 0
    ours, theirs = _rows(two), _rows(one)
    assert [row["env_steps"] for row in ours] == [row["env_steps"] for row in theirs] == [WORLDS * ROLLOUT * (k + 1) for k in range(ITERATIONS)]
    for name in COMPARED:
        found, wanted = ([np.nan if row[name] is None else row[name] for row in rows] for rows in (ours, theirs))
        # the loss is a mean of numbers of size 1 that cancel: 1e-7 of those
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7, err_msg=name)
    ours_weights, their_weights = (load_file(find_checkpoint(run) / "weights.safetensors") for run in (two, one))
    for name, weight in their_weights.items():
        np.testing.assert_allclose(ours_weights[name], weight, rtol=1e-4, atol=1e-5, err_msg=name)
    assert any(row["episodes"] for row in theirs)
    assert next(read_log(two, "begin"))["processes"] == 2
    assert len(list(read_log(two, "begin"))) == 1, "both processes wrote the log"
    assert len({row["loss"] for row in theirs}) == ITERATIONS


def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that frees a tensor while the interpreter ends aborts a training that was already saved."""
    seen = tmp_path / "threads"
    script = f"""
import os
import pathlib
import torch
from robopolicy.training.trial_processes import processes
with processes() as others:
    others.wait()
    weight = torch.nn.Parameter(torch.ones(2))
    torch.optim.Adam([weight])
names = [pathlib.Path(f"/proc/self/task/{{task}}/comm").read_text() for task in os.listdir("/proc/self/task")]
pathlib.Path({str(seen)!r} + os.environ["RANK"]).write_text("".join(names))
"""
    assert launch([sys.executable, "-c", script], 2) == 0
    for rank in "01":
        threads = seen.with_name(f"threads{rank}").read_text()
        assert threads and "gloo" not in threads and "tcpstore" not in threads, threads


def test_a_place_among_processes_that_nobody_started_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match=r"WORLD_SIZE is 2, but .* MASTER_ADDR"):
        train(recipe_from_dict(_values(tmp_path / "run"), "test"), progress=False)
