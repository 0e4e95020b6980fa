"""Learning through a robot's own interface: transitions as in simulation, filtered commands, counted interventions, no way around them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from policies import checkpoint
from policies.normalize import limits_normalizer
from policies.spec import InputError
from real.drive import Drive, DriveOptions
from real.drive_handle import DriveHandle
from real.robot import RobotGone
from real.robots.twin import TwinConfig, TwinRobot
from robopolicy.recipe import recipe_from_dict
from robopolicy.training import off_policy
from robopolicy.training.log import read_log
from robopolicy.training.off_policy_actor import Actor, Experience
from robopolicy.training.robot_worlds import RobotWorlds
from robopolicy.twin.server import TwinServer
from robopolicy.twin.world import World
from sim import registry
from sim.env import BatchEnv


@pytest.fixture
def twin(tmp_path, monkeypatch):
    """Return a function that serves a twin in lock-step and returns its drive and its address."""
    stop, threads, handles = threading.Event(), [], []
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def start(task: str, **options) -> tuple[DriveHandle, str]:
        server = TwinServer(World(registry.make(task, 1, **options), lockstep=True), "tcp://127.0.0.1:0", log=lambda line: None)
        threads.append(threading.Thread(target=server.serve, args=(stop.is_set,), daemon=True))
        threads[-1].start()
        robot = TwinRobot(TwinConfig(address=server.address, timeout_s=30))
        handles.append(DriveHandle(Drive(robot, DriveOptions(state_dir=str(tmp_path)))))
        return handles[-1], server.address

    yield start
    for handle in handles:
        handle.close()
    stop.set()
    for thread in threads:
        thread.join(30)


def act(worlds: BatchEnv, steps: int, explore: Callable) -> list[Experience]:
    actor = Actor(worlds, explore, limits_normalizer(worlds.spec), 0)
    actor.begin(0)
    return [actor.step() for _ in range(steps)]


def wild(obs, noise) -> torch.Tensor:
    return 2 * noise.uniform(7) - 1


def test_a_twin_of_an_arm_gives_transitions_as_simulation_does_and_its_filter_counts(twin):
    worlds = RobotWorlds(twin("arm/reach", max_episode_steps=50)[0], 6)
    assert isinstance(worlds, BatchEnv)
    simulated = registry.make("arm/reach", 1, max_episode_steps=6, autoreset=True)
    assert worlds.spec.fingerprint() == simulated.spec.fingerprint()
    ours, theirs = act(worlds, 14, wild), act(simulated, 14, wild)
    for a, b in zip(ours, theirs, strict=True):
        for name in ("action", "reward", "terminated", "truncated", "taken"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x.shape, x.dtype) == (y.shape, y.dtype), name
        for side in ("obs", "next_obs"):
            x, y = getattr(a, side), getattr(b, side)
            assert {n: (v.shape, v.dtype) for n, v in x.items()} == {n: (v.shape, v.dtype) for n, v in y.items()}
    assert [bool(e.truncated[0]) for e in ours] == [(k + 1) % 6 == 0 for k in range(14)]
    for a, b in itertools.pairwise(ours):
        same = np.array_equal(a.next_obs["observation.state"], b.obs["observation.state"])
        assert same != bool(a.truncated[0])  # the true successor, and another beginning after an end
    assert worlds.ticks == 14 * 5
    before = worlds.interventions.total()
    worlds.max_episode_steps = 100
    through_the_table = np.array([[0.0, 1.7, 0.0, -0.8, 0.0, 1.0, 0.0]], np.float32)
    lowest = min(float(worlds.step(through_the_table).next_obs["observation.state"][0, 16]) for _ in range(35))
    assert lowest > 0.0  # the tip stays above the table
    assert worlds.interventions.total() > before + 10 and any(cause.startswith("barrier") for cause in worlds.interventions)
    assert worlds.metrics()["filtered"] > 0.05
    report = worlds.robot.report()
    assert report["commands"] + report["brake_ticks"] + report["hold_ticks"] >= worlds.ticks and report["commands"] > 0
    assert not report["refused"]  # what passed the filter, the drive takes


def test_a_twin_knows_success_and_a_judge_may_decide_instead(twin):
    worlds = RobotWorlds(twin("pusht", max_episode_steps=40)[0], 30)
    first = {name: array.copy() for name, array in worlds.reset(np.zeros(1, np.int64)).items()}
    seen: list = []
    worlds.judge = lambda obs: seen.append(obs) or np.array([len(seen) == 3])
    results = [worlds.step(np.full((1, 2), 600.0, np.float32)) for _ in range(3)]
    assert [float(r.reward[0]) for r in results] == [0, 0, 1] and results[-1].terminated[0] and not results[-1].truncated[0]
    assert not any(r.info["success"][0] for r in results)
    assert worlds.interventions["range"] == 3  # px, beyond the edge of the table at 512
    assert not np.array_equal(results[-1].obs["observation.state"], results[-1].next_obs["observation.state"])
    assert set(first) == set(results[0].obs)


def test_a_recipe_is_trained_on_a_robot(twin, tmp_path):
    handle, address = twin("arm/reach", max_episode_steps=40)
    handle.close()
    values = {
        "task": "arm/reach",
        "output": str(tmp_path / "run"),
        "env": {"max_episode_steps": 8},
        "algo": {"type": "sac", "hidden": [16]},
        "policy": {"hidden": [16], "activation": "relu"},
        "training": {"steps": 24, "random_steps": 10, "batch_size": 8, "threads": 1, "log_every": 12, "checkpoint_every": 12},
    }
    values["training"]["robot"] = {"type": "twin", "address": address, "timeout_s": 30}
    result = off_policy.train(recipe_from_dict(values, "test"), progress=False)
    rows = list(read_log(result.run, "train"))
    assert [row["updates"] for row in rows] == [2, 14] and rows[0]["episodes"] == 1
    assert all(0 <= row["filtered"] <= 1 and row["held"] < 0.5 for row in rows)
    simulated = registry.make("arm/reach", 1)
    checkpoint.load(result.checkpoint).spec.require(simulated.spec, "the policy", "the simulated arm")
    with pytest.raises(InputError, match=r"expected training.worlds=1, found 2"):
        values["output"], values["training"]["worlds"] = str(tmp_path / "two"), 2
        off_policy.train(recipe_from_dict(values, "test"), progress=False)


def test_a_robot_that_was_stopped_takes_no_more(twin):
    worlds = RobotWorlds(twin("arm/reach")[0], 20)
    obs = worlds.reset(np.zeros(1, np.int64))
    worlds.step(obs["observation.state"][:, :7])
    worlds.obey("stop", 0.0)
    with pytest.raises(RobotGone):
        for _ in range(3):
            worlds.step(obs["observation.state"][:, :7])
    with pytest.raises(InputError, match="no scripted expert"):
        worlds.expert_action()


@pytest.mark.parametrize(("wish", "value", "end"), [("hold", 0.0, ("resume", 0.0)), ("speed", 0.0, ("speed", 1.0))])
def test_a_robot_that_an_operator_holds_stays_held_until_it_is_told_otherwise(twin, wish, value, end):
    worlds = RobotWorlds(twin("arm/reach")[0], 50)
    away = worlds.reset(np.zeros(1, np.int64))["observation.state"][:, :7] + 0.3
    heard: list[np.ndarray] = []

    def listen() -> None:
        heard.append(worlds.reading.fields["observation.state"][:7].copy())
        if len(heard) == 41:
            worlds.obey(*end)

    worlds.obey(wish, value)
    worlds.attend(listen)
    worlds.step(away)
    assert worlds.held == 40 and len(heard) == 41 + 4  # forty ticks of holding, then the five of a step
    np.testing.assert_allclose(heard[40], heard[20], atol=1e-3)
    for _ in range(5):
        worlds.step(away)
    assert np.abs(worlds.reading.fields["observation.state"][:7] - heard[40]).max() > 0.01
    worlds.obey("speed", 0.1)
    worlds.obey("deadman", 1.0)
    worlds.step(away)
    assert worlds.held == 40  # slow is not held
