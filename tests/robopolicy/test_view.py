"""The viewer: what it shows is where the engine has put it, its sliders change the physics, and a browser can press its buttons."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.view import KNOBS, Rollout, Viewer, make_planner
from robopolicy.view_scene import height_field
from sim.registry import make
from tests.browser import opened, served

ROOT = Path(__file__).resolve().parents[2]
ARENA = """
<mujoco><asset><hfield name="hills" nrow="3" ncol="4" size="2 1 0.5 0.1" elevation="0 0 0 0  0 1 0 0  0 0 0 0"/></asset>
<worldbody><geom type="hfield" hfield="hills"/></worldbody></mujoco>
"""


@pytest.fixture
def viewer():
    env = make("classic/cartpole", 3)
    made = Viewer(env, make_planner(env, "zero"), 0)
    yield made
    made.close()


def test_every_visible_geom_stands_where_the_engine_has_it(viewer):
    viewer.run(lambda: False, steps=5)
    viewer._show(0.0)
    model, data = viewer.env.engine.scene(0)
    handles = viewer._scene._handles
    assert {model.geom(g).name for g in handles} == {"floor", "rail", "cart", "pole"}
    for geom, handle in handles.items():
        np.testing.assert_allclose(handle.position, data.geom_xpos[geom], atol=1e-6)
    assert np.abs(handles[model.geom("pole").id].position[0]) > 0  # it moves


def test_without_gravity_a_pole_does_not_fall(viewer):
    viewer.run(lambda: False, steps=40)
    fallen = np.abs(viewer.env.qpos[:, 1]).copy()
    viewer.scale("gravity", 0.0)
    viewer.rollout.begin()
    begun = viewer.env.qvel.copy()
    viewer.run(lambda: False, steps=40)
    assert (np.abs(viewer.env.qvel[:, 1] - begun[:, 1]) < 0.1 * np.abs(begun[:, 1]) + 0.01).all() and fallen.max() > 0.2
    viewer.scale("gravity", 1.0)
    viewer.run(lambda: False, steps=1)
    np.testing.assert_allclose(viewer.env.engine.expand("opt.gravity"), [[0, 0, -9.81]] * 3)


def test_every_knob_changes_its_fields_alone(viewer):
    for name, fields in KNOBS.items():
        viewer.scale(name, 2.0)
        viewer.run(lambda: False, steps=1)
        for field in fields:
            whole = viewer.env.model.opt.gravity if field == "opt.gravity" else getattr(viewer.env.model, field)
            np.testing.assert_allclose(viewer.env.engine.expand(field), np.broadcast_to(2 * whole, (3, *np.shape(whole))))
    with pytest.raises(InputError, match="did you mean 'friction'"):
        viewer.scale("frction", 1.0)


@pytest.mark.parametrize("task", ["arm/reach", "quadrotor/hover"])  # servos, motors
def test_strength_scales_what_actuators_push_and_leaves_their_targets(task):
    env = make(task, 1)
    made = Viewer(env, make_planner(env, "zero"), 0)
    engine, force = made.env.engine, made.env.engine.bind("actuator_force")
    env.ctrl[:] = env.ctrl + 0.01
    state = engine.save()
    engine.forward()
    before = force.copy()
    made.scale("actuator strength", 0.5)
    made._scaled()
    engine.load(state)
    engine.forward()
    np.testing.assert_allclose(force, 0.5 * before, rtol=1e-9)
    assert np.abs(before).max() > 0.1
    made.close()


def test_random_actions_do_not_follow_from_the_first_state():
    env, seeds = make("classic/cartpole", 200), np.arange(200)
    planner, first = make_planner(env, "random"), env.reset(seeds)
    planner.begin(seeds)
    action = planner.plan(first, 0)[0][:, 0, 0]
    assert np.ptp(action) > 1.9 and abs(np.corrcoef(action, env.qpos[:, 0])[0, 1]) < 0.25
    env.close()


def test_episodes_follow_each_other_and_the_expert_succeeds():
    env = make("classic/cartpole", 2, max_episode_steps=30)
    rollout = Rollout(env, make_planner(env, "expert"), 5)
    for _ in range(31):
        rollout.step()
    assert rollout.episode == 2 and rollout.steps == 1
    again = make("classic/cartpole", 2, max_episode_steps=30)
    again.reset(np.array([7, 8]))
    again.step(again.expert_action())
    np.testing.assert_array_equal(env.qpos, again.qpos)


def test_what_cannot_act_is_said():
    env = make("classic/cartpole", 1)
    with pytest.raises(InputError, match="did you mean 'expert'"):
        make_planner(env, "exprt")
    random = make_planner(env, "random")
    random.begin(np.array([3]))
    first, again = random.plan({}, 0)[0], random.plan({}, 0)[0]
    assert np.array_equal(first, again) and np.abs(first).max() <= 1 and not np.array_equal(first, random.plan({}, 1)[0])


def test_a_height_field_is_drawn_with_the_heights_of_its_file():
    import mujoco

    vertices, faces = height_field(mujoco.MjModel.from_xml_string(ARENA), 0)
    assert vertices.shape == (12, 3) and faces.shape == (12, 3)
    assert vertices[5].tolist() == pytest.approx([-2 + 4 / 3, 0.0, 0.5]) and np.delete(vertices[:, 2], 5).max() == 0
    normals = np.cross(vertices[faces[:, 1]] - vertices[faces[:, 0]], vertices[faces[:, 2]] - vertices[faces[:, 0]])
    assert (normals[:, 2] > 0).all()


def test_in_a_browser_the_worlds_run_and_a_button_begins_anew(tmp_path):
    with served(["view", "cartpole", "--worlds", "2", "--max-steps", "100000"], tmp_path) as url, opened(url) as page:
        page.get_by_text(re.compile("episode 1")).first.wait_for()
        page.get_by_text(re.compile("succeeded")).first.wait_for()
        assert page.locator("canvas").count() >= 1
        page.get_by_role("button", name="New episode").click()
        page.get_by_text(re.compile("episode 2")).first.wait_for()
