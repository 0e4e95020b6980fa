"""Gymnasium adapters: what registers, how spaces and fields are turned into each other, what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from policies.spec import Field, InputError
from sim import gym, registry

ROOT = Path(__file__).resolve().parents[2]


class Pictures(gymnasium.Env):
    """A dict observation with a picture; succeeds and ends by itself after four steps."""

    observation_space = spaces.Dict({"wrist": spaces.Box(0, 255, (6, 8, 3), np.uint8), "joints": spaces.Box(-np.inf, np.inf, (2,), np.float64)})
    action_space = spaces.Box(-2.0, 2.0, (2, 1), np.float64)
    metadata = {"render_fps": 20, "render_modes": []}  # noqa: RUF012

    def _observation(self) -> dict[str, np.ndarray]:
        return {"wrist": np.full((6, 8, 3), self.t, np.uint8), "joints": self.joints.copy()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.joints = 0, self.np_random.normal(size=2)
        return self._observation(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        self.joints += action[:, 0]
        return self._observation(), 0.5, False, self.t == 4, {"is_success": self.t == 4}


def test_every_task_is_registered() -> None:
    identifiers = {f"robopolicy/{registry.entry(name).short_name}" for name in registry.names()}
    assert len(identifiers) == len(registry.names()) and identifiers <= set(gymnasium.registry)
    gym.register()  # again, which changes nothing and warns of nothing


def test_a_fresh_process_finds_the_tasks() -> None:
    code = "import gymnasium; print(gymnasium.make('sim.gym:robopolicy/two-route').reset(seed=0)[0]['observation.state'].shape)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("(2,)", "")


def test_a_task_through_gymnasium_and_back_is_the_task() -> None:
    worlds = registry.make("two-route", 2)
    back = gym.as_batch("robopolicy/two-route", 2, max_episode_steps=100)
    seeds = np.array([4, 9])
    a, b = worlds.reset(seeds), back.reset(seeds)
    for _ in range(60):
        np.testing.assert_array_equal(a["observation.state"], b["observation.observation.state"])
        action = worlds.expert_action()
        x, y = worlds.step(action), back.step(action)
        np.testing.assert_array_equal(x.terminated, y.terminated)
        np.testing.assert_array_equal(x.info["success"], y.info["success"])
        a, b = x.obs, y.obs
    assert x.terminated.all()


def test_pictures_and_vectors_become_fields() -> None:
    env = gym.GymBatch(Pictures, 2, action_kind="velocity")
    fields = env.spec.observation.fields
    assert fields["observation.images.wrist"] == Field((6, 8, 3), "uint8", kind="image")
    assert fields["observation.joints"] == Field((2,))
    assert env.spec.action.fields["action"] == Field((2,), low=-2, high=2, kind="velocity")
    assert env.spec.action.rate_hz == 20 and env.task == "Pictures" and env.max_episode_steps == 1000
    first = env.reset(np.array([0, 1]))
    for t in range(1, 5):
        result = env.step(np.array([[1, -1], [9, 0]], np.float32))
        assert (result.obs["observation.images.wrist"] == t).all()
    assert result.truncated.all() and not result.terminated.any() and result.info["success"].all()
    moved = result.obs["observation.joints"] - first["observation.joints"]
    np.testing.assert_allclose(moved, [[4, -4], [8, 0]], rtol=1e-6)  # the second was clipped to 2
    assert env.render() is None
    env.close()


def test_a_discrete_action_is_refused() -> None:
    with pytest.raises(InputError, match=r"CartPole-v1.*Discrete\(2\), expected a box of real numbers"):
        gym.as_batch("CartPole-v1")


@pytest.mark.parametrize("wrong", [{"num_worlds": 0}, {"rate_hz": 0.0}, {"rate_hz": -3.0}, {"max_episode_steps": 0}])
def test_numbers_that_are_not_positive_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} of task .*: expected more than 0, found"):
        gym.as_batch("Pendulum-v1", **wrong)


def test_an_unknown_render_mode_is_refused() -> None:
    with pytest.raises(InputError, match="expected None or 'rgb_array'"):
        gym.TaskEnv("two-route", render_mode="human")


def test_pictures_come_through() -> None:
    env = gymnasium.make("robopolicy/two-route", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (256, 256, 3) and picture.std() > 5
    assert env.unwrapped.metadata["render_fps"] == 10
    env.close()


def test_an_unseeded_reset_differs_and_repeats_with_the_generator() -> None:
    env = gym.TaskEnv("two-route")
    env.reset(seed=1)
    draws = [env.reset()[0]["observation.state"] for _ in range(2)]
    assert (draws[0] != draws[1]).any()
    env.reset(seed=1)
    again = [env.reset()[0]["observation.state"] for _ in range(2)]
    np.testing.assert_array_equal(draws, again)
    env.close()


def test_a_longer_time_limit_than_the_registered_one_is_kept() -> None:
    for limit in (210, 5):
        env = gym.as_batch("Pendulum-v1", 1, max_episode_steps=limit)  # registered with 200
        env.reset(np.zeros(1, np.int64))
        ended = [bool(env.step(np.zeros((1, 1), np.float32)).truncated[0]) for _ in range(limit)]
        assert env.max_episode_steps == limit and ended == [False] * (limit - 1) + [True]
        env.close()
