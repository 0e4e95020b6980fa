"""``robopolicy eval --compose``: several checkpoints as one policy, weights chosen on other seeds than those reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policies.checkpoint import fingerprint
from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.evaluation import ledger
from robopolicy.evaluation.composition import Composition, choose, grid, parse
from robopolicy.evaluation.records import Episode, Evaluation
from robopolicy.training.imitation import train
from tests.robopolicy.small_runs import demonstrations, recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``flow``, ``diffusion``, ``short`` (another horizon) and ``regression`` on two-route, trained for a moment."""
    root = tmp_path_factory.mktemp("runs")
    assert demonstrations().is_dir()
    small = {"mlp": {"width": 32, "blocks": 1, "clock_features": 8}, "n_obs_steps": 1}
    kinds: dict[str, dict[str, Any]] = {"flow": {}, "diffusion": {"state_normalization": "mean_std"}, "short": {"horizon": 8}, "regression": {}}
    for name, more in kinds.items():
        policy = {"type": "flow" if name == "short" else name, **small, **more}
        wanted = recipe(root / name, policy, steps=40, batch_size=64, checkpoint_every=40, evaluation={"episodes": 6, "block": 4})
        train(wanted, progress=False)
    return root


def folder(runs: Path, kind: str) -> str:
    return str(runs / kind / (runs / kind / "last").read_text().strip())


