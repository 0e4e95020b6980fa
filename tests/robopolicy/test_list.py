"""``robopolicy list``: every task, policy, recipe and robot, without importing what they need."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from robopolicy.cli import main
from robopolicy.config import recipe_names
from sim import registry

ROOT = Path(__file__).resolve().parents[2]


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    """Return what ``robopolicy list WORDS --json -`` prints."""
    assert main(["list", *words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_all_fifty_tasks_of_meta_world_and_pusht_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    names = {str(row["name"]) for row in rows(capsys, "tasks")}
    assert len([n for n in names if n.startswith("metaworld/")]) == 50
    assert {"metaworld/peg-insert-side", "pusht", "two-route"} <= names


def test_a_tag_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    assert all("expert" in row["tags"] for row in rows(capsys, "tasks", "--tag", "expert"))  # type: ignore[operator]
    assert len(rows(capsys, "tasks", "--tag", "mt50")) == 50


def test_every_task_says_when_it_counts_as_solved(capsys: pytest.CaptureFixture[str]) -> None:
    found = {str(row["name"]): row["success"] for row in rows(capsys, "tasks")}
    assert all(found.values()) and "3 cm" in str(found["metaworld/drawer-open"])


def test_tags_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["name"]: row for row in rows(capsys, "tags")}
    assert {tag: found[tag]["tasks"] for tag in ("mt10", "mt50", "ml45-train", "ml45-test")} == {"mt10": 10, "mt50": 50, "ml45-train": 45, "ml45-test": 5}
    assert found["dmcontrol"]["experts"] == 0 and found["expert"]["tasks"] == found["expert"]["experts"]


def test_a_suite_that_is_missing_is_counted_with_its_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {name: replace(entry, requires=("a_suite_that_is_not_there",)) for name, entry in registry._entries().items() if "mt10" in entry.tags}
    monkeypatch.setattr(registry, "_entries", lambda: entries)
    assert main(["list", "tasks"]) == 0
    assert "10 tasks, 10 with an expert; 10 not installed: `robopolicy install metaworld`" in capsys.readouterr().out


def test_policies_are_the_modules_that_hold_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "policies")
    assert {"diffusion", "flow", "regression"} <= {row["name"] for row in found}
    assert all(row["description"] for row in found)


def test_recipes_are_those_in_configs(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "recipes")
    files = (ROOT / "configs").rglob("*.yaml")
    assert [row["name"] for row in found] == recipe_names() == sorted(p.relative_to(ROOT / "configs").with_suffix("").as_posix() for p in files)
    assert all(row["description"] for row in found)
    assert all(row["task"] and row["policy"] for row in found if str(row["name"]).startswith("imitation/"))


def test_rules_are_the_files_of_algos_and_recipes_of_trial_name_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    found = {str(row["name"]): row["description"] for row in rows(capsys, "rules")}
    assert {"ppo", "sac"} <= set(found) and all(found.values()) and "rule" not in found
    assert all(row["rule"] in found for row in rows(capsys, "recipes") if str(row["name"]).startswith("rl/"))


def test_robots_are_the_drivers(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "robots")
    assert "twin" in {row["name"] for row in found} and all(row["description"] for row in found)


def test_the_table_has_one_line_a_row_when_it_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tasks", "--tag", "mt50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 52 and lines[0].startswith("name") and all(line.startswith("metaworld/") for line in lines[1:-1])
    assert lines[-1].startswith("50 tasks tagged mt50, 50 with an expert")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tasks", "--tag", "exprt"], "did you mean 'expert'"),
        (["policies", "--tag", "expert"], "--tag is for tasks"),
        (["task"], "'task' is not one of"),
        (["recipes", "--json", "/proc/nothing/here.json"], "cannot be written"),
    ],
)
def test_bad_words_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *words]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1 and said in captured.err


def test_json_goes_into_a_file_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "recipes", "--json", str(tmp_path / "r.json")]) == 0
    assert {row["name"] for row in json.loads((tmp_path / "r.json").read_text())} == set(recipe_names())
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
    assert main(["list", "recipes", "--json", str(tmp_path)]) == 2
    assert "not a file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["tasks", "policies", "recipes", "robots"])
def test_listing_imports_neither_torch_nor_a_simulator(kind: str) -> None:
    heavy = "{'torch', 'mujoco', 'metaworld', 'cv2', 'pymunk'} & set(sys.modules)"
    code = f"import sys; from robopolicy.cli import main; main(['list', {kind!r}]); print(sorted({heavy}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.strip() == "[]"
