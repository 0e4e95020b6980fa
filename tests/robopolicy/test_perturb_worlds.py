"""Perturbations of simulated worlds: no bit for nothing, momentum of pushes, what is seen and what happens, what a task cannot have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.evaluation.blocks import ExpertPlanner, run_block
from robopolicy.evaluation.perturb import KINDS, Perturbation, parse
from robopolicy.evaluation.perturb_env import PerturbedWorlds
from robopolicy.evaluation.perturb_worlds import joined, pushed_bodies
from robopolicy.evaluation.rollout import evaluate, make_world
from sim.randomize_config import FieldDraw, RandomizeConfig
from tests.require import require, require_task


def states(task: str, env: Mapping[str, Any], steps: int = 12, rows: int = 2) -> np.ndarray:
    """Return the engine's (T, N, nq) positions of worlds under a fixed wave of actions, behind those of the expert."""
    world: Any = make_world(task, env, rows)
    world.reset(2_000_000 + np.arange(rows))
    out = []
    low, high = (np.clip(side, -1, 1) for side in (world.spec.action.low, world.spec.action.high))
    for k in range(steps):
        wave = np.broadcast_to(low + (high - low) * (0.5 + 0.4 * math.sin(0.7 * k)), (rows, len(low))).astype(np.float32)
        world.step(wave if steps - k <= 4 else world.expert_action())
        out.append(world.engine.bind("qpos").copy())
    world.close()
    return np.array(out)


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if kind.side != "pictures" and kind.name not in ("noise", "pixel_noise")], ids=lambda k: k.name
)
def test_a_size_that_changes_nothing_changes_no_bit_and_another_one_does(kind: Any) -> None:
    """Neutral perturbations are left out; put into the worlds all the same, they still change nothing."""
    steps = 50 if kind.name == "friction" else 8  # until the puck moves
    plain = states("arm/push", {}, steps)
    assert (states("arm/push", {"perturb": [f"{kind.name}:{kind.neutral:g}"]}, steps) == plain).all()
    world: Any = PerturbedWorlds(make_world("arm/push", {}, 2), [Perturbation(kind=kind.name, size=kind.neutral)])
    world.reset(2_000_000 + np.arange(2))
    reference: Any = make_world("arm/push", {}, 2)
    reference.reset(2_000_000 + np.arange(2))
    for _ in range(5):
        action = reference.expert_action()
        ours, theirs = world.step(action), reference.step(action)
        assert all((ours.next_obs[n] == theirs.next_obs[n]).all() for n in theirs.next_obs) and (ours.reward == theirs.reward).all()
    if kind.side == "world":
        text = f"{kind.name}:{kind.ladder[-1]:g}" + (",every=0.05" if kind.name == "push" else "")
        assert not (states("arm/push", {"perturb": [text]}, steps) == plain).all()


