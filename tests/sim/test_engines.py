"""What every engine promises, on one small model and one task: live arrays, rows that are left alone, exact states, clear refusals."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from sim import engine, registry
from sim.suites import classic
from tests.contracts import test_env_contract as contract
from tests.require import require

ENGINES = ("mujoco", "warp", "bullet")
MODEL = Path(classic.__file__).with_name("cartpole.xml")  # one model for all, since Warp compiles for each
START = np.array([[0.1, 0.2], [-0.3, 0.1], [0.0, -0.2]])  # cart m, pole rad
FIELDS = ("qpos", "qvel", "xpos", "site_xpos", "sensordata", "actuator_force")
BULLET_TASKS = ("classic/cartpole", "arm/push", "locomotion/cheetah")
every_engine = pytest.mark.parametrize("name", ENGINES)


def compiled(text: str | None = None) -> Any:
    mujoco: Any = importlib.import_module("mujoco")
    spec = mujoco.MjSpec.from_string(text or MODEL.read_text(encoding="utf-8"))
    spec.body("pole").add_site(name="tip", pos=[0, 0, 1])
    spec.add_sensor(name="tip", type=mujoco.mjtSensor.mjSENS_FRAMEPOS, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="tip")
    return spec.compile()


def worlds(name: str, num_worlds: int = 3, model: Any = None, start: np.ndarray = START) -> engine.Engine:
    if name != "mujoco":
        require(name)
    made = engine.make_engine(name, model if model is not None else compiled(), num_worlds)
    for field in FIELDS:
        made.bind(field)
    made.reset()
    made.bind("qpos")[:] = start
    made.forward()
    return made


def drive(made: engine.Engine, ticks: int, rows: np.ndarray | None = None, begin: int = 0, push: np.ndarray | None = None) -> None:
    ctrl = made.bind("ctrl")
    phases = np.arange(made.num_worlds) if push is None else push
    for t in range(begin, begin + ticks):
        ctrl[:, 0] = np.sin(0.2 * t + phases)
        made.step(rows)


@every_engine
def test_arrays_are_live(name: str) -> None:
    made = worlds(name)
    assert isinstance(made, engine.Engine) and made.name == name and made.num_worlds == 3
    held = {field: made.bind(field) for field in FIELDS}
    before = {field: array.copy() for field, array in held.items()}
    drive(made, 5)
    for field, array in held.items():
        assert array.dtype == np.float64 and np.shares_memory(array, made.bind(field)), field
        if field != "site_xpos":  # the first axis of the sensor tells the same
            assert (array != before[field]).any(), field
    for field in ("xpos", "sensordata"):
        assert not held[field].flags.writeable
    made.close(), made.close()


@every_engine
def test_what_follows_from_a_state_is_that_of_the_state(name: str) -> None:
    """The tip of a pole 1 m long stands at x + sin(angle), cos(angle): after ``forward`` and after a fresh step; else a tick behind."""
    made = worlds(name)
    tip, qpos = made.bind("sensordata"), made.bind("qpos")

    def expected(state: np.ndarray) -> np.ndarray:
        return np.stack([state[:, 0] + np.sin(state[:, 1]), np.zeros(3), np.cos(state[:, 1])], axis=1)

    np.testing.assert_allclose(tip, expected(START), atol=1e-6)
    made.step(None, 3)
    np.testing.assert_allclose(tip, expected(qpos), atol=1e-6)
    np.testing.assert_allclose(made.bind("site_xpos")[:, 0], tip, atol=1e-6)
    before = qpos.copy()
    made.step(None, 1, fresh=False)
    np.testing.assert_allclose(tip, expected(before), atol=1e-6)
    assert np.abs(qpos - before).max() > 1e-4
    made.close()


@every_engine
def test_rows_that_are_not_named_stay_as_they_are(name: str) -> None:
    made = worlds(name)
    drive(made, 4)
    held = {field: made.bind(field) for field in FIELDS}
    before, state = {field: array.copy() for field, array in held.items()}, made.save()
    drive(made, 6, np.array([2]), begin=4)
    for field, array in held.items():
        np.testing.assert_array_equal(array[:2], before[field][:2], err_msg=field)
    assert (held["qpos"][2] != before["qpos"][2]).all()
    made.reset(np.array([0]))
    assert (held["qpos"][0] == 0).all() and (made.save(np.array([1])) == state[1])[0, : made.model.nq].all()
    made.step(np.array([], np.int64))
    alone = worlds(name)
    drive(alone, 10)
    drive(made, 6, np.array([1]), begin=4)
    np.testing.assert_array_equal(held["qpos"][1], alone.bind("qpos")[1])
    np.testing.assert_array_equal(held["qpos"][2], alone.bind("qpos")[2])
    made.close(), alone.close()


@every_engine
def test_a_state_comes_back_bit_for_bit(name: str) -> None:
    made = worlds(name)
    drive(made, 7)
    kept = made.save()
    assert kept.dtype == np.float64 and len(kept) == 3 and not np.shares_memory(kept, made.save())
    drive(made, 9)
    expected = made.save()
    made.load(kept)
    np.testing.assert_array_equal(made.save(), kept)
    drive(made, 9)
    np.testing.assert_array_equal(made.save(), expected)
    again = worlds(name, 1, start=START[:1])
    again.load(kept[2:])
    drive(again, 9, begin=7, push=np.array([2]))
    made.load(kept[[2]], np.array([0]))
    drive(made, 9, begin=7, push=np.array([2, 1, 2]))
    np.testing.assert_array_equal(made.save(np.array([0])), again.save())
    made.close(), again.close()


@every_engine
def test_a_world_knows_nothing_of_the_others(name: str) -> None:
    many, one = worlds(name), worlds(name, 1, start=START[2:])
    drive(many, 25), drive(one, 25, push=np.array([2]))
    np.testing.assert_array_equal(many.bind("qpos")[2], one.bind("qpos")[0])
    np.testing.assert_array_equal(many.bind("qvel")[2], one.bind("qvel")[0])
    many.reset()
    many.bind("qpos")[:] = START
    many.forward()
    repeated = worlds(name)
    drive(many, 25), drive(repeated, 25)
    np.testing.assert_array_equal(many.bind("qpos"), repeated.bind("qpos"))
    many.close(), one.close(), repeated.close()


@pytest.mark.parametrize("name", ENGINES[1:])
def test_other_engines_agree_with_mujoco(name: str) -> None:
    """Single precision on Warp, another integration on Bullet; seen: 1e-7 and 1e-15."""
    made, reference = worlds(name), worlds("mujoco")
    drive(made, 50), drive(reference, 50)
    for field in ("qpos", "qvel", "sensordata", "actuator_force"):
        np.testing.assert_allclose(made.bind(field), reference.bind(field), atol=1e-4, err_msg=field)
    made.close(), reference.close()


@every_engine
def test_model_fields_differ_from_world_to_world(name: str) -> None:
    """A world whose pole weighs more does what a model compiled with that weight does."""
    text = MODEL.read_text(encoding="utf-8")
    heavy = compiled(text.replace('mass="0.1"', 'mass="0.7"'))
    made, reference = worlds(name), worlds("mujoco", model=heavy)
    fields = {field: made.expand(field) for field in ("body_mass", "body_inertia", "dof_damping", "opt.gravity")}
    assert fields["body_mass"].shape == (3, heavy.nbody) and made.expand("body_mass") is fields["body_mass"]
    fields["body_mass"][1], fields["body_inertia"][1] = heavy.body_mass, heavy.body_inertia
    fields["opt.gravity"][2] = 0
    made.refresh(np.array([1, 2]))
    made.forward()
    plain = worlds("mujoco")
    drive(made, 40), drive(reference, 40), drive(plain, 40)
    np.testing.assert_allclose(made.bind("qpos")[0], plain.bind("qpos")[0], atol=1e-4)
    np.testing.assert_allclose(made.bind("qpos")[1], reference.bind("qpos")[1], atol=1e-4)
    assert np.abs(made.bind("qpos")[1] - plain.bind("qpos")[1]).max() > 0.01
    assert abs(made.bind("qpos")[2, 1]) < abs(plain.bind("qpos")[2, 1])  # nothing pulls it over
    made.close(), reference.close(), plain.close()


@every_engine
def test_a_scene_shows_one_world(name: str) -> None:
    made = worlds(name)
    drive(made, 3)
    for row in (2, 0):
        model, data = made.scene(row)
        assert model.nq == made.model.nq
        np.testing.assert_array_equal(data.qpos, made.bind("qpos")[row])
        np.testing.assert_allclose(data.sensordata, made.bind("sensordata")[row], atol=1e-6)
    made.close()


@every_engine
def test_what_an_engine_cannot_do_is_refused_in_one_line(name: str) -> None:
    made = worlds(name)
    with pytest.raises(InputError, match=r"'xposs'.*did you mean 'xpos'"):
        made.bind("xposs")
    with pytest.raises(InputError, match=r"'body_masss'.*did you mean 'body_mass'"):
        made.expand("body_masss")
    made.close()


def test_unknown_and_missing_engines_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="engine 'bulet' does not exist; did you mean 'bullet'"):
        engine.make_engine("bulet", None, 1)
    monkeypatch.setitem(engine.ENGINES, "far", ("sim.far", "FarEngine", ("no_such_library",), "`pip install far`"))
    with pytest.raises(InputError, match="engine 'far' needs no_such_library, not installed here: run `pip install far`"):
        engine.make_engine("far", None, 1)
    with pytest.raises(InputError, match=r"engine 'bulet' of task 'classic/cartpole': expected one of .*did you mean 'bullet'"):
        registry.make("classic/cartpole", engine="bulet")


@pytest.mark.parametrize(("name", "task"), [("warp", "classic/cartpole"), *(("bullet", task) for task in BULLET_TASKS)])
def test_tasks_keep_their_contract_on_every_engine(name: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With contacts too, whose memory Bullet would keep from one episode to the next."""
    require(name)
    monkeypatch.setattr(contract, "make", lambda task, num_worlds, **options: registry.make(task, num_worlds, engine=name, **options))
    contract.test_an_episode_depends_on_its_seed_and_actions_alone(task)
    contract.test_an_auto_reset_keeps_the_true_successor(task)
    contract.test_an_ended_world_stays_as_it_is(task)
    contract.test_a_masked_reset_leaves_the_other_worlds_alone(task)
    contract.test_actions_are_clipped_to_the_limits(task)


@every_engine
def test_an_expert_succeeds_on_every_engine(name: str) -> None:
    if name != "mujoco":
        require(name)
    env = registry.make("classic/cartpole", 2, engine=name)
    assert {"mujoco": "mujoco 3.", "warp": "mujoco-warp 3.", "bullet": "pybullet "}[name] in env.suite_version
    env.reset(np.array([3, 4]))
    for _ in range(100):
        result = env.step(env.expert_action())
    assert result.info["success"].all() and not result.terminated.any()
    env.close()
