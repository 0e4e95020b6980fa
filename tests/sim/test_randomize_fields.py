"""Model fields per world: statistics of every field's draws, and the same motion as a model that was compiled with the values."""

from __future__ import annotations

import re
from typing import Any

import mujoco
import numpy as np
import pytest
from scipy import stats

from policies.spec import InputError
from sim.randomize_fields import NAMED, field_rows, select
from sim.registry import Options
from tests.sim.randomized import XML, Everything

Mj: Any = mujoco
N = 800
LAW = stats.uniform(0.7, 0.2)
#: quantity -> an element of the model that has it
ELEMENT = {
    "mass": "fore", "inertia": "fore", "center_of_mass": "fore", "body_position": "fore", "body_orientation": "fore", "friction": "crate_left",
    "friction_spin": "crate_left", "friction_roll": "crate_left", "size": "crate_left", "geom_position": "crate_left", "geom_orientation": "crate_left",
    "damping": "shoulder", "armature": "shoulder", "frictionloss": "shoulder", "stiffness": "shoulder", "kp": "shoulder", "kd": "brake", "gain": "elbow",
    "gear": "elbow", "force_limit": "elbow", "gravity": "", "wind": "", "density": "", "viscosity": "", "camera_position": "front",
    "camera_orientation": "front", "field_of_view": "front", "light_position": "lamp", "light_direction": "lamp", "light_color": "lamp",
    "light_ambient": "lamp", "light_specular": "lamp", "color": "fore", "material": "floor", "material_color": "red", "site_position": "tip",
}  # fmt: skip
TURNED = {name for name, named in NAMED.items() if named.also in ("rotation", "direction", "material")}


def worlds(model: dict[str, Any], count: int = N, **more: Any) -> Everything:
    return Everything("test/everything", Options(count, randomize={"model": model, **more}))


def own(task: Everything, key: str) -> np.ndarray:
    """Return the values (N, R, C) that the worlds have."""
    selection = select(key, task.model)
    live = task.engine.expand(selection.named.field)
    live = live.reshape(len(live), *field_rows(selection.named.field, task.model).shape)
    return live[:, selection.rows][:, :, selection.columns].astype(float) * (-1 if selection.named.also == "kd" else 1)


def test_every_quantity_has_its_statistics_tested() -> None:
    assert set(ELEMENT) == set(NAMED)


@pytest.mark.parametrize("name", [n for n in NAMED if n not in TURNED])
def test_statistics_of_every_field(name: str) -> None:
    """Scaled between 0.7 and 0.9: each factor uniform, within its ends elementwise; where the model has 0, what is added."""
    key = f"{name}:{ELEMENT[name]}" if ELEMENT[name] else name
    task = worlds({key: {"scale": [0.7, 0.9]}})
    base = select(key, task.model).base
    if base.any():
        task.reset(np.arange(N))
        factors = (own(task, key) / np.where(base == 0, 1, base))[:, base != 0]
        low, high, law = 0.7, 0.9, LAW
    else:
        task.close()
        task = worlds({key: {"add": [0.5, 0.7], "per": "component"}})
        task.reset(np.arange(N))
        factors, low, high, law = own(task, key)[:, base == 0], 0.5, 0.7, stats.uniform(0.5, 0.2)
    slack = 1e-6  # colours are float32
    assert factors.min() >= low - slack and factors.max() <= high + slack
    column = factors[:, 0]
    assert stats.kstest(column, law.cdf).pvalue > 1e-3
    assert abs(column.mean() - law.mean()) < 4 * law.std() / np.sqrt(N)
    assert abs(column.var() - law.var()) < 5 * law.var() * np.sqrt(0.8 / N)  # kurtosis of the uniform: 1.8
    task.close()


def test_the_rest_of_the_model_stays_as_it_is() -> None:
    task = worlds({"mass:fore": {"scale": [0.5, 2.0]}, "friction:crate_*": {"scale": [0.5, 2.0]}}, 5)
    task.reset(np.arange(5))
    mass, friction = task.engine.expand("body_mass"), task.engine.expand("geom_friction")
    other = [i for i in range(task.model.nbody) if i != task.model.body("fore").id]
    np.testing.assert_array_equal(mass[:, other], np.repeat(task.model.body_mass[None, other], 5, axis=0))
    assert (mass[:, task.model.body("fore").id] != 0.6).all()
    np.testing.assert_array_equal(friction[:, :, 1:], np.repeat(task.model.geom_friction[None, :, 1:], 5, axis=0))
    np.testing.assert_array_equal(friction[:, 0], np.repeat(task.model.geom_friction[None, 0], 5, axis=0))
    assert (friction[:, task.model.geom("crate_left").id, 0] != friction[:, task.model.geom("crate_right").id, 0]).all()  # one draw an element
    task.close()