def test_a_push_changes_the_momentum_of_a_free_body_by_its_size_times_the_mass() -> None:
    """The quadrotor, motors at the same commands, floats freely: J = m size, level, in each control step at every = one step."""

    def velocity(env: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
        world: Any = make_world("quadrotor/hover", env, 3)
        world.reset(2_000_000 + np.arange(3))
        before = world.engine.bind("qvel")[:, :3].copy()
        result = world.step(np.broadcast_to(world.spec.action.low, (3, world.spec.action.dim)).astype(np.float32))
        after, model = world.engine.bind("qvel")[:, :3].copy(), world.engine.model
        assert pushed_bodies(parse("push:1"), model, world.task) == [model.body("quadrotor").id]
        world.close()
        return after - before, result.info

    (plain, _), (pushed, info) = velocity({}), velocity({"perturb": ["push:0.5,every=0.001"]})
    change = pushed - plain
    assert info["pushes"].tolist() == [1, 1, 1]
    assert np.allclose(np.linalg.norm(change[:, :2], axis=1), 0.5, rtol=0.02) and np.allclose(change[:, 2], 0, atol=0.01)
    assert not np.allclose(change[0], change[1])  # each episode its own direction
    both, info = velocity({"perturb": ["push:0.5,every=0.001", "push:0.25,every=0.001,element=quad*"]})
    assert info["pushes"].tolist() == [2, 2, 2] and np.allclose(both - plain, 1.5 * change, atol=0.01), "two pushes of one body add up"


@pytest.mark.parametrize("heavier", [{"perturb": ["mass:3"]}, {"randomize": {"model": {"mass:*": {"scale": 3.0}}}}])
def test_a_push_changes_the_velocity_of_a_body_of_another_mass_as_much(heavier: Mapping[str, Any]) -> None:
    """Cart and pole on a rail without friction to speak of: J = m size moves them the same, whatever m is."""

    def change(env: Mapping[str, Any]) -> np.ndarray:
        found = []
        for push in ([], ["push:0.5,every=0.001"]):
            world: Any = make_world("classic/cartpole", {**env, "perturb": [*env.get("perturb", []), *push]}, 2)
            world.reset(2_000_000 + np.arange(2))
            world.step(np.zeros((2, 1), np.float32))
            found.append(world.engine.bind("qvel").copy())
            world.close()
        return found[1] - found[0]

    plain = change({})
    assert np.abs(plain).max() > 0.05 and np.allclose(change(heavier), plain, rtol=0.1, atol=0.01)


def test_times_of_pushes_are_seeded() -> None:
    """Each episode has times of its own, whatever the rows beside it."""

    def count(rows: int, block: np.ndarray) -> np.ndarray:
        world: Any = make_world("arm/push", {"perturb": ["push:0.2,every=0.5"]}, rows)
        world.reset(block)
        *_, result = (world.step(world.expert_action()) for _ in range(40))
        world.close()
        return result.info["pushes"]

    together, alone = count(4, np.arange(4) + 2_000_000), count(1, np.array([2_000_002]))
    assert together[2] == alone[0] and 0 < together.sum() < 40


def test_masses_friction_and_gains_are_those_that_were_asked_for() -> None:
    world: Any = make_world("arm/push", {"perturb": ["mass:2", "friction:0.5", "gain:0.7", "damping:4"], "randomize": {"model": {"mass:*": {"scale": 3.0}}}}, 1)
    world.reset(np.array([2_000_000]))
    model, engine = world.engine.model, world.engine
    assert np.allclose(engine.expand("body_mass")[0], 6 * model.body_mass)  # both act where they meet
    assert np.allclose(engine.expand("geom_friction")[0][:, 0], 0.5 * model.geom_friction[:, 0])
    assert np.allclose(engine.expand("geom_friction")[0][:, 1:], model.geom_friction[:, 1:])
    assert np.allclose(engine.expand("dof_damping")[0], 4 * model.dof_damping)
    assert np.allclose(engine.expand("actuator_gainprm")[0][:, 0], 0.7 * model.actuator_gainprm[:, 0])
    world.close()


@pytest.mark.parametrize("text", ["camera:5", "camera_turn:4", "light:0.3", "texture:0.6"])
def test_what_is_seen_changes_and_what_happens_does_not(text: str) -> None:
    require("egl")
    env = {"observations": "state+image", "image_size": 32}
    found = []
    for perturb in ([], [text], [text]):
        world: Any = make_world("arm/push", {**env, "perturb": perturb}, 2)
        frames = [world.reset(np.array([2_000_000, 2_000_001]))]
        frames += [world.step(world.expert_action()).next_obs for _ in range(2)]
        found.append(frames)
        if perturb and text.startswith("camera:"):
            moved = np.linalg.norm(world.engine.expand("cam_pos")[:, 0] - world.engine.model.cam_pos[0], axis=1)
            assert np.allclose(moved, 0.05, atol=1e-6)
        world.close()
    plain, seen, again = found
    for a, b, c in zip(plain, seen, again, strict=True):
        for name in a:
            if "images" not in name:
                assert (a[name] == b[name]).all()
            else:
                assert (np.abs(a[name].astype(int) - b[name]).mean((1, 2, 3)) > 1).all() and (b[name] == c[name]).all()
    if text.startswith("light"):
        image = next(n for n in plain[0] if "images" in n)
        assert seen[0][image].mean() < 0.6 * plain[0][image].mean()


TASKS = ["metaworld/push", "metaworld/door-open", "arm/push", "locomotion/quadruped", "gymnasium/humanoid", "quadrotor/hover", "robotics/fetch-push"]


@pytest.mark.parametrize("task", TASKS)
def test_next_to_no_change_changes_next_to_nothing(task: str) -> None:
    """Constants are derived anew, but what a suite had set by hand (the weld of a mocap body, say) stays."""
    require_task(task)
    seen: list[np.ndarray] = []
    for env in ({}, {"perturb": ["mass:1.000001", "friction:1.000001"]}):
        world = make_world(task, env, 1)
        obs, generator = world.reset(2_000_000 + np.arange(1)), np.random.default_rng(1)
        low, high = (np.clip(side, -1, 1) for side in (world.spec.action.low, world.spec.action.high))
        for _ in range(8):
            obs = world.step(generator.uniform(low, high)[None].astype(np.float32)).next_obs
        seen.append(np.concatenate([obs[name].ravel() for name in sorted(obs)]))
        world.close()
    assert np.abs(seen[0]).max() > 0 and np.abs(seen[0] - seen[1]).max() < 1e-3


def test_metaworld_takes_every_kind_and_pushes_its_object() -> None:
    """The suite's own episodes are loaded as states: what is changed in the model stays."""
    plain = states("metaworld/push", {}, 6, 1)
    for text in ("mass:3", "friction:0.3", "push:1,every=0.01"):
        assert not (states("metaworld/push", {"perturb": [text]}, 6, 1) == plain).all(), text
    world: Any = make_world("metaworld/push", {"perturb": ["push:1,every=0.001"]}, 1)
    world.reset(np.array([2_000_000]))
    place = int(world.engine.model.joint("objjoint").dofadr[0])
    world.step(np.zeros((1, 4)))
    assert np.linalg.norm(world.engine.bind("qvel")[0, place : place + 2]) > 0.5  # 1 m/s, less friction
    world.close()


def test_a_suite_whose_rows_have_models_of_their_own_takes_the_same_kinds() -> None:
    """dm_control: fields are changed after every reset and put back before the next, pushes act on the row's own data."""
    require("dmcontrol")
    worlds: dict[str, Any] = {}
    for text in ("", "mass:2", "push:0.5,every=0.01", "gain:0.5"):
        worlds[text] = make_world("dmcontrol/cartpole-balance", {"perturb": [text] if text else []}, 2)
    plain = worlds[""].world if hasattr(worlds[""], "world") else worlds[""]
    own = plain.mujoco_row(0)[0].body_mass.copy()
    found: dict[str, list[np.ndarray]] = {}
    for text, world in worlds.items():
        for _ in range(2):  # the second time is as the first
            world.reset(np.array([2_000_000, 2_000_001]))
            *_, result = (world.step(np.full((2, 1), 0.4, np.float32)) for _ in range(5))
            found.setdefault(text, []).append(result.next_obs["observation.state"])
        assert (found[text][0] == found[text][1]).all() and (text == "") == (found[text][0] == found[""][0]).all(), text
    assert np.allclose(worlds["mass:2"].mujoco_row(1)[0].body_mass, 2 * own)
    assert not any(world.mujoco_row(0)[1].xfrc_applied.any() for world in worlds.values())
    for world in worlds.values():
        world.close()


@pytest.mark.parametrize("task", ["dmcontrol/cheetah-run", "robotics/fetch-reach", "robotics/adroit-relocate"])
def test_a_changed_model_is_put_back_whole_before_the_next_reset(task: str) -> None:
    """What MuJoCo derives of masses as well: the cheetah's reset simulates, with contacts that depend on it; and welds stay as the suite set them."""
    require(task.partition("/")[0])
    plain, changed = make_world(task, {}, 1), make_world(task, {"perturb": ["mass:3"]}, 1)
    first, welds = ([world.reset(np.array([2_000_003])), world.mujoco_row(0)[0].eq_data.copy()] for world in (plain, changed))  # type: ignore[attr-defined]
    assert (first[1] == welds[1]).all()
    changed.reset(np.array([2_000_007]))
    again = changed.reset(np.array([2_000_003]))
    assert all((again[name] == welds[0][name]).all() for name in again)
    before, after = plain.mujoco_row(0)[0], changed.mujoco_row(0)[0]  # type: ignore[attr-defined]
    changed._models.before_reset(np.zeros(1, np.int64))  # type: ignore[attr-defined]
    arrays = [name for name in dir(before) if isinstance(getattr(before, name, None), np.ndarray)]
    assert [name for name in arrays if not np.array_equal(getattr(before, name), getattr(after, name))] == []
    for world in (plain, changed):
        world.close()


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "env", "text", "says"),
    [
        ("two-route", {}, "mass:2", "offer no model"),
        ("two-route", {}, "push:1", "every task can have noise"),
        ("arm/push", {}, "camera:2", "nothing is seen"),
        ("arm/push", {}, "pixel_noise:0.1", "observe no pictures"),
        ("arm/push", {}, "push:1,element=puk", "did you mean 'puck'"),
        ("arm/push", {}, "mass:2,element=puk", "did you mean 'puck'"),
        ("arm/push", {}, "noise:0.1", "need a checkpoint"),
        ("arm/push", {}, "latency:10,element=nothing", "no observed field"),
        ("arm/push", {"engine": "bullet"}, "push:1", "engine 'bullet'"),
        ("robotics/fetch-reach", {"observations": "image", "image_size": 16}, "camera:1", "no observed camera that its model holds"),
    ],
)
def test_what_a_task_cannot_have_is_one_line(task: str, env: dict[str, Any], text: str, says: str) -> None:
    for need in ["robotics", "egl"] if task.startswith("robotics") else []:
        require(need)
    with pytest.raises(InputError, match=says) as caught:
        make_world(task, {**env, "perturb": [text]}, 1)
    assert "\n" not in str(caught.value)


