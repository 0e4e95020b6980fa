"""Sweeps: what is run, that it goes on after a kill, that one cell's failure is its own, and what the report says."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.data.dataset import Dataset
from robopolicy.evaluation.study import read_results
from robopolicy.sweep import Sweep, cells_of, check, collect_first, parse_axes, run_sweep
from robopolicy.sweep_cell import run_cell, trained_seconds
from robopolicy.sweep_report import groups_of, markdown, mean_of, write
from tests.robopolicy.forked import command
from tests.robopolicy.small_runs import demonstrations

ROOT = Path(__file__).parents[2]
TINY = ["training.steps=5", "training.checkpoint_every=5", "training.log_every=1", "policy.mlp={width: 16, blocks: 1}", "data.episodes=4"]


def data() -> list[str]:
    return [*TINY, "data.collect=10", f"data.path={demonstrations()}"]


def test_values_ranges_and_brackets() -> None:
    axes, fixed = parse_axes(["seed=0..2", "policy=flow,diffusion", "policy.hidden=[64, 64],[8]", "training.steps=5", "env.reward='a,b',c"])
    assert [(axis.key, axis.values) for axis in axes] == [
        ("seed", ("0", "1", "2")),
        ("policy", ("flow", "diffusion")),
        ("policy.hidden", ("[64, 64]", "[8]")),
        ("env.reward", ("'a,b'", "c")),
    ]
    assert fixed == ["training.steps=5"]
    (lr,), _ = parse_axes(["training.optimizer.lr=1e-4..1e-2"])
    assert lr.span == (1e-4, 1e-2)


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (["seed"], "expected KEY=V1"),
        (["=1"], "expected KEY=V1"),
        (["seed="], "expected values behind the sign"),
        (["seed=1,,2"], "expected values behind the sign"),
        (["seed=0..1", "seed=4"], "given twice"),
        (["seed=3..1"], "is no range"),
        (["seed=0..99999"], "at most 10000"),
        (["training.optimizer.lr=1e-4..1e-2"], "draw from it with --random"),
        (["training.optimizer.lr=1e-4..1e-2,3"], "stands alone"),
        (["seed=0..999", "training.steps=1..999"], "at most 10000"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(items: list[str], text: str) -> None:
    with pytest.raises(InputError, match=text) as error:
        cells_of("quickstart", items)
    assert "\n" not in str(error.value)


def test_a_grid_has_every_combination_and_every_cell_its_own_folder() -> None:
    cells = cells_of("quickstart", ["policy=flow,regression", "seed=0..2"])
    assert [cell.settings for cell in cells][:2] == [("policy=flow", "seed=0"), ("policy=flow", "seed=1")]
    assert len({cell.name for cell in cells}) == len({cell.key for cell in cells}) == 6
    assert {cell.group for cell in cells} == {"policy=flow", "policy=regression"}


def test_draws_are_the_same_every_time_and_each_has_all_seeds() -> None:
    items = ["training.optimizer.lr=1e-4..1e-2", "policy=flow,regression", "seed=0,1"]
    cells = cells_of("quickstart", items, draws=5)
    assert [c.settings for c in cells] == [c.settings for c in cells_of("quickstart", items, draws=5)]
    assert len(cells) == 10 and {c.settings[-1] for c in cells} == {"seed=0", "seed=1"}
    rates = [float(c.settings[0].partition("=")[2]) for c in cells]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates) and len(set(rates)) == 5


def test_as_many_combinations_are_drawn_as_were_asked_for_or_as_there_are() -> None:
    """One that was drawn twice was run once: three draws of two algorithms tried one of them."""
    items = ["policy=flow,regression", "data.episodes=1..3"]
    for draws in (1, 2, 3, 6, 7):
        assert len({cell.key for cell in cells_of("quickstart", items, draws)}) == min(draws, 6)
    assert len(cells_of("quickstart", ["training.optimizer.lr=0.1..0.1"], 3)) == 1
    assert len(cells_of("quickstart", ["training.optimizer.lr=1e-4..1e-2"], 50)) == 50


def test_mistakes_are_said_before_anything_runs(tmp_path: Path) -> None:
    done = command(["sweep", "quickstart", "trainig.steps=5,6", "--out", "out"], tmp_path)
    assert done.returncode == 2 and "did you mean 'training'" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = command(["sweep", "quickstart", "training.steps=5,6", "--address", "10.0.0.5:6379", "--out", "out"], tmp_path)
    assert done.returncode == 2 and done.stderr == "error: --address 10.0.0.5:6379: goes with --engine ray\n"
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="a sweep cannot be begun here"):
        run_sweep(cells_of("quickstart", ["seed=0,1"]), tmp_path / "file", progress=False)
    with pytest.raises(InputError, match="should be a valid integer"):
        check(cells_of("quickstart", ["policy=flow,regression", "training.steps=many"]), tmp_path)


def test_a_sweep_that_was_killed_goes_on_and_finished_cells_are_not_run_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    items = ["seed=0,1", *data()]
    words = [sys.executable, "-m", "robopolicy", "sweep", "quickstart", *items, "--out", str(out), "--quiet"]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while not read_results(out) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (before,) = read_results(out)
    found = run_sweep(cells_of("quickstart", items), out, progress=False)
    assert not found.failed and [row["steps"] for row in found.rows] == [5, 5]
    assert found.rows[0] == before and len(read_results(out)) == 2
    assert [row["settings"] for row in found.rows] == [["seed=0"], ["seed=1"]]
    assert found.rows[0]["loss"] != found.rows[1]["loss"] and len(found.rows[0]["curve"]) == 5
    page = write(found, out).read_text()
    assert "<svg" in page and 'class="band"' in page and "http" not in page.replace("http-equiv", "")


def test_the_seconds_of_a_cell_are_those_of_all_its_calls(tmp_path: Path) -> None:
    """A cell that was stopped and went on, or was evaluated anew, told the seconds of the last call alone."""
    rows = [("begin", 0, 100.0), ("train", 5, 103.0), ("checkpoint", 5, 104.0), ("resume", 5, 900.0), ("train", 9, 902.5), ("end", 9, 903.0)]
    lines = [{"event": event, "step": step, "time": at, **({"seconds": 3.5} if event == "end" else {})} for event, step, at in rows]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert trained_seconds(tmp_path) == 4.0 + 3.5
    (cell,) = cells_of("quickstart", data())
    first = run_cell(cell, tmp_path)
    assert first["seconds"] > 0 and run_cell(cell, tmp_path)["seconds"] == first["seconds"]


def test_a_list_of_words_is_shown_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed table took [observation.state] for markup, and said nothing."""
    group = "policy.observations=[observation.state] training.optimizer.lr=0.0001 training.batch_size=128 data.episodes=100"
    monkeypatch.setattr("robopolicy.sweep.run_sweep", lambda *_, **__: Sweep([row(group, 0, success=0.5)], []))
    assert main(["sweep", "quickstart", "seed=0,1", "--out", str(tmp_path), "--quiet"]) == 0
    assert f"│ {group} │" in capsys.readouterr().out


