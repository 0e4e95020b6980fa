"""Which engine steps the worlds is said in a recipe or on the command line, kept with what was made, and refused in one line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.collect import collect
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import EnvConfig, recipe_from_dict, world_options
from tests.require import require
from tests.robopolicy import forked

TASK = "classic/cartpole"
ROOT = Path(__file__).parents[2]


def robopolicy(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return forked.command(arguments, cwd)


def test_only_what_was_chosen_reaches_the_worlds() -> None:
    assert EnvConfig().options() == {"observations": "state", "image_size": 96, "max_episode_steps": None}
    chosen = EnvConfig(engine="bullet", threads=2, reward="sparse").options()
    assert chosen == {**EnvConfig().options(), "engine": "bullet", "threads": 2, "reward": "sparse"}
    assert world_options({"observations": "image", "engine": "mujoco", "randomize": {}}) == {"observations": "image"}


def test_a_recipe_with_an_unknown_engine_is_refused() -> None:
    wanted = {"task": TASK, "policy": {"type": "regression"}, "env": {"engine": "bulet"}}
    with pytest.raises(InputError, match=r"recipe: key 'env.engine'.*bulet") as error:
        recipe_from_dict(wanted, "recipe")
    assert "'bullet'" in str(error.value) and "\n" not in str(error.value)


def test_demonstrations_and_evaluations_say_which_engine_made_them(tmp_path: Path) -> None:
    require("bullet")
    path = tmp_path / "demonstrations"
    made = collect(TASK, path, 2, workers=1, progress=False, engine="bullet", reward="sparse", max_episode_steps=120)
    own = (layout.read_own(path) or {})["provenance"]["collect"]
    assert made.episodes == 2 and own["engine"] == "bullet" and own["reward"] == "sparse" and "pybullet 3." in own["suite_version"]
    with pytest.raises(InputError, match="collected with engine 'bullet', not None"):
        collect(TASK, path, 3, workers=1, progress=False, reward="sparse", max_episode_steps=120)
    found = evaluate("expert", TASK, episodes=2, env={"engine": "bullet"}, progress=False)
    assert found.successes == 2 and found.env == {"engine": "bullet"} and "pybullet 3." in found.suite_version


def test_the_command_line_takes_an_engine(tmp_path: Path) -> None:
    require("bullet")
    done = robopolicy("eval", "expert", "--task", TASK, "--engine", "bullet", "-n", "2", "--json", "-", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"engine": "bullet"' in json.dumps(json.loads(done.stdout))
    for command in (["eval", "expert", "--task", TASK], ["collect", TASK], ["twin", TASK]):
        refused = robopolicy(*command, "--engine", "bulet", cwd=tmp_path)
        assert refused.returncode == 2 and "did you mean 'bullet'" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1, refused.stderr
