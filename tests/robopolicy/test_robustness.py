"""``robopolicy robustness``: hand-computed sizes at half success, paired tests, a table that goes on, and one line for every mistake."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robopolicy.bench import robustness
from robopolicy.bench.harness import Result, run_benchmark
from robopolicy.cli import main
from robopolicy.evaluation import ledger
from robopolicy.evaluation.perturb import KINDS
from robopolicy.evaluation.robustness import Curve, Ladder, Table, crossing, ladders, sweep
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.seeds import Purpose
from robopolicy.evaluation.statistics import holm, mcnemar, wilson
from robopolicy.evaluation.versus import prepare
from robopolicy.reporting.robustness_page import half_text, markdown


def curve(kind: str, sizes: tuple[float, ...], successes: list[int], n: int = 20) -> Curve:
    """A curve whose better sizes solve whatever the worse ones do."""
    return Curve("flow", Ladder(kind, sizes), np.arange(n)[None, :] < np.array(successes)[:, None])


def test_half_is_crossed_where_a_ruler_says() -> None:
    where = np.array([0.0, 1.0, 2.0])
    rates = np.array([[1.0, 0.8, 0.3], [0.8, 0.9, 0.5], [0.0, 0.1, 0.0], [0.6, 0.1, 0.9], [1.0, 0.5, 0.5]])
    found = crossing(where, rates)
    assert found[[0, 3]] == pytest.approx([1.6, 0.6]) and math.isinf(found[1]) and math.isnan(found[2]) and math.isinf(found[4])


def test_sizes_are_interpolated_and_factors_in_their_logarithm_on_both_sides() -> None:
    noise = curve("noise", (0.0, 0.1, 0.2), [20, 16, 6])
    [(name, way)] = noise.sides()
    assert name == "" and noise.half_size(way).value == pytest.approx(0.16) and noise.area(way).value == pytest.approx((0.9 + 0.55) / 2)
    mass = curve("mass", (0.25, 0.5, 1.0, 4.0), [0, 12, 20, 5])
    (more, up), (less, down) = mass.sides()
    assert (more, less) == ("more", "less") and mass.half_size(up).value == pytest.approx(4 ** (10 / 15))
    assert mass.half_size(down).value == pytest.approx(2 ** -(1 + 2 / 12))
    assert mass.area(down).value == pytest.approx((0.8 + 0.3) / 2)


def test_what_never_falls_so_low_is_said_to_lie_beyond() -> None:
    flat = curve("mass", (0.5, 1.0, 2.0), [20, 20, 20])
    (_, up), (_, down) = flat.sides()
    assert half_text(flat.half_size(up), 2.0, 1.0) == ">2" and half_text(flat.half_size(down), 0.5, 1.0) == "<0.5"
    nothing = curve("noise", (0.0, 1.0), [0, 0])
    assert half_text(nothing.half_size(nothing.sides()[0][1]), 1.0, 0.0) == "- (nothing is solved)"
    edge = curve("noise", (0.0, 1.0), [20, 9])
    estimate = edge.half_size(edge.sides()[0][1])
    assert estimate.value == pytest.approx(10 / 11) and estimate.low < estimate.value and math.isinf(estimate.high)


def test_the_bootstrap_draws_states_and_keeps_its_coverage() -> None:
    """Success falls as 1 - x/2 over x in 0 to 1 for every state alike: half lies at 1. 100 tables of 60 states, 95 % intervals."""
    rng, inside = np.random.default_rng(7), 0
    sizes = (0.0, 0.5, 1.0, 1.5, 2.0)
    for _ in range(100):
        tough = rng.uniform(0, 1, 60)
        c = Curve("flow", Ladder("noise", sizes), tough[None, :] < 1 - np.array(sizes)[:, None] / 2)
        estimate = c.half_size(np.arange(5))
        inside += estimate.low <= 1.0 <= estimate.high
    assert 88 <= inside <= 100


def test_cells_are_paired_with_none_and_adjusted_together() -> None:
    table = Table("arm/push", 20, 2_000_000, "report", [curve("noise", (0.0, 0.1, 0.2), [20, 14, 2]), curve("mass", (0.5, 1.0), [11, 20])])
    raw = [mcnemar(0, 6), mcnemar(0, 18), mcnemar(0, 9)]
    assert list(table.adjusted().values()) == holm(raw)
    cells = table.to_dict()["curves"][0]["cells"]
    assert cells[1]["difference"] == pytest.approx(-0.3) and cells[2]["wilson95"] == list(wilson(2, 20)) and "p" not in cells[0]
    text = markdown(table).replace("\\*", "*")
    assert "| flow | 100 [84, 100] | 70 [48, 85] | 10* [3, 30] |" in text.replace("70* [48, 85]", "70 [48, 85]")
    assert "noise (std of the data)" in text and "mass (times)" in text


def test_ladders_hold_the_neutral_size_and_are_checked() -> None:
    [push, mass] = ladders(["push", "mass"], {"push": [2, 0.5], "mass": [3]}, {"mass": "puck"})
    assert push.sizes == (0, 0.5, 2) and mass.sizes == (1, 3) and mass.at(3).element == "puck"
    assert all(ladder.about.neutral in ladder.sizes and list(ladder.sizes) == sorted(ladder.sizes) for ladder in ladders([], {}))


# From the command line ----------------------------------------------------------------------------------------------


def result(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Run the command; return its JSON."""
    assert main(["robustness", *(str(a) for a in arguments), "--json", str(tmp_path / "r.json"), "--quiet"]) == 0
    return json.loads((tmp_path / "r.json").read_text())


