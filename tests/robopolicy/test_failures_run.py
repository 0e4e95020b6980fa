"""The search for failures on a task: resumable to the bit, refused in a foreign folder, one row of the ledger that is no plain evaluation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.bench import failures as bench
from robopolicy.bench.cells import RESULTS
from robopolicy.cli import main
from robopolicy.evaluation import ledger
from robopolicy.evaluation.failures import Design
from robopolicy.evaluation.failures_run import Found, Search, search_failures
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.seeds import REPORT, SELECTION

#: With 40 steps the expert of two routes is too slow in some 6 % of the episodes.
SEARCH = Search("expert", "two-route", Design(230), 920, block=115, env={"max_episode_steps": 40})


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return search_failures(SEARCH, tmp_path_factory.mktemp("search") / "found", progress=False)


def test_rollouts_are_those_of_a_plain_evaluation_and_the_interval_holds_its_rate(searched: Found) -> None:
    plain = evaluate("expert", "two-route", episodes=920, seed0=REPORT, block=115, env={"max_episode_steps": 40}, progress=False)
    outcomes = {e.seed: e.success for e in plain.episodes}
    assert all(outcomes[e.seed] == e.success for e in searched.episodes) and len({e.seed for e in searched.episodes}) == 230
    truth = 1 - plain.success_rate
    assert searched.estimate.low < truth < searched.estimate.high and searched.estimate.failures > 3
    assert np.load(searched.folder / "features.npy").shape == (920, 2)


def test_what_is_written_says_it_is_no_success_rate(searched: Found) -> None:
    written = json.loads((searched.folder / "failures.json").read_text())
    assert written["failure_rate"] == pytest.approx(sum(e["weight"] for e in written["episodes"] if not e["success"]), rel=1e-9)
    assert written["worst"] and {w["seed"] for w in written["worst"]} <= {e["seed"] for e in written["episodes"] if not e["success"]}
    (row,) = ledger.read(searched.folder.parent / ledger.FILE)
    assert row["mode"] == "failures" and row["failure_rate"] == written["failure_rate"] and row["episodes"] == 920 and row["rollouts"] == 230
    assert "successes" not in row and row["results"] == "found/failures.json" and row["id"]
    assert not list(searched.folder.rglob("evaluation.json")), "nothing here may be read as an evaluation"


def test_a_search_that_was_stopped_goes_on_to_the_same_bits(searched: Found, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    folder.mkdir()
    lines = (searched.folder / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (folder / "rollouts.jsonl").write_text("".join(lines[: len(lines) // 2]) + lines[-1][:50])  # and one torn by the kill
    for name in ("settings.json",):
        (folder / name).write_bytes((searched.folder / name).read_bytes())
    (folder / "actions").mkdir()
    for file in (searched.folder / "actions").iterdir():
        (folder / "actions" / file.name).write_bytes(file.read_bytes())
    again = search_failures(SEARCH, folder, progress=False)
    assert again.estimate.rate == searched.estimate.rate and list(again.episodes) == list(searched.episodes)
    before = len((folder / "rollouts.jsonl").read_text().splitlines())
    once_more = search_failures(SEARCH, folder, progress=False)
    assert once_more.estimate.rate == again.estimate.rate and len((folder / "rollouts.jsonl").read_text().splitlines()) == before
    assert len(list(ledger.read(tmp_path / ledger.FILE))) == 1, "the same estimate is entered once"
    (tmp_path / ledger.FILE).unlink()  # as if killed between the two files
    search_failures(SEARCH, folder, progress=False)
    assert len(list(ledger.read(tmp_path / ledger.FILE))) == 1, "and it is entered"


def test_a_place_that_cannot_be_a_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["failures", "expert", "--task", "two-route", "-n", "300", "--out", str(tmp_path / "file"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "a search cannot be begun here" in error and error.count("\n") == 1


def test_a_pool_that_is_too_small_leaves_the_folder_to_the_next_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a pool of 300 seeds is too small for 230 rollouts: expected at least 920"):
        search_failures(dataclasses.replace(SEARCH, pool=300), tmp_path / "found", progress=False)
    assert not (tmp_path / "found").exists()


def test_a_folder_of_another_search_is_refused(searched: Found) -> None:
    with pytest.raises(InputError, match="holds a search with pool 920, not 1000: give another folder"):
        search_failures(dataclasses.replace(SEARCH, pool=1000), searched.folder, progress=False)


def test_a_search_does_not_go_on_with_other_physics(searched: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "packages", lambda: {**json.loads((searched.folder / "failures.json").read_text())["packages"], "mujoco": "0.1"})
    with pytest.raises(InputError, match=r"holds a search with packages.mujoco '[0-9.]+', not '0.1': give another folder"):
        search_failures(SEARCH, searched.folder, progress=False)


def test_an_earlier_policys_evaluation_is_learnt_from_and_one_of_another_world_is_refused(searched: Found, tmp_path: Path) -> None:
    """The expert with fewer steps is a weaker policy in the same world, were it not for the time limit, which makes it another one."""
    lesson = evaluate("expert", "two-route", episodes=230, seed0=SELECTION, block=115, env={"max_episode_steps": 40}, progress=False)
    found = search_failures(dataclasses.replace(SEARCH, learn_from=[lesson]), tmp_path / "told", progress=False)
    assert np.ptp(searched.estimate.rounds[0].chance) == 0 < np.ptp(found.estimate.rounds[0].chance), "the first round is not even any more"
    with pytest.raises(InputError, match="holds a search with learn_from"):
        search_failures(SEARCH, tmp_path / "told", progress=False)
    lesson.max_episode_steps = 30
    with pytest.raises(InputError, match="is of another world: expected"):
        search_failures(dataclasses.replace(SEARCH, learn_from=[lesson]), tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists(), "what is refused leaves nothing behind"
    assert "learn_from" not in json.loads((searched.folder / "settings.json").read_text()), "folders from before go on"


def test_the_command_prints_the_rate_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["failures", "expert", "--task", "two-route", "--rollouts", "230", "--pool", "920", "--block", "115", "--quiet"]
    assert main([*words, "--out", str(tmp_path / "f"), "--json", str(tmp_path / "f.json")]) == 0
    said, written = capsys.readouterr().out, json.loads((tmp_path / "f.json").read_text())
    assert "failure rate 0.00%" in said and "0 failures in 230 rollouts from 920 seeds" in said and written["failure_rate"] == 0
    assert written["interval95"][1] > 3.6 / 230
    assert main([*words[:4], "--rollouts", "50", "--out", str(tmp_path / "g")]) == 2
    assert "expected at least 230 rollouts, found 50" in capsys.readouterr().err


def test_the_benchmark_repeats_the_estimator_on_the_table_that_is_there(tmp_path: Path) -> None:
    """A table with a known rate in place of trained cells: bias, variance and coverage are those of the estimator's own checks."""
    size, generator = bench.Size(3000, 1500, (600,), 20), np.random.default_rng(4)
    training, *rolling, early = bench.planned(tmp_path, size)
    ledger.append(tmp_path / RESULTS, {"key": training.key, "name": training.name, "row": {"checkpoint": "none", "seconds": 1.0}})
    for cell in (*rolling, early):
        x = generator.random((1500, 2))
        failed = generator.random(1500) < np.where(x[:, 0] < 0.06, 0.5, 0.001)
        margins = (1 - x[:, :1]) + 0.2 * generator.standard_normal((1500, 1))
        row = {"failed": failed.astype(int).tolist(), "margins": margins.tolist(), "features": x.tolist(), "wall_s": 1.0, "cpu_s": 2.0, "reset_cpu_s": 0.5}
        ledger.append(tmp_path / RESULTS, {"key": cell.key, "name": cell.name, "row": row})
    result = bench.measure(tmp_path, size, progress=False)
    rate, bias, variance, coverage, width, *more = result.rows
    told, adverse = more[:4], more[4:]
    assert result.missing == [] and 0.02 < rate.value < 0.045 and rate.cpu_s == 4.0 and len(adverse) == 4
    assert bias.value < 4 and 0.1 < variance.value < min(0.8, adverse[1].value) and coverage.value > 0.8
    assert "after an earlier" in told[1].name and told[0].value < 4 and told[1].value < variance.value, "the same places are dangerous"
    assert width.peer_value is not None and width.value < width.peer_value and "takes 25 % of the CPU time" in result.notes[1]
