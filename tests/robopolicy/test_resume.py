"""A run that is killed goes on bit for bit: weights, average, optimiser and log are those of an unbroken run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy.config import read_yaml
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.imitation import train
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from robopolicy.training.state import read_facts
from tests.robopolicy.small_runs import TRANSFORMER, finish, outcome, recipe, start
from tests.robopolicy.trainings import kill_often


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """An uninterrupted run with dropout: (outcome, seconds from its first row to its last)."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    finish(recipe(run, TRANSFORMER))
    rows = list(read_log(run))
    return outcome(run), rows[-1]["time"] - rows[0]["time"]


def killed_run(run: Path, kills: int, seconds: float, seed: int) -> list[int]:
    """Train with ``kills`` kills at random moments, then to the end; returns the steps at which it went on."""
    wanted = recipe(run, TRANSFORMER)
    steps = kill_often(start, wanted, kills, seconds, seed)
    finish(wanted)
    return steps


def test_killed_four_times(unbroken, tmp_path):
    expected, seconds = unbroken
    for seed in range(3):  # a fast machine may be done before the kills come; one that is hit is enough
        steps = killed_run(tmp_path / f"run{seed}", kills=4, seconds=seconds, seed=seed)
        assert outcome(tmp_path / f"run{seed}") == expected, f"killed at {steps}"
        if any(0 < step < 60 for step in steps):
            return
    pytest.fail("no kill hit a run between its first and its last checkpoint")


@pytest.mark.soak
def test_killed_twenty_times(unbroken, tmp_path):
    expected, seconds = unbroken
    for seed in range(5):
        steps = killed_run(tmp_path / f"run{seed}", kills=4, seconds=seconds, seed=100 + seed)
        assert outcome(tmp_path / f"run{seed}") == expected, f"killed at {steps}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_at_once_and_goes_on(unbroken, tmp_path, number):
    wanted = recipe(tmp_path / "run", TRANSFORMER)
    process = start(wanted)
    folder = RunFolder(wanted.output)
    while not folder.states_newest_first():
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    said = Path(f"{wanted.output}.txt").read_text()
    assert process.exitcode == 130, said
    step = read_facts(folder.states_newest_first()[0][1])["step"]
    assert f"stopped at step {step} of 60; all is saved, the same command goes on from here" in said
    assert find_checkpoint(tmp_path / "run").name == f"step_{step:06d}"
    finish(wanted)
    assert outcome(tmp_path / "run") == unbroken[0]


def test_a_damaged_state_is_passed_over(unbroken, tmp_path, capsys):
    wanted = recipe(tmp_path / "run", TRANSFORMER)
    train(wanted, progress=False)
    newest = RunFolder(wanted.output).states_newest_first()
    newest[0][1].write_bytes(newest[0][1].read_bytes()[:-100])
    result = train(wanted, progress=False)
    assert result.resumed_from == newest[1][0] == 56
    assert "truncated" in capsys.readouterr().err
    assert outcome(tmp_path / "run") == unbroken[0]


def test_a_finished_run_is_left_alone(tmp_path, capsys):
    wanted = recipe(tmp_path / "run", steps=10)
    first = train(wanted, progress=False)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    again = train(wanted, progress=False)
    assert again.resumed_from == 10 and again.checkpoint == first.checkpoint
    assert "is finished" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_fresh_begins_anew(tmp_path):
    train(recipe(tmp_path / "run", steps=10), progress=False)
    wanted = recipe(tmp_path / "run", steps=8, seed=4)
    assert train(wanted, progress=False, resume="never").resumed_from == 0
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step_000007", "step_000008"]
    assert max(row["step"] for row in read_log(tmp_path / "run")) == 8


def test_another_recipe_is_refused(tmp_path):
    train(recipe(tmp_path / "run", steps=8), progress=False)
    with pytest.raises(InputError, match=r"run holds a run with another recipe: training\.optimizer\.lr is 0\.001 there, 0\.002 here"):
        train(recipe(tmp_path / "run", steps=8, optimizer={"lr": 2e-3}), progress=False)


def test_other_data_is_refused(tmp_path):
    from robopolicy.data.collect import collect

    data = tmp_path / "data"
    collect("two-route", data, episodes=3, workers=1, progress=False)
    wanted = recipe(tmp_path / "run", steps=20, data={"path": str(data)})
    train(wanted, progress=False)
    RunFolder(wanted.output).states_newest_first()[0][1].unlink()
    collect("two-route", data, episodes=4, workers=1, progress=False)
    with pytest.raises(InputError, match=r"data set .*data has changed since this run began"):
        train(wanted, progress=False)


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    for resume in ("auto", "never"):
        with pytest.raises(InputError, match=r"holds 'thesis\.tex' and no training run"):
            train(recipe(tmp_path), progress=False, resume=resume)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    with pytest.raises(InputError, match="a file is in the way"):
        train(recipe(tmp_path / "thesis.tex"), progress=False)


def test_fresh_deletes_only_what_a_run_writes(tmp_path):
    train(recipe(tmp_path / "run", steps=8), progress=False)
    (tmp_path / "run" / "notes.txt").write_text("precious")
    train(recipe(tmp_path / "run", steps=9), progress=False, resume="never")
    assert (tmp_path / "run" / "notes.txt").read_text() == "precious"


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    wanted = recipe(tmp_path / "run")
    folder = RunFolder(wanted.output)
    folder.open(wanted)
    with pytest.raises(InputError, match="another process is training in it"):
        train(wanted, progress=False)
    folder.close()
    assert train(recipe(tmp_path / "run"), progress=False).resumed_from == 0


def test_the_saved_recipe_repeats_the_run(tmp_path):
    wanted = recipe(tmp_path / "run", steps=8)
    train(wanted, progress=False)
    again = recipe_from_dict(read_yaml(tmp_path / "run" / "recipe.yaml"), "saved")
    again.output = str(tmp_path / "again")
    train(again, progress=False)
    assert outcome(tmp_path / "again")[0] == outcome(tmp_path / "run")[0]