def test_a_stopped_table_goes_on_and_the_page_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("expert", "--task", "cartpole", "--kinds", "delay,mass", "--sizes", "delay=100,400", "-n", 8, "--out", tmp_path / "out")
    first = result(tmp_path, *words)
    assert [(c["kind"], [cell["size"] for cell in c["cells"]]) for c in first["curves"]] == [("delay", [0, 100, 400]), ("mass", [0.25, 0.5, 1, 2, 4])]
    delay = [cell["successes"] for cell in first["curves"][0]["cells"]]
    assert delay[0] == 8 and delay[0] > delay[1] >= delay[2] and first["curves"][1]["cells"][2]["successes"] == 8
    lines = list(ledger.read(tmp_path / "out" / "ledger.jsonl"))
    assert len(lines) == 7 and sum("perturb" not in line["env"] for line in lines) == 1  # 8 cells, the neutral one is shared
    assert lines[1]["env"]["perturb"] == [{"kind": "delay", "size": 100.0}] and {line["set"] for line in lines} == {"robustness"}
    (tmp_path / "out" / lines[2]["results"]).unlink()  # as if stopped before it was there
    assert result(tmp_path, *words) == first
    assert len(list(ledger.read(tmp_path / "out" / "ledger.jsonl"))) == 8
    page = (tmp_path / "out" / "robustness.html").read_text()
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 2 and all(xml.etree.ElementTree.fromstring(chart).tag == "svg" for chart in charts)
    assert "http" not in page.replace("http-equiv", "") and "expert" in page
    assert "half" in capsys.readouterr().out


@pytest.mark.parametrize(("key", "other"), [("suite_version", "an older definition"), ("policy", "gaussian"), ("packages", {})])
def test_what_was_measured_otherwise_is_measured_again(key: str, other: Any, tmp_path: Path) -> None:
    words = ("expert", "--task", "cartpole", "--kinds", "delay", "--sizes", "delay=100", "-n", 2, "--out", tmp_path / "out")
    result(tmp_path, *words)
    file = tmp_path / "out" / "ledger.jsonl"
    rows = list(ledger.read(file))
    file.write_text("".join(json.dumps({**row, key: other} if "perturb" in row["env"] else row) + "\n" for row in rows))
    result(tmp_path, *words)
    assert ["perturb" in row["env"] for row in ledger.read(file)] == [False, True, True]
    result(tmp_path, *words)
    assert len(list(ledger.read(file))) == 3


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The benchmark's folder, cut down to one bed and one policy, and what it gave."""
    folder = tmp_path_factory.mktemp("bench")
    return folder, run_benchmark("robustness", True, only="arm-push regression", folder=folder)


@pytest.fixture(scope="module")
def run(measured: tuple[Path, Result]) -> Path:
    """A run of arm/push, trained for a moment."""
    return measured[0] / "arm-push" / "runs" / "regression"


def test_the_benchmark_measures_every_cell_once_and_names_what_is_missing(measured: tuple[Path, Result]) -> None:
    folder, result = measured
    assert [row.name.partition(" [")[0] for row in result.rows] == ["arm-push, regression, " + what for what in ("unperturbed", "noise", "delay", "push")]
    assert len(result.missing) == 1 and result.missing[0].endswith("and 5 more: not measured (--only arm-push regression)")  # of 3 beds and 3 policies
    lines = list(ledger.read(folder / "arm-push" / "evaluations" / "ledger.jsonl"))
    assert len(lines) == 4 and {line["checkpoint_hash"] for line in lines} == {lines[0]["checkpoint_hash"]}
    again = run_benchmark("robustness", True, only="arm-push regression", folder=folder)
    assert again.rows == result.rows and len((folder / "results.jsonl").read_text().splitlines()) == 1
    assert "| regression |" in (folder / "arm-push" / "robustness.md").read_text()


