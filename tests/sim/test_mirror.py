"""Mirrors of tasks: applied twice they change nothing, and mirrored worlds go mirrored ways, by simulation."""

from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from sim.mirror import Mirror
from sim.registry import make

STEPS, WORLDS = 12, 6
TASKS = ("classic/cartpole", "locomotion/quadruped", "locomotion/ant", "gymnasium/walker2d")


def element_names(spec):
    return spec.observation.fields["observation.state"].names, spec.action.names


def flip(x, order, sign):
    return x[:, order] * sign


def reflect(task, world, other):
    """Put ``other`` into the mirror image of the state of ``world``: by geometry, y to -y, not by the task's own mirror."""
    q, v = world.qpos.copy(), world.qvel.copy()
    if task == "classic/cartpole":
        q, v = -q, -v
    elif task == "gymnasium/walker2d":
        legs = [3, 4, 5, 6, 7, 8]
        q[:, legs], v[:, legs] = q[:, [6, 7, 8, 3, 4, 5]], v[:, [6, 7, 8, 3, 4, 5]]
    else:
        per_leg = 3 if "quadruped" in task else 2
        joints = np.arange(4 * per_leg).reshape(4, per_leg)[[1, 0, 3, 2]].ravel()
        sign = np.tile([-1.0] + [1.0] * (per_leg - 1), 4)  # only hips turn about an axis in the plane of the mirror
        q[:, :7] *= (1, -1, 1, 1, -1, 1, -1)
        v[:, :6] *= (1, -1, 1, -1, 1, -1)
        q[:, 7:], v[:, 6:] = q[:, 7:][:, joints] * sign, v[:, 6:][:, joints] * sign
        other.ctrl[:] = world.ctrl[:, joints] * sign
    other.qpos[:], other.qvel[:] = q, v
    other.engine.forward(np.arange(WORLDS))
    other.resume(np.arange(WORLDS))
    if task == "locomotion/quadruped":
        for row in range(WORLDS):
            other.commands.impose(np.array([row]), world.commands.at(world._elapsed)[row] * (1, -1, -1))


@pytest.mark.parametrize("task", TASKS)
def test_mirrored_worlds_go_mirrored_ways(task):
    worlds: list[Any] = [make(task, WORLDS) for _ in range(2)]
    world, other = worlds
    names, actions = element_names(world.spec)
    seen, done = world.mirror.of(names, "observation"), world.mirror.of(actions, "action")
    random = np.random.default_rng(0)
    obs = world.reset(np.arange(WORLDS))
    other.reset(np.arange(WORLDS))
    for _ in range(3):  # somewhere along the way
        obs = world.step(random.uniform(-1, 1, (WORLDS, len(actions)))).next_obs
    reflect(task, world, other)
    mirrored = {name: np.zeros_like(value) for name, value in obs.items()}
    if task != "locomotion/quadruped":  # which remembers its last action, and begins anew with what its servos are asked for
        other.observe(mirrored)
        assert np.abs(mirrored["observation.state"] - flip(obs["observation.state"], *seen)).max() < 1e-6
    changed = 0.0
    for _ in range(STEPS):
        action = random.uniform(-0.7, 0.7, (WORLDS, len(actions))).astype(np.float32)
        a, b = world.step(action), other.step(flip(action, *done))
        x, y = a.next_obs["observation.state"], b.next_obs["observation.state"]
        going = ~(a.terminated | b.terminated)
        assert (a.terminated == b.terminated).all() and going.any()
        assert np.abs(y - flip(x, *seen))[going].max() < 2e-4 * max(1.0, np.abs(x).max())
        if task == "locomotion/quadruped":  # the time that feet were in the air is not carried over
            for term in set(world.info_fields) - {"air_time", "linear_error", "yaw_error"}:
                assert np.allclose(a.info[term][going], b.info[term][going], rtol=1e-3, atol=1e-3), term
        else:
            assert np.abs(a.reward - b.reward)[going].max() < 1e-3
        changed = max(changed, np.abs(y - x)[going].max())
    assert changed > 0.1  # they do not go the same way
    world.close()
    other.close()


@pytest.mark.parametrize("task", TASKS)
def test_a_mirror_of_a_mirror_is_the_thing_itself(task):
    world: Any = make(task, 1)
    for names in element_names(world.spec):
        order, sign = world.mirror.of(names, task)
        x = np.random.default_rng(1).normal(size=(3, len(names)))
        assert np.array_equal(flip(flip(x, order, sign), order, sign), x) and not np.array_equal(flip(x, order, sign), x)
    low, high = world.spec.action.low, world.spec.action.high
    order, sign = world.mirror.of(world.spec.action.names, task)
    assert np.array_equal(np.where(sign < 0, -high[order], low[order]), low)  # limits are those of the mirror image
    world.close()


def test_a_mirror_that_is_none_is_refused_in_one_line():
    for mirror, names, words in (
        (Mirror((("l_", "r_"),)), ("l_hip",), "element 'l_hip' mirrors 'r_hip', which it does not have"),
        (Mirror((("l_", "r_"),), ("l_*",)), ("l_hip", "r_hip"), "'l_hip' and its mirror 'r_hip' do not both change sign"),
        (Mirror(), (), "have no names"),
    ):
        with pytest.raises(InputError) as error:
            mirror.of(names, "field 'state'")
        assert words in str(error.value) and "\n" not in str(error.value)