def result(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Run a command that must succeed; return its JSON."""
    file = tmp_path / "result.json"
    assert main([*(str(a) for a in arguments), "--out", str(tmp_path / "e"), "--json", str(file), "--quiet"]) == 0
    return json.loads(file.read_text())


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must refuse; return its one line."""
    code = main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_two_checkpoints_act_as_one(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = (f"{runs / 'flow'}:0.6", f"{folder(runs, 'diffusion')}:0.4")
    out = result(tmp_path, "eval", "--compose", parts[0], "--compose", parts[1], "--compare", runs / "flow")
    both, flow = out["evaluations"]
    assert both["label"] == "0.6 flow + 0.4 diffusion" and flow["label"] == "flow" and out["comparisons"][0]["n"] == 6
    assert both["summary"]["network_calls_per_chunk"] == 20 and len(both["latency_ms"]) == 50 and both["block"] == 4
    [line, _] = ledger.read(tmp_path / "e" / "ledger.jsonl")
    expected = [
        {"checkpoint": folder(runs, kind), "checkpoint_hash": fingerprint(folder(runs, kind)), "policy": kind, "weight": weight}
        for kind, weight in (("flow", 0.6), ("diffusion", 0.4))
    ]
    assert line["composition"] == {"by": "average", "parts": expected, "chosen": None} and len(line["checkpoint_hash"]) == 16
    assert Evaluation.load(Path(both["folder"])).composition == line["composition"]
    spaced = result(tmp_path, "eval", "--compose", *parts, "--workers", 2)["evaluations"][0]
    assert spaced["episodes"] == both["episodes"] and spaced["checkpoint_hash"] == both["checkpoint_hash"]
    assert "0.6 flow + 0.4 diffusion against flow" in capsys.readouterr().out


def test_a_weight_of_one_is_that_checkpoint(runs: Path, tmp_path: Path) -> None:
    out = result(tmp_path, "eval", "--compose", f"{runs / 'flow'}:0", f"{runs / 'diffusion'}:1", "--compare", runs / "diffusion")
    assert out["evaluations"][0]["episodes"] == out["evaluations"][1]["episodes"]


def test_or_and_methods_of_execution(runs: Path, tmp_path: Path) -> None:
    parts = ("--compose", f"{runs / 'flow'}:0.5", f"{runs / 'diffusion'}:0.5")
    out = result(tmp_path, "eval", *parts, "--compose-by", "or", "--method", "ensemble", "-n", 2)["evaluations"][0]
    assert out["label"] == "0.5 flow or 0.5 diffusion+ensemble" and out["execution"] == "ensemble" and out["composition"]["by"] == "or"


def test_weights_are_chosen_on_selection_seeds_and_reported_on_others(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = result(tmp_path, "eval", "--compose", runs / "flow", "--compose", runs / "diffusion", "--choose-weights", "-n", 3)
    assert [row["weights"][0] for row in out["weights"]] == pytest.approx([i / 10 for i in range(10, -1, -1)])
    best = max(out["weights"], key=lambda row: (row["successes"], row["score"] or 0.0, -abs(row["weights"][0] - 0.5)))
    [reported] = out["evaluations"]
    assert [part["weight"] for part in reported["composition"]["parts"]] == best["weights"]
    assert reported["composition"]["chosen"] == f"{best['successes']}/3 on selection seeds from 1000000, best of 11"
    assert [e["seed"] for e in reported["episodes"]] == [2_000_000, 2_000_001, 2_000_002]
    lines = list(ledger.read(tmp_path / "e" / "ledger.jsonl"))
    assert [line["purpose"] for line in lines] == ["selection"] * 11 + ["report"] and {line["seed0"] for line in lines[:-1]} == {1_000_000}
    printed = capsys.readouterr().out
    assert sum("chosen" in line and "%" in line for line in printed.splitlines()) == 1 and "95% interval" in printed


def test_the_grid_shares_ten_tenths() -> None:
    assert grid(2) == [(i / 10, (10 - i) / 10) for i in range(10, -1, -1)]
    three = grid(3)
    assert len(three) == len(set(three)) == 66 and all(sum(w) == pytest.approx(1.0) and min(w) >= 0 for w in three)


def _evaluation(successes: int, of: int = 10) -> Evaluation:
    episodes = [Episode(i, 1_000_000 + i, i < successes, 0.0, 10, None, 1.0, 1) for i in range(of)]
    world = {"task": "two-route", "suite_version": "1", "max_episode_steps": 10, "rate_hz": 10.0, "env": {}}
    counts = {"seed0": 1_000_000, "noise_seed": 0, "block": 10, "workers": 1, "threads": 1, "horizon": 16, "n_action_steps": 8}
    return Evaluation("x", "x", None, None, purpose="selection", device="cpu", episodes=episodes, **world, **counts)


@pytest.mark.parametrize(
    ("rates", "weights"),
    [({0.2: 9, 0.7: 8}, (0.2, 0.8)), ({}, (0.5, 0.5)), ({0.9: 9, 0.6: 9}, (0.6, 0.4))],
)
def test_the_best_is_the_most_successful_and_of_equals_the_most_even(rates: dict[float, int], weights: tuple[float, float]) -> None:
    asked = []

    def evaluate_one(candidate: Composition) -> Evaluation:
        asked.append(candidate.weights)
        return _evaluation(rates.get(candidate.weights[0], 5))

    chosen, trials = choose(Composition(("a", "b"), (0.5, 0.5)), evaluate_one)
    assert chosen.weights == weights and asked == grid(2) == [t.composition.weights for t in trials]
    assert chosen.chosen == f"{max([5, *rates.values()])}/10 on selection seeds from 1000000, best of 11"


def test_mistakes_are_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow, diffusion = runs / "flow", runs / "diffusion"

    def compose(*items: object, more: tuple[object, ...] = ()) -> str:
        return said(capsys, "eval", *(x for item in items for x in ("--compose", item)), *more, "--out", tmp_path / "e", "--quiet")

    assert "sum to 1.2, expected 1" in compose(f"{flow}:0.6", f"{diffusion}:0.6")
    assert "expected CHECKPOINT:WEIGHT" in compose(flow, diffusion)
    assert "expected two or more policies, found 1" in compose(f"{flow}:1")
    assert "no such checkpoint or run" in compose(f"{tmp_path / 'none'}:0.5", f"{flow}:0.5")
    assert "give" in compose(f"{flow}:0.5", diffusion, more=("--choose-weights",)) and not (tmp_path / "e").exists()
    assert "leave out --selection" in compose(flow, diffusion, more=("--choose-weights", "--selection"))
    assert "did you mean 'average'" in compose(f"{flow}:0.5", f"{diffusion}:0.5", more=("--compose-by", "averge"))
    assert "horizon: " in compose(f"{flow}:0.5", f"{runs / 'short'}:0.5")
    assert "a regression policy has no scores to compose" in compose(f"{flow}:0.5", f"{runs / 'regression'}:0.5")
    assert "observation.state" in compose(f"{flow}:0.5", f"{diffusion}:0.5", more=("--task", "metaworld/push"))
    assert "not with --compose" in compose(f"{flow}:0.5", f"{diffusion}:0.5", more=("--tag", "mt10"))
    assert "go with --compose" in said(capsys, "eval", flow, "--choose-weights")
    assert "expected one CHECKPOINT, found none" in said(capsys, "eval", "--task", "two-route")
    assert "compare it with others by --compare" in said(capsys, "eval", flow, diffusion)
    assert not (tmp_path / "e").exists()


def test_a_path_with_a_colon_is_a_path(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "a:b").symlink_to(runs / "flow")
    both = parse([str(tmp_path / "a:b"), str(runs / "flow")], "average", choosing=True)
    assert both.weights == (0.5, 0.5) and "a:b" in both.checkpoints[0]
    with pytest.raises(InputError, match="expected CHECKPOINT:WEIGHT"):
        parse([str(tmp_path / "a:b"), f"{runs / 'flow'}:1"], "average", choosing=False)