def test_results_of_what_a_recipe_was_before_are_not_shown_for_it(tmp_path: Path) -> None:
    """After a change of its file the same command showed the old results again, as if they were of the new recipe."""
    recipe, out = tmp_path / "mine.yaml", tmp_path / "out"
    recipe.write_text("task: two-route\npolicy: {type: flow}\ntraining: {batch_size: 8}\n", encoding="utf-8")
    cells = cells_of(str(recipe), ["seed=0,1", *data()])
    assert not run_sweep(cells[:1], out, progress=False).failed and len(run_sweep(cells[:1], out, progress=False).rows) == 1
    recipe.write_text("task: two-route\npolicy: {type: flow}\ntraining: {batch_size: 16}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds the result of seed_0.* with training.batch_size 8, not 16: .*mine.yaml has changed; take another folder"):
        run_sweep(cells, out, progress=False)
    assert len(read_results(out)) == 1


def test_a_run_that_resolves_its_recipe_further_is_shown_again(tmp_path: Path) -> None:
    """Settings that are scaled with the worlds stand in the run's recipe as they came out."""
    tiny = ["training.worlds=4", "training.reference_worlds=2", "training.rollout=2", "training.minibatches=1", "training.epochs=1", "training.steps=8"]
    cells = cells_of("rl/cartpole", ["seed=0", "training.checkpoint_every=1", "training.threads=1", *tiny], evaluate=0)
    assert not run_sweep(cells, tmp_path, progress=False).failed and len(run_sweep(cells, tmp_path, progress=False).rows) == 1


