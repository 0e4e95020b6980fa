"""A person with a device takes over from a policy that learns by trial, for as long as the clutch is closed."""

from __future__ import annotations

import numpy as np
import pytest

from policies.spec import InputError
from real.teleop.jog import JogConfig
from real.teleop.scripted import ScriptedSource
from real.teleop.source import Input
from robopolicy.training.off_policy_config import TakeoverConfig
from robopolicy.training.takeover import Takeover
from robopolicy.training.takeover_device import DeviceIntervention, open_device, robot_info
from sim import registry
from tests.robopolicy.acted import towards


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_whoever_moves_acts_and_whoever_lets_go_gives_back():
    worlds, clock = registry.make("arm/reach", 1, max_episode_steps=400), Clock()
    source, heard = ScriptedSource(clock=clock), []
    somebody = DeviceIntervention(worlds, source, JogConfig(dead_zone=0, expo=0), lambda kind, value: heard.append(kind), clock)
    takeover = Takeover(somebody, worlds.spec)
    obs = worlds.reset(np.array([3]))
    idle = np.zeros((1, 7))
    success = False
    for _ in range(300):
        goal, hand = obs["observation.environment_state"][0].astype(float), obs["observation.state"][0, 14:17].astype(float)
        source.say(Input(twist=towards(goal, hand, 12.0), clutch=True))
        action, mask = takeover.apply(obs, idle)
        assert mask.all() and np.abs(action).max() <= 1
        low, high = worlds.spec.action.low, worlds.spec.action.high
        result = worlds.step((low + high) / 2 + action * (high - low) / 2)
        obs, clock.now = result.next_obs, clock.now + 0.05
        if (success := bool(result.info["success"][0])) or result.truncated[0]:
            break
    assert success, "the jog brings the hand to the goal through the learner's normalised actions"
    takeover.ended(np.array([True]))
    source.say(Input(events=("hold",)))
    masks = []
    for _ in range(20):
        masks.append(bool(takeover.apply(obs, idle)[1][0]))
        clock.now += 0.05
    assert not any(masks) and heard == ["hold"]
    takeover.close()
    assert source.closed


def test_a_joint_driven_world_says_what_its_robot_is_and_others_their_rate():
    info = robot_info(registry.make("arm/reach", 1))
    assert info.motion is not None and info.model and info.rate_hz == 100.0 and info.substeps == 5
    assert robot_info(registry.make("two-route", 1)).motion is None


def test_what_is_missing_or_too_much_is_said():
    one = registry.make("two-route", 1)
    with pytest.raises(InputError, match=r"expected a device, e\.g\. training\.takeover\.device\.type=spacemouse"):
        open_device(TakeoverConfig(source="device"), one)
    with pytest.raises(InputError, match=r"training\.takeover\.jog\.liner"):
        open_device(TakeoverConfig(source="device", device={"type": "scripted"}, jog={"liner": 1}), one)
    with pytest.raises(InputError, match=r"expected training\.worlds=1, found 2"):
        open_device(TakeoverConfig(source="device", device={"type": "scripted"}), registry.make("two-route", 2))
    assert open_device(TakeoverConfig(source="device", device={"type": "scripted"}), one).source.name == "script"
