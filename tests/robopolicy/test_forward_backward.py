"""Two policies that undo each other's work: both learn in a world that is reset once, and a run goes on after it was stopped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.noise import Noise, row_keys
from policies.spec import InputError
from robopolicy.recipe import recipe_from_dict
from robopolicy.training import forward_backward
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from robopolicy.training.session import TrainingDiverged
from robopolicy.training.unreset_world import Half, UnresetWorld, back_at_start
from tests.robopolicy.point_world import REACHED, PointWorlds

NEAR = 0.25


def recipe(output, steps: int = 900, **training):
    own = {"steps": steps, "worlds": 1, "random_steps": 100, "batch_size": 64, "threads": 1, "gamma": 0.9, "log_every": 100, "checkpoint_every": 300}
    resets = {"type": "backward", "episode_steps": 12, "near": NEAR}
    values = {
        "task": "arm/reach",  # its name alone: the worlds are given
        "output": str(output),
        "algo": {"type": "sac", "hidden": [32, 32], "critic_rate": 3e-3, "actor_rate": 3e-3, "tau": 0.02, "temperature": 0.1},
        "policy": {"hidden": [32, 32], "activation": "relu"},
        "training": {**own, "resets": resets, **training},
    }
    return recipe_from_dict(values, "test")


def world() -> tuple[PointWorlds, UnresetWorld]:
    worlds = PointWorlds(1, steps=2**31 - 1, goal=(0.6, 0.6))
    return worlds, UnresetWorld(worlds)


def test_halves_go_on_from_where_the_other_left_off():
    worlds, shared = world()
    back = back_at_start(shared, None)
    forward, backward = Half(shared, 5), Half(shared, 5, lambda obs: back(obs) < NEAR, back)
    first = forward.reset(np.zeros(1, np.int64))["observation.state"].copy()
    right = np.array([[1.0, 0.0]], np.float32)
    results = [forward.step(right) for _ in range(2)]
    here = backward.reset(np.ones(1, np.int64))["observation.state"]
    assert np.array_equal(here, results[-1].next_obs["observation.state"]) and worlds.resets == 1
    assert not np.array_equal(here, first)
    away = backward.step(-right)
    assert away.reward[0] == pytest.approx(-np.linalg.norm(away.next_obs["observation.state"] - first))
    home = backward.step(-right)
    assert home.info["success"][0] and home.truncated[0] and not home.terminated[0]  # dense: being done has a value beyond
    sparse = Half(shared, 5, lambda obs: back(obs) < NEAR, back, sparse=True)
    sparse.reset(np.zeros(1, np.int64))
    done = sparse.step(np.zeros((1, 2), np.float32))
    assert done.terminated[0] and done.reward[0] == 1
    forward.reset(np.zeros(1, np.int64))
    ends = [bool(forward.step(np.zeros((1, 2), np.float32)).truncated[0]) for _ in range(5)]
    assert ends == [False] * 4 + [True] and shared.resets == worlds.resets == 1


def reached(policy, worlds: PointWorlds, start: np.ndarray, goal: np.ndarray) -> float:
    """Return the smallest distance to ``goal`` in 12 steps of ``policy`` from ``start``."""
    worlds.reset(np.zeros(1, np.int64))
    worlds.point[:] = start
    state, best = policy.initial_state(1), np.inf
    for step in range(12):
        obs = {"observation.state": torch.from_numpy(worlds.point.astype(np.float32)), "observation.environment_state": torch.tensor([[0.6, 0.6]])}
        plan, state = policy.act({n: x.unsqueeze(1) for n, x in obs.items()}, state, Noise(row_keys(0, np.array([step]))))
        worlds.step(plan.actions[:, 0].numpy())
        best = min(best, float(np.linalg.norm(worlds.point - goal)))
    return best


def test_both_directions_are_learnt_with_one_reset_of_the_world(tmp_path):
    worlds, shared = world()
    asked = recipe(tmp_path / "run")
    result = forward_backward.train_in(asked, shared, forward_backward.halves(asked, shared), progress=False)
    assert worlds.resets == shared.resets == 1
    rows = list(read_log(result.run, "train"))
    assert [row["world_resets"] for row in rows] == [1] * 9
    early, late = rows[0], rows[-1]
    for name in ("success", "backward_success"):
        assert late[name] >= 0.75 > (early[name] or 0.0), (name, early[name], late[name])
    start, goal = shared.start["observation.state"], np.array([[0.6, 0.6]])
    assert np.linalg.norm(start - goal) > 3 * NEAR
    forward, backward = checkpoint.load(find_checkpoint(result.run)), checkpoint.load(result.run / "backward")
    assert reached(forward, worlds, start, goal) < REACHED < reached(backward, worlds, start, goal)
    assert reached(backward, worlds, goal, start) < NEAR < reached(forward, worlds, goal, start)


def test_a_run_that_was_stopped_goes_on_from_its_mark(tmp_path, monkeypatch):
    asked, notes = recipe(tmp_path / "run", 80, random_steps=20, checkpoint_every=40, log_every=20), []
    saved, save = [], forward_backward._save

    def stop_after_the_first(session, both):
        save(session, both)
        saved.append(session.step)
        if len(saved) == 1:
            session.interrupts.asked = True

    monkeypatch.setattr(forward_backward, "_save", stop_after_the_first)
    begun, reset = [0, 0], Half.reset

    def counted(self, seeds, mask=None):
        begun[self.done is not None] += 1  # the world says when the forward task is done
        return reset(self, seeds, mask)

    monkeypatch.setattr(Half, "reset", counted)
    _, shared = world()
    with pytest.raises(KeyboardInterrupt):
        forward_backward.train_in(asked, shared, forward_backward.halves(asked, shared), progress=False, note=notes.append)
    worlds, shared = world()
    tasks = forward_backward.halves(asked, shared)
    result = forward_backward.train_in(asked, shared, tasks, progress=False, note=notes.append)
    assert (result.resumed_from, result.steps, saved, worlds.resets) == (40, 80, [40, 80], 1)
    last = list(read_log(result.run, "train"))[-1]
    assert last["updates"] + last["backward_updates"] == 80 - 2 * 20  # of both, each after its own random steps
    assert last["world_resets"] == 2  # of the whole run: again when it went on
    assert [task.episodes for task in tasks] == [begun[0] - 2, begun[1]]  # the forward task is begun once more in each call, before the loop
    assert [last["done"], last["backward_done"]] == [task.successes / task.episodes for task in tasks]


def test_a_direction_that_diverges_is_named_and_nothing_of_it_is_kept(tmp_path, monkeypatch):
    asked = recipe(tmp_path / "run", 80, random_steps=20, checkpoint_every=40, log_every=20)
    metrics, calls = forward_backward.Learner.metrics, []

    def diverged(self):
        calls.append(self)
        return {**metrics(self), **({"critic_loss": float("nan")} if len(calls) == 2 else {})}

    monkeypatch.setattr(forward_backward.Learner, "metrics", diverged)
    _, shared = world()
    with pytest.raises(TrainingDiverged, match="backward_critic_loss is nan"):
        forward_backward.train_in(asked, shared, forward_backward.halves(asked, shared), progress=False)
    assert not (tmp_path / "run" / "backward").exists()


def test_fresh_leaves_no_policy_of_the_run_before(tmp_path):
    asked = recipe(tmp_path / "run", 40, random_steps=30, checkpoint_every=40, log_every=20)
    _, shared = world()
    run = forward_backward.train_in(asked, shared, forward_backward.halves(asked, shared), progress=False).run
    assert (run / "backward" / "manifest.json").is_file()
    folder = RunFolder(run)
    folder.open(asked, fresh=True)
    folder.close()
    assert not (run / "backward").exists()


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(InputError, match=r"expected training.worlds=1, found 2"):
        forward_backward.train(recipe(tmp_path / "a", worlds=2), progress=False)
    with pytest.raises(InputError, match="found 'disk'"):
        forward_backward.train(recipe(tmp_path / "a", replay={"place": "disk"}), progress=False)
    _, shared = world()
    with pytest.raises(InputError, match=r"observation.stat'.*did you mean"):
        back_at_start(shared, ["observation.stat"])


def test_an_arm_that_is_never_put_back(tmp_path):
    asked = recipe(
        tmp_path / "arm", 60, random_steps=20, checkpoint_every=60, log_every=60, reward={"sparse": True}, takeover={"source": "expert", "share": 1.0}
    )
    result = forward_backward.train(asked, progress=False)
    row = next(iter(read_log(result.run, "train")))
    assert row["world_resets"] == 1 and row["episodes"] >= 2 and row["backward_episodes"] >= 2
    assert checkpoint.load(result.checkpoint).spec.fingerprint() == checkpoint.load(result.run / "backward").spec.fingerprint()
