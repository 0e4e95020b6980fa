"""Takeover: who acts when, the action that was executed is what is stored, rates are counted, and a person needs the run's token."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from policies import registry
from policies.normalize import Normalizer, limits_normalizer
from policies.spec import InputError
from real.operator import OperatorChannel, OperatorClient
from robopolicy.algos.sac import Sac, SacConfig
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.off_policy_actor import Actor
from robopolicy.training.off_policy_config import OffPolicyTraining, ReplayConfig, TakeoverConfig
from robopolicy.training.off_policy_learner import Learner
from robopolicy.training.replay import Replay
from robopolicy.training.takeover import ExpertIntervention, OperatorIntervention, Takeover, open_takeover
from sim.registry import make
from tests.robopolicy.point_world import PointWorlds


def expert(worlds: PointWorlds, **options) -> Takeover:
    return Takeover(ExpertIntervention(worlds, TakeoverConfig.model_validate({"source": "expert", **options}), 0), worlds.spec)


def test_the_expert_steps_in_after_a_while_and_lets_go_again():
    worlds = PointWorlds(3, steps=100, autoreset=True)
    takeover, obs, seen = expert(worlds, share=1.0, after=4, hold=3), worlds.reset(np.arange(3)), []
    policy = np.full((3, 2), 0.25, np.float32)
    for step in range(14):
        wanted = worlds.expert_action()
        action, taken = takeover.apply(obs, policy)
        assert action.dtype == np.float32 and np.array_equal(action, np.where(taken[:, None], wanted, policy))
        seen.append(taken.copy())
        obs = worlds.step(action).obs
        takeover.ended(np.array([step == 6, False, False]))
    assert np.array_equal(np.array(seen)[:, 1], [0, 0, 0, 0, 1, 1, 1] * 2)
    assert np.array_equal(np.array(seen)[:, 0], [0, 0, 0, 0, 1, 1, 1] + [0, 0, 0, 0, 1, 1, 1])  # a new episode is looked at from its beginning
    assert takeover.metrics() == {"intervention_rate": 18 / 42, "interventions": 18.0}
    assert takeover.metrics() == {"intervention_rate": 0.0, "interventions": 18.0}


def test_the_share_of_episodes_is_kept_and_hangs_on_how_they_begin_alone():
    worlds = PointWorlds(200)

    def looked_after(seed0: int, before: int) -> np.ndarray:
        takeover = expert(worlds, share=0.25, after=0, hold=1)
        for _ in range(before):
            takeover.source.poll(worlds.reset(np.arange(200) + 10_000))
            takeover.ended(np.ones(200, bool))
        return takeover.source.poll(worlds.reset(np.arange(200) + seed0))[0]

    first = looked_after(0, 0)
    assert 30 < first.sum() < 70
    assert np.array_equal(first, looked_after(0, 3))  # as in a run that goes on from a mark
    other = looked_after(1000, 0)
    assert 30 < other.sum() < 70 and not np.array_equal(first, other)


def test_actions_are_normalised_and_cut_and_what_is_not_finite_takes_nothing_over():
    worlds = make("arm/reach", 3)
    low, high = (np.asarray(side, np.float64) for side in (worlds.spec.action.low, worlds.spec.action.high))

    class Given:
        action = np.stack([low, 10 * np.ones(7), np.full(7, np.nan)])

        def poll(self, obs):
            return np.ones(3, bool), self.action

        def ended(self, worlds: np.ndarray) -> None:
            raise AssertionError

        def close(self) -> None:
            raise AssertionError

    action, taken = Takeover(Given(), worlds.spec).apply({}, np.zeros((3, 7), np.float32))
    assert taken.tolist() == [True, True, False]
    assert np.allclose(action, np.stack([-np.ones(7), np.ones(7), np.zeros(7)]), atol=1e-6)
    assert (high < 10).all()
    worlds.close()


@pytest.fixture
def stack():
    with ExitStack() as closing:
        yield closing


def test_a_person_needs_the_token_and_lets_go_by_silence(tmp_path, stack):
    late = [0]  # ns that the channel's clock is ahead
    channel = OperatorChannel(folder=tmp_path, clock_ns=lambda: time.monotonic_ns() + late[0])
    worlds, asked = PointWorlds(1), []
    takeover = Takeover(OperatorIntervention(channel, worlds.spec, lambda *wish: asked.append(wish)), worlds.spec)
    stack.callback(takeover.close)
    obs, policy = worlds.reset(np.zeros(1, np.int64)), np.zeros((1, 2), np.float32)
    person, stranger = OperatorClient.from_file(tmp_path / "operator.json"), OperatorClient(channel.address)
    for client in (person, stranger):
        stack.callback(client.close)

    def executed(say: Callable[[], object], wanted: Callable[[list[float]], bool]) -> list[float]:
        """Say it again and again, as a device does, until what is executed is as ``wanted``."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            say()
            found = takeover.apply(obs, policy)[0][0].tolist()
            if wanted(found):
                return found
            time.sleep(0.001)
        raise AssertionError("never heard")

    assert takeover.apply(obs, policy)[0].tolist() == [[0.0, 0.0]]
    executed(lambda: stranger.command([0.1, 0.1]), lambda found: found == [0.0, 0.0] and channel.refused["no token"] > 0)
    executed(lambda: person.command([0.5, -0.25]), lambda found: found == [0.5, -0.25])
    executed(lambda: person.command([7.0, 0.0]), lambda found: found == [1.0, 0.0])  # cut to the limits
    executed(lambda: person.command([]), lambda found: found == [0.0, 0.0])  # given back
    executed(lambda: person.command([0.5, 0.5]), lambda found: found == [0.5, 0.5])
    late[0] = 201_000_000  # as if nothing had been said for so long
    assert takeover.apply(obs, policy)[0].tolist() == [[0.0, 0.0]]
    executed(lambda: person.command([0.5, 0.5]), lambda found: channel.refused["stale"] > 0)
    late[0] = 0
    executed(lambda: person.command([0.5, 0.5, 0.5]), lambda found: channel.command is not None and len(channel.command) == 3 and found == [0.0, 0.0])
    executed(lambda: person.command([0.0] * 65), lambda found: channel.refused["bad value"] > 0)
    assert takeover.taken > 0 and not asked
    stack.close()
    assert not (tmp_path / "operator.json").exists()


