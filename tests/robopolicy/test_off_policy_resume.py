"""An off-policy run that is killed goes on bit for bit: weights, optimisers, replay, priorities and log are those of an unbroken run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from policies.spec import InputError
from robopolicy.data.collect import collect
from robopolicy.recipe_trial import TrialRecipe
from robopolicy.training import off_policy
from robopolicy.training.log import read_log
from robopolicy.training.off_policy_actor import Actor
from robopolicy.training.run_folder import RunFolder
from tests.robopolicy.off_policy_runs import Point, outcome, recipe, start
from tests.robopolicy.small_runs import demonstrations


class Power(RuntimeError):
    """It was cut."""


def train(wanted: TrialRecipe, note=lambda text: None) -> Any:
    return off_policy.train(wanted, progress=False, note=note)


def break_at(monkeypatch, wanted: TrialRecipe, steps: int, do) -> None:
    """Train until the worlds have done that many control steps, and then ``do`` something."""
    whole = Actor.step

    def step(self: Actor, cut: bool = False):
        if self.steps == steps:
            do()
        return whole(self, cut)

    with monkeypatch.context() as patch:
        patch.setattr(Actor, "step", step)
        with pytest.raises((Power, KeyboardInterrupt)):
            train(wanted)


def cut_power() -> None:
    raise Power


HARDER = {
    "model": {"gravity.z": {"scale": [0.5, 8.0]}, "mass:pole": {"scale": [0.2, 5.0]}},
    "curriculum": {"level": 0.5, "window": 2, "step": 0.1, "raise_above": 0.6, "lower_below": 0.5},
}
RUNS: dict[str, dict[str, Any]] = {
    "memory": {},
    "memory wrapped": {"replay": {"capacity": 50, "n_step": 2}},
    "disk": {"replay": {"place": "disk", "n_step": 3}},
    "prioritized": {"replay": {"sampling": "prioritized", "capacity": 60}, "normalize_observations": True},
    "prioritized on disk": {"replay": {"sampling": "prioritized", "place": "disk"}},
    "fractional": {"worlds": 3, "update_ratio": 0.3},
    "curriculum": {"env": {"max_episode_steps": 8, "randomize": HARDER}},
    "curriculum, judged": {"env": {"max_episode_steps": 8, "randomize": HARDER}, "reward": {"sparse": True}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_broken_run_goes_on_exactly(tmp_path, monkeypatch, name):
    changes = {"steps": 120, "update_ratio": 0.5, **RUNS[name]}
    train(recipe(tmp_path / "unbroken", **changes))
    wanted, worlds = recipe(tmp_path / "run", **changes), changes.get("worlds", 2)
    for steps in (10, 62, 105):  # before the first mark, and in the middle of parts
        break_at(monkeypatch, wanted, steps // worlds, cut_power)
    assert 0 < train(wanted).resumed_from < 120
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


def test_it_matters_that_the_replay_is_brought_back(tmp_path, monkeypatch):
    """The same without the rows that were kept is another run: the test above can fail."""
    train(recipe(tmp_path / "unbroken", replay={"sampling": "prioritized"}, steps=80))
    wanted = recipe(tmp_path / "run", replay={"sampling": "prioritized"}, steps=80)
    break_at(monkeypatch, wanted, 30, cut_power)
    with monkeypatch.context() as patch:
        patch.setattr("robopolicy.training.replay.Replay.restore_priorities", lambda self, saved: None)
        train(wanted)
    assert outcome(tmp_path / "run")[0] != outcome(tmp_path / "unbroken")[0]


def test_killed_runs_go_on_exactly(tmp_path):
    changes: dict[str, Any] = {"steps": 800, "checkpoint_every": 80, "update_ratio": 0.5, "replay": {"capacity": 500}}
    train(recipe(tmp_path / "unbroken", **changes))
    wanted, folder, hit = recipe(tmp_path / "run", **changes), RunFolder(tmp_path / "run"), []
    for steps in (55, 190):  # of 2 worlds
        process = start(wanted, steps)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, Path(f"{wanted.output}.txt").read_text()
        hit.append(folder.states_newest_first()[0][0])
    assert hit == [80, 320]
    assert train(wanted).resumed_from == 320
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


def test_a_stop_says_what_is_done_again(tmp_path, monkeypatch):
    said: list[str] = []
    wanted = recipe(tmp_path / "run", steps=120)
    step = Actor.step

    def stopping(self: Actor, cut: bool = False):
        if self.steps == 50:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, cut)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Actor, "step", stopping)
        train(wanted, said.append)
    assert said[-1] == "stopped at step 102 of 120; the same command goes on from step 80, the 22 steps since then are done again"
    train(recipe(tmp_path / "unbroken", steps=120))
    assert train(wanted).resumed_from == 80
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


def test_a_ring_on_disk_that_wrapped_since_the_mark_says_so(tmp_path, monkeypatch):
    said: list[str] = []
    wanted = recipe(tmp_path / "run", replay={"place": "disk", "capacity": 60}, steps=120)
    break_at(monkeypatch, wanted, 55, cut_power)  # 110 transitions, the mark is at 80
    train(wanted, said.append)
    assert said == ["the replay on disk has written over 30 transitions since the last mark: the run goes on without them, not bit for bit"]
    assert [row["step"] for row in read_log(tmp_path / "run", "train")][-1] == 120


def test_a_finished_run_is_left_alone(tmp_path):
    said: list[str] = []
    wanted = recipe(tmp_path / "run", steps=60)
    train(wanted)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert train(wanted, said.append).resumed_from == 60
    assert "is finished: 60 steps are done" in said[0]
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_fresh_begins_anew(tmp_path, place):
    train(recipe(tmp_path / "run", steps=60, update_ratio=0.2, replay={"place": place}))
    again = recipe(tmp_path / "run", steps=60, update_ratio=0.2, replay={"place": place}, seed=4)
    assert off_policy.train(again, progress=False, resume="never").resumed_from == 0
    train(recipe(tmp_path / "other", steps=60, update_ratio=0.2, replay={"place": place}, seed=4))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "other")


def test_a_state_without_its_replay_is_refused(tmp_path, monkeypatch):
    wanted = recipe(tmp_path / "run")
    break_at(monkeypatch, wanted, 55, cut_power)
    for file in (tmp_path / "run" / "state" / "replay" / "rows").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="steps 0 to 40 are not all there; begin anew with --fresh"):
        train(wanted)


def test_rows_of_a_run_that_was_killed_before_its_first_state_are_left_out(tmp_path, monkeypatch):
    wanted = recipe(tmp_path / "run", steps=120)
    with monkeypatch.context() as patch, pytest.raises(Power):
        patch.setattr("robopolicy.training.trial_session.TrialSession.save", lambda *_, **__: cut_power())
        train(wanted)
    (rows,) = (tmp_path / "run" / "state" / "replay" / "rows").iterdir()
    rows.rename(rows.with_name("rows_000000000_000000019.safetensors"))  # who takes over, or a robot, did fewer steps then
    break_at(monkeypatch, wanted, 50, cut_power)
    assert train(wanted).resumed_from == 80
    train(recipe(tmp_path / "unbroken", steps=120))
    assert outcome(tmp_path / "run") == outcome(tmp_path / "unbroken")


def test_a_run_goes_on_with_the_same_demonstrations_alone(tmp_path, monkeypatch):
    shutil.copytree(demonstrations(), tmp_path / "shown")
    wanted = recipe(tmp_path / "run", task="two-route", steps=120, algo={"type": "rlpd"}, demonstrations={"path": str(tmp_path / "shown")})
    break_at(monkeypatch, wanted, 50, cut_power)
    shutil.rmtree(tmp_path / "shown")
    collect("two-route", tmp_path / "shown", episodes=2, workers=1, progress=False)
    with pytest.raises(InputError, match=r"what training\.demonstrations\.path names has changed since this run began .*; take another folder"):
        train(wanted)
    shutil.rmtree(tmp_path / "shown")
    shutil.copytree(demonstrations(), tmp_path / "shown")
    assert train(wanted).resumed_from == 80


def test_a_run_with_actors_is_not_gone_on_with_in_one_process(tmp_path):
    wanted = recipe(tmp_path / "run", steps=80)
    with contextlib.closing(off_policy.open_worlds(wanted, 2)) as env, off_policy.opened(wanted, env.spec, 16, progress=False) as session:
        parts = off_policy.begin(session, env, progress=False)
        session.step = 40
        session.save(parts.learner.parts(), {"actor_rows": [20]})
    with pytest.raises(InputError, match="this run was begun with 1 actors; go on so, or begin anew with --fresh"):
        train(wanted)


def test_several_processes_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="algo 'sac': an off-policy rule learns in one process; leave out --processes"):
        train(recipe(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_evaluations_of_a_robot_s_policy_in_a_task_of_another_robot_are_refused_before_it_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(off_policy, "open_worlds", lambda recipe, worlds: Point(worlds))
    robot: dict[str, Any] = {"steps": 80, "update_ratio": 0.05, "robot": {"drive": "tcp://127.0.0.1:9"}}
    with pytest.raises(InputError, match=r"does not fit training\.robot"):
        train(recipe(tmp_path / "run", evaluate_every=60, **robot))
    assert not (tmp_path / "run").exists()
    assert train(recipe(tmp_path / "run", **robot)).steps == 80


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replay": {"chunk": 4}}, "algo 'sac' learns single actions: expected 1"),
        ({"normalize_observations": True, "random_steps": 0}, "needs random steps to measure"),
        ({"demonstrations": {"collect": 3}}, "episodes or collect are given, but no path"),
        ({"reward": {"record": "kept"}}, r"training\.reward\.record keeps episodes that success alone rewards"),
        ({"reward": {"record": "kept", "sparse": True}, "robot": {"drive": "tcp://127.0.0.1:9"}}, "leave out training.robot and training.resets"),
        ({"reward": {"record": "kept", "sparse": True}, "resets": {"type": "backward"}}, "leave out training.robot and training.resets"),
        ({"algo": {"type": "rlpd", "subset": 11}}, r"algo\.subset: expected at most"),
        ({"replay": {"capacity": 3, "n_step": 4}}, "expected at least 8 for samples of 4 steps"),
        ({"takeover": {"source": "operator"}}, r"expected training\.worlds=1, found 2"),
    ],
)
def test_a_mistake_leaves_no_run_behind_that_the_corrected_command_would_trip_over(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        train(recipe(tmp_path / "run", steps=60, **changes))
    assert train(recipe(tmp_path / "run", steps=60)).steps == 60
