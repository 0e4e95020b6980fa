"""``robopolicy eval`` and ``robopolicy report`` from the command line: results, and one clear line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from robopolicy.cli import main
from robopolicy.data.collect import collect
from robopolicy.evaluation import ledger
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.rollout import evaluate
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train

SIZE = {"mlp": {"width": 32, "blocks": 1, "clock_features": 8}, "n_obs_steps": 1}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs of two-route, ``flow`` and ``regression``, trained for a moment."""
    root = tmp_path_factory.mktemp("runs")
    collect("two-route", root / "data", 10, workers=1, progress=False)
    for kind in ("flow", "regression"):
        training = {"steps": 60, "batch_size": 64, "optimizer": {"lr": 3e-3, "warmup_steps": 5}, "checkpoint_every": 60, "log_every": 10}
        values = {"task": "two-route", "data": {"path": str(root / "data")}, "output": str(root / kind), "training": training}
        train(recipe_from_dict({**values, "policy": {"type": kind, **SIZE}, "evaluation": {"episodes": 12, "block": 5}}, "test"), progress=False)
    return root


def checkpoint(runs: Path, kind: str = "flow") -> Path:
    return runs / kind / (runs / kind / "last").read_text().strip()


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must refuse; return its one line."""
    code = main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def result(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; return its JSON."""
    file = tmp_path / "result.json"
    assert main([*(str(a) for a in arguments), "--json", str(file), "--quiet"]) == 0
    return json.loads(file.read_text())


