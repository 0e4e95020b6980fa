"""A suite's demonstrations from a recipe: one fingerprint, whatever the number of workers and however often it was interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError, SpecMismatch
from robopolicy.cli import main
from robopolicy.data.dataset import Dataset
from robopolicy.data.regenerate import CollectionSummary, read_collection, regenerate, whole_fingerprint
from robopolicy.data.regenerate_recipe import Plan, data_recipes, load_plan
from sim import registry

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """# two tasks of a second each
tasks:
  two-route: {episodes: 5}
  classic/cartpole: {max_episode_steps: 110}
episodes: 3
noise: 0.05
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plan(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return load_plan(str(recipe), out=tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def whole(plan: Plan) -> CollectionSummary:
    """Collected in one go by one process."""
    return regenerate(plan, workers=1, progress=False)


def test_every_task_is_a_data_set_of_its_own_settings(plan: Plan, whole: CollectionSummary) -> None:
    assert {task: found.episodes for task, found in whole.tasks.items()} == {"two-route": 5, "classic/cartpole": 3}
    sets = {task: Dataset.open(plan.root / found.path) for task, found in whole.tasks.items()}
    assert sets["classic/cartpole"].episode_starts[-1] <= 3 * 110 and sets["two-route"].tasks == ["two-route"]
    assert whole.fingerprint == whole_fingerprint({task: found.fingerprint for task, found in sets.items()})
    assert read_collection(plan.root).to_dict() == whole.to_dict()


def test_a_rerun_makes_nothing_and_says_the_same(plan: Plan, whole: CollectionSummary) -> None:
    before = {path: path.stat().st_mtime_ns for path in plan.root.rglob("*.parquet")}
    assert regenerate(plan, workers=1, progress=False, expected=whole.fingerprint).to_dict() == whole.to_dict()
    assert {path: path.stat().st_mtime_ns for path in plan.root.rglob("*.parquet")} == before
    with pytest.raises(InputError, match=f"the fingerprint of the whole is {whole.fingerprint}, expected 0123456789abcdef"):
        regenerate(plan, workers=1, progress=False, expected="0123456789abcdef")


#: The command in a process that kills itself, -9, in the middle of an episode of the second task: three are there, the fourth is open.
KILLED = """
import os, signal, sys
from robopolicy.data.writer import DatasetWriter
add = DatasetWriter.add_frame
def add_frame(self, *frame):
    add(self, *frame)
    if self.root.name == "classic-cartpole" and self.num_episodes == 3:
        os.kill(os.getpid(), signal.SIGKILL)
DatasetWriter.add_frame = add_frame
from robopolicy.cli import main
main(sys.argv[1:])
"""


def test_killed_and_continued_by_two_workers(recipe: Path, whole: CollectionSummary, tmp_path: Path) -> None:
    words = ["collect", str(recipe), "episodes=6", "--all", "--out", str(tmp_path / "set"), "--workers", "1"]
    died = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=300)
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(InputError, match="was interrupted after 1 tasks"):
        read_collection(tmp_path / "set")
    longer = ["episodes=6"]
    parts = regenerate(load_plan(str(recipe), longer, tmp_path / "set"), workers=2, progress=False)
    again = regenerate(load_plan(str(recipe), longer, tmp_path / "again"), workers=1, progress=False)
    assert parts.fingerprint == again.fingerprint != whole.fingerprint and parts.tasks["classic/cartpole"].episodes == 6
    assert parts.tasks["two-route"] == whole.tasks["two-route"], "its own five episodes"


def test_another_recipe_for_the_same_folder_is_refused(recipe: Path, plan: Plan, whole: CollectionSummary, tmp_path: Path) -> None:
    for change, told in (
        ("noise=0.1", r"noise of two-route is 0\.05 there, 0\.1 here"),
        ("tasks.two-route.episodes=6", "episodes of two-route is 5 there, 6 here"),
        ("tasks=[two-route]", "task classic/cartpole is no longer in the recipe"),
        ("recovery=0.5", "recovery of two-route is None there"),
    ):
        with pytest.raises(InputError, match=f"was collected with another recipe: {told}"):
            regenerate(load_plan(str(recipe), [change], plan.root), workers=1, progress=False)
    assert read_collection(plan.root).fingerprint == whole.fingerprint


def test_contents_that_have_changed_are_noticed(recipe: Path, tmp_path: Path) -> None:
    from robopolicy.data.writer import DatasetWriter

    small = load_plan(str(recipe), ["tasks=[two-route]", "episodes=1"], tmp_path / "set")
    regenerate(small, workers=1, progress=False)
    dataset = Dataset.open(tmp_path / "set/two-route")
    frame = {name: array[0] for name, array in dataset.arrays.items()}
    with DatasetWriter(dataset.path, dataset.spec, dataset.fps, "two-route", "two-route") as writer:
        extras = {"next.reward": 0.0, "next.success": False, "next.done": True}
        writer.add_frame({"observation.state": frame["observation.state"]}, frame["action"], {"observation": 0}, extras)
        writer.save_episode(success=True, seed=77)
    with pytest.raises(InputError, match="its contents have changed since they were collected"):
        regenerate(small, workers=1, progress=False)


def test_all_tasks_in_one_set(tmp_path: Path) -> None:
    """Tasks of one form are merged, each frame knowing its task; others are refused by the field that differs."""
    (tmp_path / "pair.yaml").write_text("tasks: [metaworld/reach, metaworld/push]\nepisodes: 2\nmax_episode_steps: 12\nonly_success: false\n")
    done = regenerate(load_plan(str(tmp_path / "pair.yaml"), out=tmp_path / "pair", merge=True), workers=1, progress=False)
    assert done.merged == tmp_path / "pair/merged"
    merged = Dataset.open(tmp_path / "pair/merged")
    assert merged.tasks == ["metaworld/reach", "metaworld/push"] and merged.num_episodes == 4 and merged.num_frames == 48
    assert merged.arrays["task_index"].ravel().tolist() == [0] * 24 + [1] * 24
    push = Dataset.open(tmp_path / "pair/metaworld-push")
    np.testing.assert_array_equal(merged.arrays["action"][24:], push.arrays["action"])
    assert regenerate(load_plan(str(tmp_path / "pair.yaml"), out=tmp_path / "pair", merge=True), 1, False).to_dict() == done.to_dict()
    (tmp_path / "odd.yaml").write_text("tasks: [two-route, classic/cartpole]\nepisodes: 1\nmerge: true\n")
    with pytest.raises(SpecMismatch, match=r"observation\.state"):
        regenerate(load_plan(str(tmp_path / "odd.yaml"), out=tmp_path / "odd"), workers=1, progress=False)


def test_a_suites_own_generator_beside_tasks(tmp_path: Path) -> None:
    (tmp_path / "maze.yaml").write_text("tasks: {two-route: {episodes: 1}}\nsets:\n  ogbench/pointmaze-medium-navigate: {episodes: 2, frames: 21}\n")
    plan = load_plan(str(tmp_path / "maze.yaml"), out=tmp_path / "maze")
    done = regenerate(plan, workers=1, progress=False)
    found = done.tasks["ogbench/pointmaze-medium-navigate"]
    assert (found.episodes, found.frames) == (2, 42) and "ogbench" in found.suite_version
    assert regenerate(plan, workers=1, progress=False, expected=done.fingerprint).to_dict() == done.to_dict()


def test_a_task_that_cannot_be_collected_holds_up_no_other(tmp_path: Path) -> None:
    (tmp_path / "hard.yaml").write_text(
        "tasks:\n  two-route: {max_episode_steps: 3}\n  classic/cartpole: {only_success: false, max_episode_steps: 5}\nepisodes: 2\n"
    )
    with pytest.raises(InputError, match=r"hard: the expert of two-route failed 100 times in a row.*the other tasks are collected"):
        regenerate(load_plan(str(tmp_path / "hard.yaml"), out=tmp_path / "hard"), workers=1, progress=False)
    assert Dataset.open(tmp_path / "hard/classic-cartpole").num_episodes == 2


@pytest.mark.parametrize("name", data_recipes())
def test_installed_recipes_name_tasks_that_can_be_demonstrated(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plan = load_plan(name)
    assert plan.root == Path("data") / name and (plan.tasks or plan.sets)
    for task, settings in plan.tasks.items():
        assert registry.entry(task).has_expert or settings.expert == f"runs/{task.replace('/', '-')}-ppo-seed0"
    assert load_plan("mt10").tasks["metaworld/push"].episodes == 25


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tasks: [two-rout]", "key 'tasks': task 'two-rout' does not exist; did you mean 'two-route'"),
        ("tag: mt1o", "key 'tag': task tag 'mt1o' does not exist; did you mean 'mt10'"),
        ("tag: mt10\nepisode: 3", "unknown key 'episode'; did you mean 'episodes'"),
        ("tasks:\n  two-route: {nois: 0.1}", "unknown key 'tasks.two-route.nois'; did you mean 'noise'"),
        ("tasks: [two-route]\nrecovery: {chance: 2}", "recovery.chance"),
        ("tasks: [two-route]\nrecovery: {chanc: 1}", "unknown key 'recovery.chanc'; did you mean 'chance'"),
        ("episodes: 3", "expected tag, tasks or sets, found none"),
        ("tag: gymnasium", "no task with tag 'gymnasium' has an expert"),
        ("tasks: [two-route]\nseed: 1000000", "key 'seed'"),
        ("sets: [ogbench/cube-singel-play]", "key 'sets': "),
        ("sets:\n  ogbench/cube-single-play: {episode: 1}", "did you mean 'episodes'"),
        ("tasks: [two-route]\noutput: data/{task}", "only {name} can stand in braces"),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_plan(str(tmp_path / "bad.yaml"))
    assert told in str(caught.value) and "bad.yaml" in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_command(recipe: Path, plan: Plan, whole: CollectionSummary, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", str(recipe), "--all", "--out", str(plan.root), "--workers", "1"]
    assert main([*words, "--check", whole.fingerprint]) == 0
    printed = capsys.readouterr().out
    assert f"8 episodes, fingerprint {whole.fingerprint}" in printed and "classic/cartpole" in printed
    assert main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["two-route"]["episodes"] == 5
    for wrong in ([*words, "--check", "0" * 16], [*words, "noise=1"], ["collect", "mt1o", "--all"]):
        assert main(wrong) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_engine_that_was_asked_for_is_not_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, seen = tmp_path / "cartpole.yaml", []
    recipe.write_text("tasks: [classic/cartpole]\nengine: bullet\n")
    monkeypatch.setattr("robopolicy.commands.collect._regenerate", lambda plan, *_: seen.append(plan.tasks["classic/cartpole"].engine))
    for more in ([], ["--engine", "mujoco"], ["--engine", "warp"]):
        assert main(["collect", str(recipe), "--all", "--out", str(tmp_path / "out"), *more]) == 0
    assert seen == ["bullet", "mujoco", "warp"]
