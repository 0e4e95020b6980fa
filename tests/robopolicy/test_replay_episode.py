"""A recorded episode played back: on the twin from the same seed it is the same episode again; the runtime's rules stay."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from real.robot import Observation
from robopolicy.cli import app
from robopolicy.data.collect import Disturbing, collect
from robopolicy.data.dataset import Dataset
from robopolicy.replay import Replay, replay, twin_arguments

SPEC = Spec(
    ObservationSpec({"observation.state": Field((2,), unit="m", names=("x", "y"))}, 10),
    ActionSpec({"go": Field((1,), kind="position"), "turn": Field((1,), kind="velocity")}, 10),
)
ACTIONS = np.array([[1, 10], [2, 20], [3, 30], [4, 40]], np.float32)
OBSERVED = {"observation.state": np.array([[0, 0], [1, 0], [2, 0], [3, 0]], np.float32)}


def ask(policy):
    policy.request({}, {}, np.zeros(1, np.int64), budget_s=1.0)
    found = policy.poll()
    return None if found is None else found[0].actions[0].tolist()


def seen(tick, x, y=0.0, **more):
    return Observation({"observation.state": np.array([x, y], np.float32)}, {}, tick=tick, **more)


def test_a_plan_goes_on_after_the_steps_that_were_executed_and_ends_in_rest():
    policy = Replay(SPEC, ACTIONS, OBSERVED)
    assert ask(policy) == ACTIONS.tolist()
    for tick in (5, 10):
        policy.step(seen(tick, 0.0), ACTIONS[0], False)
    assert ask(policy) == [[3, 30], [4, 40], [4, 0], [4, 0]]  # a position stays, a velocity is zero
    policy.request({}, {}, np.zeros(1, np.int64), budget_s=1.0)
    assert policy.in_flight and policy.connected
    policy.abandon()
    assert not policy.in_flight and policy.poll() is None
    for tick in (15, 20):
        policy.step(seen(tick, 0.0), ACTIONS[0], False)
    assert ask(policy) is None and not policy.over  # what the last action led to has not been seen yet
    for tick in (25, 30):
        policy.reading(seen(tick, 0.0, success=tick == 30))
    assert policy.over and policy.success


def test_tracking_by_hand():
    policy = Replay(SPEC, ACTIONS, OBSERVED)
    assert policy.tracking() == {}
    for tick, x in enumerate([0.0, 1.5, 2.0, 3.0]):
        policy.step(seen(tick, x, 0.25 if tick == 3 else 0.0), ACTIONS[tick], False)
    found = policy.tracking()["observation.state"]
    assert (found.mean, found.max, found.step, found.element, found.unit) == (0.1875, 0.5, 1, "x", "m")


@pytest.mark.parametrize("task", ["two-route", "arm/reach"])
def test_on_the_twin_from_the_same_seed_it_is_the_same_episode(task, tmp_path):
    collect(task, tmp_path / "set", 1, seed0=3, workers=1, progress=False)
    out = CliRunner().invoke(app, ["data", "replay", str(tmp_path / "set"), "robot=twin", "preflight=false", "--json", str(tmp_path / "r.json")])
    assert out.exit_code == 0, out.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["success"] is True and report["recorded_success"] is True and report["summary"]["failed"] is False
    assert report["executed"] > 10 and report["tracking"]["observation.state"]["max"] < 1e-5
    assert "then success, now success" in out.output and "disturbed" not in out.output


def test_that_a_script_was_disturbed_is_said(tmp_path):
    collect("two-route", tmp_path / "set", 1, workers=1, progress=False, noise=0.5)
    said = []
    report = replay(tmp_path / "set", 0, ["robot=twin", "preflight=false"], say=said.append)
    assert [line for line in said if "actions are what it wanted" in line] and report.tracking["observation.state"].max > 1e-3


def test_an_episode_of_a_world_that_was_drawn_is_played_in_that_world(tmp_path):
    drawn = {"model": {"mass:*": {"scale": [0.5, 2.0]}, "damping:*": {"scale": [0.3, 3.0]}}}
    collect("arm/reach", tmp_path / "set", 2, seed0=3, workers=1, progress=False, randomize=drawn)
    for episode in (0, 1):
        report = replay(tmp_path / "set", episode, ["robot=twin", "preflight=false"])
        assert report.success and report.tracking["observation.state"].max < 1e-5


def test_an_episode_whose_beginning_was_cut_off_is_not_played_from_another_place(tmp_path):
    way = Disturbing(chance=1.0, steps=4, within=10)
    collect("two-route", tmp_path / "set", 1, workers=1, progress=False, recovery=way)
    with pytest.raises(InputError, match=r"episode 0 begins at control step \d+, expected 0"):
        replay(tmp_path / "set", 0, ["robot=twin", "preflight=false"])


def test_what_is_on_record_is_not_recorded_again(tmp_path):
    collect("two-route", tmp_path / "set", 1, seed0=5, workers=1, progress=False)
    with pytest.raises(InputError, match="record"):
        replay(tmp_path / "set", 0, ["robot=twin", "preflight=false", f"record={tmp_path / 'again'}"])
    assert not (tmp_path / "again").exists()
    with pytest.raises(InputError, match="teleop: nobody takes over from a recording"):
        replay(tmp_path / "set", 0, ["robot=twin", "preflight=false", "teleop=scripted"])


def test_what_cannot_be_replayed_is_said_before_anything_moves(tmp_path):
    collect("two-route", tmp_path / "set", 1, workers=1, progress=False)
    for arguments, what in (
        (["--episode", "4"], "episodes 0 to 0, not 4"),
        (["--fields", "observation.stat"], "did you mean 'observation.state'"),
        (["robot=nosuch"], "nosuch"),
    ):
        out = CliRunner().invoke(app, ["data", "replay", str(tmp_path / "set"), *arguments])
        assert out.exit_code != 0 and what in f"{out.output} {out.exception}"
    own = tmp_path / "set/meta/robopolicy.json"
    told = json.loads(own.read_text())
    told["provenance"] = {}
    own.write_text(json.dumps(told))
    with pytest.raises(InputError, match="does not say the world"):
        twin_arguments(Dataset.open(tmp_path / "set"), 0, False, tmp_path)
    told["provenance"] = {"recorded": {"robot": "twin of two-route"}}
    own.write_text(json.dumps(told))
    assert twin_arguments(Dataset.open(tmp_path / "set"), 0, False, tmp_path) == ["twin", "two-route", "--episodes", "1", "--seed0", "0", "--lockstep"]