def test_a_cell_that_fails_is_named_and_the_exit_code_is_one(tmp_path: Path) -> None:
    items = ["data.episodes=4,999", *(item for item in data() if not item.startswith("data.episodes"))]
    done = command(["sweep", "quickstart", *items, "--out", str(tmp_path / "out"), "-q", "--evaluate", "2"], tmp_path)
    assert done.returncode == 1, done.stderr
    assert "failed: data.episodes_999" in done.stdout and "has 10 episodes" in done.stdout
    (row,) = read_results(tmp_path / "out")
    assert row["episodes"] == 2 and 0 <= row["success"] <= 1
    assert "1 cells failed" in (tmp_path / "out/report.md").read_text()


def test_demonstrations_that_cells_of_trial_share_are_collected_once_before_they_run(tmp_path: Path) -> None:
    """Cells beside each other began to collect into one data set: all but one failed, or learnt from what there was of it."""
    training = "{steps: 10, random_steps: 4, batch_size: 4, threads: 1, reward: {sparse: true}, demonstrations: {path: %s, collect: 2}}"
    recipe = tmp_path / "shared.yaml"
    recipe.write_text(
        f"task: two-route\nalgo: {{type: rlpd, hidden: [8]}}\npolicy: {{hidden: [8]}}\ntraining: {training % (tmp_path / 'shown')}\n", encoding="utf-8"
    )
    collect_first(check(cells_of(str(recipe), ["seed=0,1"]), tmp_path / "out"), progress=False)
    assert Dataset.open(tmp_path / "shown").num_episodes == 2
    found = run_sweep(cells_of(str(recipe), ["seed=0,1"]), tmp_path / "out", workers=2, progress=False)
    assert not found.failed and [row["steps"] for row in found.rows] == [10, 10]


def row(group: str, seed: int, **numbers: float) -> dict[str, object]:
    return {"group": group, "settings": [group, f"seed={seed}"], "seconds": 1.0, "steps": 5, "measure": "return", "curve": [[1, 0.5], [5, 1.0]], **numbers}


def test_means_have_intervals_and_the_best_comes_first() -> None:
    mean = mean_of([1.0, 2.0, 3.0])
    assert mean.value == 2.0 and mean.low is not None and math.isclose(2.0 - mean.low, 4.303 / math.sqrt(3), rel_tol=1e-4)  # t of 2 degrees
    assert mean_of([4.0]).low is None
    many = mean_of([float(i % 2) for i in range(22)])  # 21 degrees of freedom, 2.0796: not yet a normal distribution
    assert many.high is not None and math.isclose(many.high - 0.5, 2.0796 * math.sqrt(0.25 * 22 / 21) / math.sqrt(22), rel_tol=1e-4)
    rows = [row("a=1", 0, success=0.2), row("a=1", 1, success=0.4), row("a=2", 0, success=0.9)]
    assert list(groups_of(rows)) == ["a=2", "a=1"]
    losses = [row("b=1", 0, loss=0.2), row("b=2", 0, loss=0.1)]
    assert list(groups_of(losses)) == ["b=2", "b=1"]
    text = markdown(Sweep(rows, [(cells_of("quickstart", ["seed=0,1"])[0], "no room")]))
    assert text.splitlines()[2].startswith("| a=2 | 1 | 0.9 |") and "0.3 [" in text and "no room" in text
    assert json.dumps(rows)