def test_all_beds_share_what_must_be_equal() -> None:
    assert {kind for bed in robustness.BEDS for kind in bed.kinds} == set(KINDS)
    for bed in (*robustness.BEDS, *robustness.quick_beds()):
        changed = [key.partition("=")[0] for keys in bed.own.values() for key in keys]
        assert set(changed) <= {"training.optimizer.lr"} and set(bed.sizes) <= set(bed.kinds)


def test_noise_is_in_deviations_of_the_data_and_what_a_task_cannot_have_is_said(run: Path, tmp_path: Path) -> None:
    found = result(tmp_path, run, "expert", "-n", 2, "--out", tmp_path / "out", "--sizes", "noise=0.5", "--sizes", "drops=0.5", "--kinds", "noise,drops")
    assert [(c["policy"], c["kind"]) for c in found["curves"]] == [("regression", "noise"), ("regression", "drops")]
    assert found["left_out"] == [f"expert: perturbation {kind}: the scripted expert reads the true state" for kind in ("noise", "drops")]
    [noise] = [r for r in ledger.read(tmp_path / "out" / "ledger.jsonl") if "noise" in json.dumps(r["env"])]
    [scale] = [p["scale"] for p in noise["env"]["perturb"]]
    assert {name: len(values) for name, values in scale.items()} == {"observation.state": 17, "observation.environment_state": 4}
    assert all(0 <= value < 3 for values in scale.values() for value in values)


def test_without_kinds_all_that_the_task_can_have_are_measured(run: Path, tmp_path: Path) -> None:
    contest = prepare([str(run)], None, {"episodes": 2, "block": 2}, Purpose.REPORT, tmp_path)
    table = sweep(contest, [Ladder(kind.name, (kind.neutral, kind.ladder[-1])) for kind in KINDS.values() if kind.name != "light"], explicit=False)
    assert [c.ladder.kind for c in table.curves] == [name for name in KINDS if name in robustness.STATE_KINDS]
    assert [line.partition(":")[0] for line in table.left_out] == ["regression"] * 4 and "observe no pictures" in table.left_out[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--kinds", "nois"], "did you mean 'noise'"),
        (["--kinds", "mass", "--sizes", "delay=3"], "not among the kinds mass"),
        (["--kinds", "mass", "--sizes", "mass=a"], "expected numbers"),
        (["--kinds", "mass", "--sizes", "mass=0"], "expected 0.001 to 1000"),
        (["--sizes", "mass"], "expected KIND=..."),
        (["--kinds", "camera"], "nothing is seen"),
        (["--kinds", "noise"], "reads the true state"),
        (["--kinds", "mass", "expert"], "is given twice"),
        (["--kinds", "mass", "--sizes", "mass=2", "--sizes", "mass=4"], "--sizes 'mass=2': mass is given twice; expected it once"),
        (["--kinds", "mass", "--element", "mass=pole", "--element", "mass=cart"], "--element 'mass=pole': mass is given twice"),
    ],
)
def test_mistakes_are_one_line(words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["robustness", "expert", "--task", "cartpole", "-n", "2", "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_eval_takes_a_perturbation_too(run: Path, tmp_path: Path) -> None:
    words = ["eval", str(run), "-n", "3", "--perturb", "noise:0.1", "--perturb", "latency:100", "--out", str(tmp_path), "--quiet"]
    assert main(words) == 0
    [line] = ledger.read(tmp_path / "ledger.jsonl")
    assert [p["kind"] for p in line["env"]["perturb"]] == ["noise", "latency"]


def test_a_perturbation_in_words_is_recorded_as_one_in_a_mapping() -> None:
    asked: dict[str, Any] = {"episodes": 1, "block": 1, "latency_calls": 0, "progress": False}
    forms: tuple[Any, ...] = ("delay:100", ["delay:100"], {"kind": "delay", "size": 100}, [{"kind": "delay", "size": 100.0}])
    found = [evaluate("expert", "cartpole", env={"perturb": form, "max_episode_steps": 3}, **asked) for form in forms]
    assert {e.conditions for e in found} == {"delay 100"} and len({e.world for e in found}) == 1
