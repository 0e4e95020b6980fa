"""An on-policy run that is killed goes on bit for bit; one that is stopped says what is lost; threads stay what they were."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy.config import read_yaml
from robopolicy.recipe import recipe_from_dict
from robopolicy.training import threads as threads_module
from robopolicy.training import trial_session
from robopolicy.training.log import read_log
from robopolicy.training.on_policy import train
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from robopolicy.training.trial_state import read_facts
from tests.robopolicy.on_policy_runs import finish, outcome, recipe, start
from tests.robopolicy.trainings import kill_often

STEPS, MARKS = 8 * 16 * 30, 8 * 16 * 4  # of a run in all, and from mark to mark


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """An uninterrupted run: (outcome, seconds from its first row to its last)."""
    run = tmp_path_factory.mktemp("unbroken") / "run"
    finish(recipe(run))
    rows = list(read_log(run))
    return outcome(run), rows[-1]["time"] - rows[0]["time"]


def killed_run(run: Path, kills: int, seconds: float, seed: int) -> list[int]:
    """Train with ``kills`` kills at random moments, then to the end; returns the steps at which it went on."""
    wanted = recipe(run)
    steps = kill_often(start, wanted, kills, seconds, seed)
    finish(wanted)
    return steps


def test_killed_three_times(unbroken, tmp_path):
    expected, seconds = unbroken
    steps = killed_run(tmp_path / "run", kills=3, seconds=seconds, seed=0)
    assert all(step % MARKS == 0 or step == STEPS for step in steps)
    found = outcome(tmp_path / "run")
    assert found[:3] == expected[:3], f"killed at {steps}"
    assert found[3] == expected[3], f"killed at {steps}"


def test_killed_in_the_first_part_the_third_and_the_last(unbroken, tmp_path):
    """Where the moments above fall hangs on the machine; these do not."""
    wanted, folder = recipe(tmp_path / "run"), RunFolder(tmp_path / "run")
    for iteration, mark in ((2, None), (10, 8), (29, 28)):
        process = start(wanted, (iteration, signal.SIGKILL))
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        states = folder.states_newest_first()
        assert (states[0][0] if states else None) == (None if mark is None else mark * 8 * 16)
    finish(wanted)
    assert outcome(tmp_path / "run") == unbroken[0]


@pytest.mark.soak
def test_killed_sixteen_times(unbroken, tmp_path):
    expected, seconds = unbroken
    for seed in range(4):
        steps = killed_run(tmp_path / f"run{seed}", kills=4, seconds=seconds, seed=100 + seed)
        assert outcome(tmp_path / f"run{seed}") == expected, f"killed at {steps}"


def test_a_stop_goes_on_from_the_last_mark(unbroken, tmp_path):
    wanted = recipe(tmp_path / "run")
    process, folder = start(wanted, (6, signal.SIGTERM)), RunFolder(wanted.output)
    process.join(120)
    said = Path(f"{wanted.output}.txt").read_text()
    assert process.exitcode == 130, said
    mark = read_facts(folder.states_newest_first()[0][1])["step"]
    assert f"of {STEPS}; the same command goes on from step {mark}" in said and mark % MARKS == 0
    assert find_checkpoint(tmp_path / "run").name == f"step_{mark:06d}"
    finish(wanted)
    assert outcome(tmp_path / "run") == unbroken[0]


def test_a_damaged_state_is_passed_over(unbroken, tmp_path, capsys):
    wanted = recipe(tmp_path / "run")
    train(wanted, progress=False)
    newest = RunFolder(wanted.output).states_newest_first()
    newest[0][1].write_bytes(newest[0][1].read_bytes()[:-100])
    assert train(wanted, progress=False).resumed_from == newest[1][0] == 28 * 8 * 16
    assert "truncated" in capsys.readouterr().err
    assert outcome(tmp_path / "run") == unbroken[0]


def test_a_finished_run_is_left_alone_and_fresh_begins_anew(tmp_path, capsys):
    wanted = recipe(tmp_path / "run", steps=300)
    first = train(wanted, progress=False)
    assert first.steps == 384 and first.checkpoint.name == "step_000384"  # whole iterations of 128
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    again = train(wanted, progress=False)
    assert again.resumed_from == 384 and again.checkpoint == first.checkpoint and "is finished" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(InputError, match=r"another recipe: training\.gamma is 0\.99 there, 0\.9 here"):
        train(recipe(tmp_path / "run", steps=300, gamma=0.9), progress=False)
    assert train(recipe(tmp_path / "run", steps=100, gamma=0.9), progress=False, resume="never").steps == 128
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_000128"]


def test_threads_are_measured_once_and_kept(tmp_path, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(trial_session, "available_cores", lambda: 2)
    monkeypatch.setattr(trial_session, "fastest", lambda update, cores: asked.append(cores) or cores)
    wanted = recipe(tmp_path / "run", steps=200, threads=None)
    train(wanted, progress=False)
    assert asked == [2] and read_yaml(tmp_path / "run" / "recipe.yaml")["training"]["threads"] == 2
    from policies.checkpoint import read_manifest

    assert read_manifest(find_checkpoint(tmp_path / "run"))["recipe"]["training"]["threads"] == 2
    RunFolder(wanted.output).states_newest_first()[0][1].unlink()
    train(wanted, progress=False)  # goes on, or begins anew in the same folder: with what was measured
    assert asked == [2]
    saved = recipe_from_dict(read_yaml(tmp_path / "run" / "recipe.yaml"), "saved")
    assert threads_module.threads_of(saved) == 2


def test_the_faster_number_of_threads_is_chosen():
    import torch

    def update_faster_with(count: int):
        def update() -> None:
            time.sleep(0.002 if torch.get_num_threads() == count else 0.02)

        return update

    before = torch.get_num_threads()
    assert threads_module.fastest(update_faster_with(1), 2) == 1
    assert threads_module.fastest(update_faster_with(2), 2) == 2
    assert threads_module.fastest(update_faster_with(1), 1) == 1
    assert torch.get_num_threads() == before


def test_the_network_that_is_measured_is_a_copy():
    import torch

    from policies import registry
    from policies.normalize import limits_normalizer
    from sim.registry import make

    spec, kind = make("classic/cartpole").spec, registry.policy_class("gaussian")
    for memory in ("none", "gru"):
        policy = kind(kind.Config(hidden=[8], memory={"type": memory}), spec, limits_normalizer(spec))  # type: ignore[call-arg]
        before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
        threads_module.loss_and_gradient(policy, 32)()
        assert all(p.grad is None for p in policy.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_a_curriculum_goes_on_where_it_was(tmp_path):
    curriculum = {"level": 1.0, "window": 12, "step": 0.05, "raise_above": 0.9, "lower_below": 0.1}  # 30 steps are too few to succeed
    env = {"randomize": {"model": {"mass:pole": {"scale": {"log_uniform": [0.3, 3.0]}}}, "curriculum": curriculum}}
    wanted = recipe(tmp_path / "run", env=env, steps=1500)
    train(wanted, progress=False)
    expected, states = outcome(tmp_path / "run"), RunFolder(wanted.output).states_newest_first()
    assert 0.0 < read_facts(states[0][1])["curriculum"]["level"] < read_facts(states[1][1])["curriculum"]["level"] < 1.0
    states[0][1].unlink()
    assert train(wanted, progress=False).resumed_from == states[1][0] > 0
    assert outcome(tmp_path / "run") == expected


def test_marks_that_leave_no_time_for_an_episode_are_said(tmp_path):
    """Only the first steps of episodes were ever seen, with nothing that said so."""
    said: dict[int, list[str]] = {1: [], 2: []}
    for every, notes in said.items():
        train(recipe(tmp_path / str(every), steps=8 * 16 * 3, checkpoint_every=every), progress=False, note=notes.append)
    (note,) = said[1]
    assert note.startswith("training.checkpoint_every=1 is 16 steps of each world") and note.endswith("the task's last 30") and not said[2]
