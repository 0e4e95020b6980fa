"""Studies: resumable grids, their table, and the demo's path at the smallest size."""

import json
from pathlib import Path
from typing import Any

import pytest

from robopolicy import demo
from robopolicy.demo import run_demo
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.seeds import REPORT
from robopolicy.evaluation.study import Cell, markdown, read_results, run_study
from robopolicy.recipe import Recipe, load_recipe

SMALL = ("training.steps=3", "policy.mlp={width: 16, blocks: 1}", "data.collect=2", "training.optimizer.warmup_steps=1")


def test_a_study_goes_on_where_it_stopped(tmp_path: Path) -> None:
    cells = [Cell("imitation/two_route", "two-route", 2, policy, 0, SMALL, episodes=4) for policy in ("flow", "regression")]
    first = run_study(cells[:1], tmp_path, workers=1, progress=False)
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"key": "cut sho')  # what a kill leaves
    both = run_study(cells, tmp_path, workers=1, progress=False)
    assert both[0] == first[0] and [row["policy"] for row in both] == ["flow", "regression"]
    assert len(both[1]["outcomes"]) == 4 and both[1]["successes"] == sum(both[1]["outcomes"])
    assert [row["name"] for row in read_results(tmp_path)] == [cell.name for cell in cells]  # the torn line hides no result
    again = run_study(cells, tmp_path, workers=1, progress=False)
    assert again == both


def test_the_table_adds_up_training_seeds() -> None:
    common = {"task": "push", "demonstrations": 10, "episodes": 50, "score": None}
    rows = [{**common, "policy": "flow", "successes": 40}, {**common, "policy": "flow", "successes": 45}, {**common, "policy": "regression", "successes": 0}]
    lines = markdown(rows).splitlines()
    assert lines[0] == "| task | demonstrations | flow | regression |"
    assert lines[2] == "| push | 10 | 85% [77, 91] (80, 90) | 0% [0, 7] (0) |"  # Wilson 85/100: 76.7 to 90.7; 0/50: 0 to 7.1
    alike = [{**common, "policy": "flow", "successes": 40, "outcomes": [1] * 40 + [0] * 10} for _ in range(3)]
    assert "| 80% [67, 89] (80, 80, 80) |" in markdown(alike), "states on which three seeds agree are 50, not 150: Wilson 40/50"


def test_an_interrupted_demo_can_be_begun_anew_and_other_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(recipe: Recipe, workers: int) -> None:
        assert not (out / "data").exists()
        (out / "data").mkdir()
        raise KeyboardInterrupt

    out = tmp_path / "demo"
    arguments = {"states": 4, "drive_episodes": 1, "steps": 3, "baseline_lr": 1e-3, "workers": 2}
    monkeypatch.setattr(demo, "collect_demonstrations", interrupted)
    for fresh in (False, True):
        with pytest.raises(KeyboardInterrupt):
            run_demo("imitation/quickstart", out, ["flow"], fresh=fresh, **arguments)
        (out / "notes.txt").touch()
    assert sorted(path.name for path in out.iterdir()) == ["data", "demo.json", "notes.txt"]


def test_the_demo_collects_in_the_worlds_of_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("robopolicy.data.collect.collect", lambda task, path, episodes, **how: asked.update(how))
    demo.collect_demonstrations(load_recipe("imitation/demo", ["env.engine=bullet", "env.reward=sparse", f"data.path={tmp_path}/data"]), workers=1)
    assert asked["engine"] == "bullet" and asked["reward"] == "sparse" and asked["randomize"] is None


def test_the_demo_runs_from_demonstrations_to_a_driven_twin(tmp_path: Path) -> None:
    arguments = {"states": 4, "drive_episodes": 1, "steps": 3, "baseline_lr": 1e-3, "workers": 2, "fresh": False}
    result = run_demo("imitation/quickstart", tmp_path / "demo", ["flow", "regression"], **arguments)
    assert [row["policy"] for row in result["rows"]] == ["flow", "regression", "expert"]
    assert result["rows"][2]["successes"] == 4 and result["served"] == "flow" and result["baseline"] == "regression"
    assert result["driven"]["plans"] >= 1 and len(result["driven"]["episodes"]) == 1
    files = sorted((tmp_path / "demo" / "evaluations").rglob("evaluation.json"))
    assert [Evaluation.load(file).seed0 for file in files] == [int(REPORT)] * 3
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "regression" in page and "http://" not in page.replace("http://www.w3.org", "")
    run_demo("imitation/quickstart", tmp_path / "demo", ["flow", "regression"], **arguments)  # takes up what is there
    assert sorted((tmp_path / "demo" / "evaluations").rglob("evaluation.json")) == files
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["rows"] == result["rows"]
