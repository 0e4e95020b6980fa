"""SPO and MDPO learn to balance a pole in the loop that PPO uses, and with the sign of their advantages wrong they do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from robopolicy.algos import registry
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.log import read_log
from robopolicy.training.trial import train

BALANCED, FALLEN = 150.0, 60.0  # of 200 steps


def _returns(rule: str, folder: Path, steps: int) -> list[float]:
    training = {"worlds": 32, "rollout": 32, "epochs": 5, "minibatches": 4, "lr": 2e-3, "schedule": "constant", "threads": 1, "log_every": 4}
    values = {
        "task": "classic/cartpole",
        "env": {"max_episode_steps": 200},
        "output": str(folder / "run"),
        "algo": {"type": rule},
        "policy": {"type": "gaussian", "hidden": [32, 32]},
        "training": {**training, "steps": steps},
    }
    train(recipe_from_dict(values, "test"), progress=False)
    return [row["return"] for row in read_log(folder / "run", "train")]


@pytest.mark.parametrize(("rule", "steps"), [("spo", 36_864), ("mdpo", 24_576)])
def test_a_pole_is_balanced(rule: str, steps: int, tmp_path: Path) -> None:
    returns = _returns(rule, tmp_path, steps)
    assert returns[0] < FALLEN
    assert max(returns[-3:]) > BALANCED


@pytest.mark.parametrize("rule", ["spo", "mdpo"])  # what a broken rule would do: the floor of the test above
def test_with_advantages_upside_down_it_is_not(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = registry.rule_class(rule)
    right = kind.policy_loss
    monkeypatch.setattr(kind, "policy_loss", lambda self, step: right(self, dataclasses.replace(step, advantage=-step.advantage)))
    assert max(_returns(rule, tmp_path, 8_192)) < FALLEN