def test_inertia_goes_with_mass_unless_told_otherwise() -> None:
    for along in (True, False):
        task = worlds({"mass:fore": {"scale": [0.5, 2.0], "inertia": along}}, 4)
        task.reset(np.arange(4))
        body = task.model.body("fore").id
        factor = task.engine.expand("body_mass")[:, body] / task.model.body_mass[body]
        expected = task.model.body_inertia[body] * (factor[:, None] if along else np.ones((4, 1)))
        np.testing.assert_allclose(task.engine.expand("body_inertia")[:, body], expected, rtol=1e-12)
        task.close()


def test_one_number_for_a_group_an_element_or_a_component() -> None:
    for per, distinct in (("group", 1), ("element", 2), ("component", 6)):
        task = worlds({"size:crate_*": {"scale": [0.9, 1.1], "per": per}}, 3)
        task.reset(np.arange(3))
        base = select("size:crate_*", task.model).base
        used = base > 0  # a capsule has two sizes
        factors = (own(task, "size:crate_*") / np.where(used, base, 1))[:, used].round(9)
        assert [len(set(row)) for row in factors.tolist()] == [min(distinct, int(used.sum()))] * 3
        task.close()


def compiled(edit: dict[str, str]) -> Any:
    """Return the model of a text that was edited: pattern -> replacement, each exactly once."""
    text = XML
    for pattern, new in edit.items():
        text, count = re.subn(pattern, new, text)
        assert count == 1, pattern
    return Mj.MjModel.from_xml_string(text)


CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "mass": ({"mass:fore": {"set": 0.9}}, {r'mass="0.6"': 'mass="0.9"'}),
    "inertia": ({"inertia:crate": {"scale": 1.5}}, {r'diaginertia="[^"]*"': 'diaginertia="0.003 0.0045 0.006"'}),
    "center_of_mass": ({"center_of_mass.x:fore": {"add": 0.02}}, {}),
    "friction": ({"friction:*": {"set": 0.3}}, {r"<worldbody>": '<default><geom friction="0.3"/></default><worldbody>'}),
    "size": (
        {"size:crate_left": {"scale": 1.3}, "size:crate_right": {"scale": 0.8}},
        {r'size="0.05 0.06 0.07"': 'size="0.065 0.078 0.091"', r'size="0.04 0.05" pos': 'size="0.032 0.04" pos'},
    ),
    "geom_position": ({"geom_position.z:crate_left": {"add": -0.03}}, {r'pos="-0.06 0 0"': 'pos="-0.06 0 -0.03"'}),
    "geom_orientation": ({"geom_orientation:crate_left": {"set": {"choice": [0.3]}}}, {r'pos="-0.06 0 0"': 'pos="-0.06 0 0" quat="QUAT"'}),
    "joint": (
        {"damping:shoulder": {"set": 0.3}, "armature:shoulder": {"set": 0.02}, "frictionloss:shoulder": {"set": 0.1}, "stiffness:shoulder": {"set": 0.5}},
        {r'damping="0.1" armature="0.01" frictionloss="0.02" stiffness="0.3"': 'damping="0.3" armature="0.02" frictionloss="0.1" stiffness="0.5"'},
    ),
    "servo": (
        {"kp:shoulder": {"scale": 2.0}, "kd:*": {"scale": 0.5}},
        {r'kp="12" kv="0.8"': 'kp="24" kv="0.4"', r'joint="elbow" kv="0.3"': 'joint="elbow" kv="0.15"'},
    ),
    "gear": ({"gear:elbow": {"set": 3.0}}, {r'gear="2"': 'gear="3"'}),
    "gravity": ({"gravity.x": {"set": 2.0}}, {r"<option ": '<option gravity="2 0 -9.81" '}),
    "link": ({"body_position.z:fore": {"add": -0.05}}, {r'name="fore" pos="0 0 -0.3"': 'name="fore" pos="0 0 -0.35"'}),
    "raw": ({"geom_solref.0:crate_*": {"set": 0.05}}, {}),
}  # fmt: skip


def reference(name: str) -> Any:
    """Return the compiled model of a case; what a text cannot say is set in the model."""
    edit = dict(CASES[name][1])
    half = 0.5 * 0.3 * np.sqrt(3)
    turn = [np.cos(half), *(np.sin(half) / np.sqrt(3) * np.ones(3))]
    model = compiled({k: v.replace("QUAT", " ".join(repr(float(q)) for q in turn)) for k, v in edit.items()})
    if name == "raw":
        for geom in ("crate_left", "crate_right"):
            model.geom_solref[model.geom(geom).id, 0] = 0.05
    if name == "center_of_mass":
        model.body_ipos[model.body("fore").id, 0] += 0.02
    Mj.mj_setConst(model, Mj.MjData(model))
    return model