def test_a_run_is_evaluated_as_its_recipe_says(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = result(tmp_path, "eval", runs / "flow")
    [evaluation] = out["evaluations"]
    assert evaluation["task"] == "two-route" and evaluation["block"] == 5 and len(evaluation["episodes"]) == 12
    assert [e["seed"] for e in evaluation["episodes"]] == list(range(2_000_000, 2_000_012))
    assert len(evaluation["latency_ms"]) == 50 and evaluation["summary"]["network_calls_per_chunk"] == 10
    assert Path(evaluation["folder"]).parent == (runs / "flow" / "evaluations").resolve()
    lines = list(ledger.read(runs / "flow" / "evaluations" / "ledger.jsonl"))
    assert lines[-1]["checkpoint_hash"] == evaluation["checkpoint_hash"] and lines[-1]["mode"] == "synchronous"
    printed = capsys.readouterr().out
    assert f"{evaluation['summary']['successes']}/12" in printed and "two-route" in printed


def test_workers_change_nothing_and_selection_seeds_are_others(runs: Path, tmp_path: Path) -> None:
    one = result(tmp_path, "eval", runs / "flow", "--block", 3, "--workers", 1, "--out", tmp_path / "e")
    for workers in (2, 4):  # four blocks: each of four has one
        more = result(tmp_path, "eval", checkpoint(runs), "--block", 3, "--workers", workers, "--out", tmp_path / "e")
        assert one["evaluations"][0]["episodes"] == more["evaluations"][0]["episodes"]
    chosen = result(tmp_path, "eval", runs / "flow", "--selection", "--seed", 7, "-n", 3, "--out", tmp_path / "e")["evaluations"][0]
    assert [e["seed"] for e in chosen["episodes"]] == [1_000_007, 1_000_008, 1_000_009] and chosen["noise_seed"] == 7 and chosen["block"] == 3
    assert len(list(ledger.read(tmp_path / "e" / "ledger.jsonl"))) == 4


def test_others_are_compared_on_the_same_states(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = result(tmp_path, "eval", runs / "regression", "--out", tmp_path / "e")["evaluations"][0]["folder"]
    capsys.readouterr()
    out = result(tmp_path, "eval", runs / "flow", "--compare", earlier, "--compare", "expert", "--videos", 1, "--out", tmp_path / "e")
    flow, regression, expert = out["evaluations"]
    assert [e["label"] for e in out["evaluations"]] == ["flow", "regression", "expert"] and expert["summary"]["successes"] == 12
    for pair, other in zip(out["comparisons"], (regression, expert), strict=True):
        b = sum(x["success"] and not y["success"] for x, y in zip(flow["episodes"], other["episodes"], strict=True))
        c = sum(y["success"] and not x["success"] for x, y in zip(flow["episodes"], other["episodes"], strict=True))
        assert (pair["n"], pair["first_only"], pair["second_only"]) == (12, b, c)
    assert [v["kind"] for v in flow["videos"]] == ["best", "worst"] and all((Path(flow["folder"]) / v["file"]).is_file() for v in flow["videos"])
    assert "McNemar p" in capsys.readouterr().out
    other_states = result(tmp_path, "eval", runs / "regression", "--selection", "--out", tmp_path / "e")["evaluations"][0]["folder"]
    assert "cannot be paired" in said(capsys, "eval", runs / "flow", "--compare", other_states, "--out", tmp_path / "e", "--quiet")


def test_twins_get_names_of_their_own(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "flow", tmp_path / "copy")
    out = result(tmp_path, "eval", runs / "flow", "--compare", tmp_path / "copy", "-n", 2, "--out", tmp_path / "e")
    assert [e["label"] for e in out["evaluations"]] == ["flow (flow)", "flow (copy)"] and out["comparisons"][0]["p_value"] == 1.0
    shutil.copytree(runs / "flow", tmp_path / "elsewhere" / "flow")
    out = result(tmp_path, "eval", runs / "flow", "--compare", tmp_path / "elsewhere" / "flow", "-n", 2, "--out", tmp_path / "e")
    assert [e["label"] for e in out["evaluations"]] == [f"flow ({checkpoint(runs)})", f"flow ({checkpoint(tmp_path / 'elsewhere')})"]


def test_report_of_a_run_and_of_the_parent(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result(tmp_path, "eval", runs / "flow", "-n", 2)
    assert main(["report", str(runs / "flow")]) == 0
    page = runs / "flow" / "report.html"
    assert str(page) in capsys.readouterr().out and "Training loss" in page.read_text() and "two-route" in page.read_text()
    assert main(["report", str(runs), "--out", str(tmp_path / "all.html")]) == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no evaluation and no training log" in said(capsys, "report", empty)


def test_json_to_standard_output_is_json_alone(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(runs / "flow"), "-n", "2", "--out", str(tmp_path), "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["evaluations"]) == 1


def test_mistakes_are_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("--out", tmp_path / "e", "--quiet")
    assert "no such checkpoint or run" in said(capsys, "eval", tmp_path / "none", *out)
    assert "neither a checkpoint nor a run" in said(capsys, "eval", tmp_path, *out)
    assert "did you mean 'two-route'?" in said(capsys, "eval", runs / "flow", "--task", "two-rote", *out)
    assert "give --task" in said(capsys, "eval", "expert", *out)
    assert "observation.state" in said(capsys, "eval", runs / "flow", "--task", "metaworld/push", *out)
    assert "device 'cupboard' cannot be used here" in said(capsys, "eval", runs / "flow", "--device", "cupboard", *out)
    assert "seed offset" in said(capsys, "eval", runs / "flow", "--seed", 999_999, *out)
    assert "expected at most 1000000" in said(capsys, "eval", runs / "flow", "--episodes", 1_000_001, *out)
    assert "give a checkpoint" in said(capsys, "eval", Evaluation.load(_any_evaluation(runs, tmp_path)).folder, *out)
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("tasks", [["--task", "two-route"], ["--tag", "two-route,cartpole"]])
def test_a_place_that_cannot_be_a_folder_is_said_before_the_first_episode(
    tasks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said when all episodes had been run, and they were lost."""
    for module in ("rollout", "suite"):
        monkeypatch.setattr(f"robopolicy.evaluation.{module}.run", lambda *_: pytest.fail("episodes were run"))
    (tmp_path / "file").touch()
    line = said(capsys, "eval", "expert", *tasks, "-n", 2, "--out", tmp_path / "file" / "records", "--quiet")
    assert line == f"error: {tmp_path / 'file' / 'records'}: no folder for records: {tmp_path / 'file'} is a file\n"


def _any_evaluation(runs: Path, tmp_path: Path) -> Path:
    return Path(result(tmp_path, "eval", runs / "flow", "-n", 1, "--out", tmp_path / "other")["evaluations"][0]["folder"])


@pytest.mark.parametrize(("damage", "expected"), [(lambda b: b[:-7], "truncated"), (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "altered"), (None, "missing")])
@pytest.mark.parametrize("file", ["weights.safetensors", "normalizer.safetensors", "spec.json", "policy.yaml"])
def test_a_damaged_checkpoint_is_one_line(file: str, damage: Any, expected: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint(runs), folder)
    body = (folder / file).read_bytes()
    (folder / file).unlink() if damage is None else (folder / file).write_bytes(damage(body))
    line = said(capsys, "eval", folder, "--out", tmp_path / "e", "--quiet")
    assert file in line and expected in line and not (tmp_path / "e").exists()


def die(*arguments: object) -> None:
    """Be a worker that ends at once."""
    os._exit(3)


def test_a_worker_that_dies_is_one_line_and_code_1(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robopolicy.evaluation.workers._work", die)
    code = main(["eval", str(runs / "flow"), "--workers", "2", "--out", str(tmp_path / "e"), "--quiet"])
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1 and len(error) == 1 and "worker died" in error[0] and not (tmp_path / "e").exists()


def test_a_section_that_draws_nothing_switches_randomisation_off_in_a_set_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = tmp_path / "nothing.yaml", []
    file.write_text("randomize: {}\n")
    monkeypatch.setattr("robopolicy.commands.eval._over_a_set", lambda how, *_: asked.append(how["env"]) or 0)
    assert main(["eval", "expert", "--tag", "mt10"]) == 0 and main(["eval", "expert", "--tag", "mt10", "--randomize", str(file)]) == 0
    assert "randomize" not in asked[0] and asked[1]["randomize"] is None  # None goes before what a checkpoint's recipe says


@pytest.mark.parametrize("label", ["flow [v2]", "flow [/b]"])
def test_a_name_with_brackets_is_shown_as_it_is(label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = evaluate("expert", "two-route", episodes=2, block=2, out=tmp_path, label=label, progress=False)
    run = ["--task", "two-route", "-n", "2", "--compare", str(made.folder), "--out", str(tmp_path / "e"), "--quiet"]
    file = tmp_path / "ledger.jsonl"
    for words, shown in (
        (["eval", "expert", *run], f"│ {label} "),
        (["ledger", "list", str(file)], f" {label} "),
        (["compare", f"{file}:{label}", "expert", "--out", str(tmp_path / "e"), "--quiet"], label),
    ):
        assert main(words) == 0 and shown in capsys.readouterr().out
    evaluate("expert", "two-route", episodes=2, block=2, label=label, progress=True)


def test_names_are_whole_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file or a pipe tables were cut to 80 columns: of a long task its beginning was left."""
    monkeypatch.setenv("COLUMNS", "80")
    label = "a policy with a name that says how it was trained, with which data and for how long"
    made = evaluate("expert", "two-route", episodes=2, block=2, out=tmp_path, label=label, progress=False)
    out = ["--out", str(tmp_path / "e"), "--quiet"]
    assert main(["eval", "expert", "--task", "two-route", "-n", "2", "--compare", str(made.folder), *out]) == 0
    assert f"│ {label} │" in capsys.readouterr().out
    assert main(["compare", "expert", "expert", "--task", "two-route", "--task", "classic/cartpole", "-n", "2", *out]) == 0
    assert "│ classic/cartpole │" in capsys.readouterr().out