def test_two_draws_of_one_field_both_stay() -> None:
    own = RandomizeConfig(model={"mass:*": FieldDraw.model_validate({"scale": 2.0}), "color:pole": FieldDraw.model_validate({"scale": 0.5})})
    both = joined(own, {name: FieldDraw.model_validate({"scale": 3.0}) for name in ("mass:*", "color:pole", "friction:*")})
    assert list(both.model) == ["mass:*", "color:pole", "mass:**", "color:[p]ole", "friction:*"]


# Through an evaluation ----------------------------------------------------------------------------------------------


def test_results_are_the_same_bits_for_any_workers_and_the_ledger_keeps_the_perturbation(tmp_path: Path) -> None:
    env = {"perturb": ["lost_commands:0.3", "push:0.3"], "max_episode_steps": 25}
    results = [
        evaluate("expert", "arm/push", episodes=4, block=block, workers=workers, env=env, latency_calls=0, progress=False, out=tmp_path)
        for block, workers in ((2, 1), (2, 2), (3, 1))
    ]
    records = [[e.__dict__ for e in r.episodes] for r in results]
    assert records[0] == records[1] == records[2] and sum(e.info["pushes"] for e in results[0].episodes) > 0
    assert results[0].env["perturb"] == [parse(text).to_dict() for text in env["perturb"]]


def test_an_expert_in_closed_loop_gets_worse_along_a_coarse_ladder() -> None:
    """Cart and pole, balanced by its expert: it bears some lateness, loses most poles at 0.1 s, and all at 0.4 s."""
    solved = []
    for late in (0, 40, 100, 400):
        world = make_world("classic/cartpole", {"perturb": [f"delay:{late}"]}, 20)
        result = run_block(world, ExpertPlanner(world), 2_000_000 + np.arange(20), 0)
        solved.append(sum(e.success for e in result.episodes))
        world.close()
    assert solved[0] == solved[1] == 20 and 0 < solved[2] < 12 and solved[3] < solved[2]