def test_taken_over_steps_are_learnt_from_like_demonstrations_as_they_were_executed():
    worlds = PointWorlds(3, steps=6, autoreset=True)
    training = OffPolicyTraining.model_validate({"batch_size": 8, "takeover": {"source": "expert"}})
    replay, shown = (Replay(worlds.spec, n, ReplayConfig(capacity=300), 0.9) for n in (3, 1))
    policy = registry.create("gaussian", registry.config_class("gaussian")(), worlds.spec, limits_normalizer(worlds.spec))
    rule = Sac(SacConfig(hidden=[8]), worlds.spec, policy)
    learner = Learner(rule, replay, training, 0, shown)
    takeover = expert(worlds, share=1.0, after=2, hold=2)
    actor = Actor(worlds, lambda obs, noise: torch.full((3, 2), 0.125), policy.normalizer, 0, take_over=takeover)
    actor.begin(0)
    executed = []
    for step in range(12):
        wanted = worlds.expert_action().copy() if step else None
        experience = actor.step(cut=step == 11)
        if wanted is not None:
            assert np.allclose(experience.action, np.where(experience.taken[:, None], wanted, 0.125), atol=1e-6)
        executed += [experience.action[row] for row in np.flatnonzero(experience.taken)]
        learner.take(experience)
    assert replay.size == 36 and shown.size == len(executed) == takeover.taken == 12
    drawn = {tuple(action) for action in shown.sample(np.arange(300)).action.tolist()}
    assert drawn == {tuple(action.tolist()) for action in executed}


def recipe(task: str, worlds: int, source: str, output):
    values = {"task": task, "output": str(output), "algo": {"type": "sac"}, "training": {"worlds": worlds, "takeover": {"source": source}}}
    return recipe_from_dict(values, "test")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"takeover": {"after": 10}}, "after=10 says nothing with source=none"),
        ({"takeover": {"source": "operator", "share": 0.1}}, "share=0.1 says nothing with source=operator"),
        ({"takeover": {"source": "expert", "device": {"type": "page"}}}, "says nothing with source=expert"),
        ({"resets": {"near": 0.2}}, "near=0.2 says nothing with type=world"),
        ({"reward": {"sparse": True, "threshold": 0.9}}, "threshold=0.9 says nothing with classifier=null"),
    ],
)
def test_what_would_be_ignored_is_refused(section, words):
    values = {"task": "arm/reach", "output": "runs/x", "algo": {"type": "sac"}, "training": section}
    with pytest.raises(InputError, match=words) as caught:
        recipe_from_dict(values, "test")
    assert "\n" not in str(caught.value)


def test_the_recipe_says_who_may_take_over(tmp_path):
    worlds = PointWorlds(2)
    assert open_takeover(recipe("arm/reach", 2, "none", tmp_path), worlds) is None
    with pytest.raises(InputError, match="ships no scripted expert"):
        open_takeover(recipe("gymnasium/half-cheetah", 2, "expert", tmp_path), worlds)
    with pytest.raises(InputError, match=r"expected training.worlds=1, found 2"):
        open_takeover(recipe("arm/reach", 2, "operator", tmp_path), worlds)
    found = open_takeover(recipe("arm/reach", 1, "operator", tmp_path), PointWorlds(1))
    assert found is not None and (tmp_path / "operator.json").is_file()
    found.close()


def test_who_takes_over_of_a_policy_with_units_of_its_own_commands_what_they_meant():
    worlds = PointWorlds(1)

    class Person:
        def poll(self, obs):
            return np.ones(1, bool), np.array([[0.25, -0.5]], np.float32)

        def ended(self, worlds):
            return

        def close(self):
            return

    own = Normalizer.fit({"action": {"min": np.array([-0.5, -1.0]), "max": np.array([1.0, 0.0])}}, {"action": "min_max"})
    action, taken = Takeover(Person(), worlds.spec, own).apply(worlds.reset(np.zeros(1, np.int64)), np.zeros((1, 2), np.float32))
    assert taken.tolist() == [True]
    np.testing.assert_allclose(own.unnormalize("action", torch.from_numpy(action)).numpy(), [[0.25, -0.5]], atol=1e-6)


def test_who_takes_over_of_a_policy_on_another_device_has_its_units():
    class Elsewhere(torch.nn.Module):
        """A normaliser whose numbers are where a tensor of the CPU cannot be added to them."""

        def __init__(self):
            super().__init__()
            self.register_buffer("offset", torch.zeros(2, device="meta"))

        def unnormalize(self, name, x):
            assert x.device == self.offset.device, "a tensor of another device"
            return torch.zeros(2)

    worlds: Any = PointWorlds(1)
    source: Any = None
    normalizer: Any = Elsewhere()
    assert Takeover(source, worlds.spec, normalizer).metrics()["interventions"] == 0.0