@pytest.mark.parametrize("name", CASES)
def test_the_worlds_move_as_a_model_compiled_with_the_values(name: str) -> None:
    task = worlds(CASES[name][0], 2)
    task.reset(np.array([3, 4]))
    model = reference(name)
    data = Mj.MjData(model)
    data.qpos[:], data.qvel[:] = task.qpos[1], 0
    plain = Mj.MjData(task.model)
    plain.qpos[:] = task.qpos[1]
    action = np.array([[0.5, 0.3, -0.4]] * 2, np.float32)
    for _ in range(40):
        task.step(action)
        for one, its in ((data, model), (plain, task.model)):
            one.ctrl[:] = action[0]
            Mj.mj_step(its, one, nstep=task.ticks)
    np.testing.assert_allclose(task.qpos[1], data.qpos, atol=2e-7)
    assert np.abs(task.qpos[1] - plain.qpos).max() > 1e-4, "the case changes nothing"
    task.close()


def test_small_turns_tilt_what_was() -> None:
    task = worlds({"body_orientation:fore": {"add": [-0.2, 0.2]}, "light_direction:lamp": {"add": [-0.3, 0.3]}}, N)
    task.reset(np.arange(N))
    quaternions = task.engine.expand("body_quat")[:, task.model.body("fore").id]
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1.0, atol=1e-12)
    angle = 2 * np.arccos(np.clip(quaternions[:, 0], -1, 1))
    turn = quaternions[:, 1:] * (angle / np.sin(angle / 2))[:, None]
    for axis in range(3):
        assert stats.kstest(turn[:, axis], stats.uniform(-0.2, 0.4).cdf).pvalue > 1e-3
    np.testing.assert_allclose(np.linalg.norm(task.engine.expand("light_dir")[:, 0], axis=1), 1.0, atol=1e-6)
    task.close()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"mas:fore": {"scale": 1.1}}, "no field 'mas' to vary; did you mean 'mass'?"),
        ({"mass:foer": {"scale": 1.1}}, "no body 'foer'; did you mean 'fore'?"),
        ({"mass": {"scale": 1.1}}, "say of which body"),
        ({"mass:fore": {"scale": -0.1}}, "gives -0.06 kg; expected above 0"),
        ({"mass:fore": {"scale": [0.0, 1.0]}}, "gives 0 kg; expected above 0"),
        ({"mass:fore": {"add": [-1.0, 0.0]}}, "expected above 0"),
        ({"mass:marker": {"scale": 1.1}}, "body 'marker' has no mass of its own"),
        ({"center_of_mass:crate": {"add": 0.01}}, "is compiled as simple"),
        ({"inertia:fore": {"set": 0.0}}, "expected above 0"),
        ({"friction:floor": {"set": -0.5}}, "expected at least 0"),
        ({"color:fore": {"set": [0.0, 2.0]}}, "expected at least 0 and at most 1"),
        ({"kp:elbow": {"scale": 2}}, "no position servo"),
        ({"force_limit:shoulder": {"scale": 2}}, "actuator 'shoulder' has no force limit"),
        ({"gain:shoulder": {"scale": 2}}, "is a servo"),
        ({"size:floor": {"scale": 2}}, "no size that could vary"),
        ({"gravity:world": {"scale": 2}}, "belongs to the whole world"),
        ({"gravity.w": {"scale": 2}}, "has 3 components"),
        ({"body_orientation:fore": {"scale": 2}}, "an orientation cannot be scaled"),
        ({"material:floor": {"set": {"choice": ["red", "gren"]}}}, "no material 'gren'; did you mean 'green'?"),
        ({"mass:fore": {"set": "heavy"}}, "'heavy' is no number"),
        ({"material:floor": {"add": 1.0}}, "a material can only be set"),
        ({"dof_invweight0:shoulder": {"scale": 2}}, "no field 'dof_invweight0'"),
        ({"body_parentid:fore": {"set": 0}}, "no field 'body_parentid'"),
        ({"friction:floor": {"scale": 0.9, "inertia": False}}, "'inertia: false' is for masses alone"),
        ({"opt.timestep": {"scale": 0.9}}, "no field 'opt.timestep'"),
        ({"gravity": {"add": {"direction": 0.5}, "per": "element"}}, "a direction is a vector of x, y and z"),
        ({"gravity.z": {"add": {"direction": 0.5}}}, "a direction is a vector of x, y and z"),
    ],
)  # fmt: skip
def test_what_is_not_possible_is_refused_at_once(model: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        worlds(model, 1)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_only_shows_in_a_draw_is_refused_there() -> None:
    task = worlds({"mass:fore": {"scale": {"normal": [1.0, 2.0]}}}, 50)
    with pytest.raises(InputError, match=r"drew -\S+ kg for body 'fore' \(episode of seed \d+\); expected above 0: cut it with clip"):
        task.reset(np.arange(50))
    task = worlds({"inertia:fore": {"scale": [0.3, 3.0], "per": "component"}}, 50)
    with pytest.raises(InputError, match="one exceeds the sum of the others"):
        task.reset(np.arange(50))
    task = worlds({"inertia.x:fore": {"scale": [5.0, 6.0]}}, 2)  # one moment alone
    with pytest.raises(InputError, match="one exceeds the sum of the others"):
        task.reset(np.arange(2))
    task = worlds({f"inertia.{axis}:fore": {"scale": 5.0} for axis in "xyz"}, 2)  # together a body again
    task.reset(np.arange(2))
