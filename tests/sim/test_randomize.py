"""Randomised worlds as a task sees them: nothing without it, the seed alone with it, replay bit for bit, curricula, pictures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from sim import registry
from sim.randomize import Randomizer
from sim.randomize_config import CurriculumConfig
from sim.randomize_curriculum import Curriculum
from sim.registry import Options
from tests.require import require
from tests.sim.randomized import Everything

SEEDS = np.array([11, 500, 7, 2_000_003], np.int64)
ALL: dict[str, Any] = {
    "model": {
        "mass:fore": {"scale": [0.7, 1.3]},
        "friction:*": {"scale": {"log_uniform": [0.5, 2.0]}, "per": "group"},
        "damping:*": {"scale": [0.5, 1.5]},
        "gravity.x": {"add": {"normal": [0.0, 0.2]}},
        "kp:shoulder": {"scale": [0.8, 1.2]},
        "center_of_mass:upper": {"add": [-0.01, 0.01]},
    },
    "actions": {"delay": [0.0, 0.05], "noise": 0.02, "dropout": 0.1},
    "sensors": {
        "observation.state:*.velocity": {"latency": [0.0, 0.03], "noise": [0.0, 0.05], "dropout": 0.05},
        "observation.state:shoulder": {"bias": {"normal": [0.0, 0.01]}},
    },
}


def make(count: int, randomize: dict[str, Any] | None, **more: Any) -> Everything:
    return Everything("test/everything", Options(count, randomize=randomize, **more))


def actions(steps: int, count: int) -> np.ndarray:
    columns = [np.random.default_rng([5, i]).uniform(-1, 1, (steps, 3)) for i in range(count)]
    return np.stack(columns, axis=1).astype(np.float32)


def episode(env: Everything, seeds: np.ndarray, sent: np.ndarray) -> list[np.ndarray]:
    """Return what is observed and earned at each step, bit for bit."""
    out = [np.concatenate([v.reshape(len(seeds), -1) for v in env.reset(seeds).values()], axis=1).copy()]
    for action in sent:
        result = env.step(action)
        out.append(np.concatenate([*(v.reshape(len(seeds), -1) for v in result.next_obs.values()), result.reward[:, None]], axis=1).copy())
    return out


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def randomizer(env: Everything) -> Randomizer:
    assert env.randomizer is not None
    return env.randomizer


def test_nothing_changes_without_it() -> None:
    sent = actions(20, 4)
    plain, empty = make(4, None), make(4, {})
    assert plain.randomizer is None and empty.randomizer is None
    nothing = {"mass:*": {"scale": 1.0}, "friction:*": {"add": 0.0}}
    neutral = make(4, {"model": nothing, "actions": {"delay": 0.0}, "sensors": {"observation.state": {"noise": 0.0}}})
    first = episode(plain, SEEDS, sent)
    assert same(first, episode(empty, SEEDS, sent)) and same(first, episode(neutral, SEEDS, sent))
    assert not same(first, episode(make(4, ALL), SEEDS, sent))


def test_the_tasks_own_draws_stay_and_entries_are_independent() -> None:
    env, more = make(4, {"model": {"mass:fore": {"scale": [0.7, 1.3]}}}), make(4, ALL)
    plain = make(4, None)
    for one in (env, more, plain):
        one.reset(SEEDS)
    np.testing.assert_array_equal(env.qpos, plain.qpos)
    np.testing.assert_array_equal(randomizer(env).drawn()["model.mass:fore"], randomizer(more).drawn()["model.mass:fore"])


def test_an_episode_depends_on_its_seed_alone_whatever_the_worlds_and_threads() -> None:
    sent, many = actions(25, 4), make(4, ALL, threads=2)
    episode(many, SEEDS + 1, sent[:7])  # a history
    together = episode(many, SEEDS, sent)
    for i in (2, 0):
        alone = episode(make(1, ALL), SEEDS[i : i + 1], sent[:, i : i + 1])
        assert all(np.array_equal(x[i], y[0]) for x, y in zip(together, alone, strict=True))


def test_a_mocap_body_begins_where_its_own_draw_puts_it_whatever_was_before() -> None:
    env = make(3, {"model": {"body_position.z:marker": {"add": [0.0, 1.0]}}})
    place = env.engine.bind("mocap_pos")
    for seeds in (SEEDS[:3], SEEDS[:3] + 9, SEEDS[:3]):
        env.reset(seeds)
        np.testing.assert_array_equal(place[:, 0, 2], 1.0 + randomizer(env).drawn()["model.body_position.z:marker"][:, 0, 0])
    assert np.ptp(place[:, 0, 2]) > 0


def test_a_recorded_draw_repeats_the_episode_bit_for_bit() -> None:
    wide = {**ALL, "curriculum": {"level": 0.7}}
    sent, env = actions(30, 4), make(4, wide)
    first = episode(env, SEEDS, sent)
    records = json.loads(json.dumps([randomizer(env).record(row) for row in range(4)]))
    other = make(2, {**ALL, "curriculum": {"level": 0.1}})  # another level would draw otherwise
    for row in (3, 1):
        drawn = {name: np.stack([np.asarray(records[row][name])] * 2) for name in records[row]}
        randomizer(other).impose(np.arange(2), drawn)
        again = episode(other, np.repeat(SEEDS[row : row + 1], 2), np.repeat(sent[:, row : row + 1], 2, axis=1))
        assert all(np.array_equal(x[row], y[0]) and np.array_equal(x[row], y[1]) for x, y in zip(first, again, strict=True))
    assert not same([x[:2] for x in first], episode(other, SEEDS[:2], sent[:, :2]))  # imposed once, not for ever


def test_draws_of_another_section_are_not_imposed() -> None:
    env, other = make(1, ALL), make(1, {"model": {"mass:fore": {"scale": [0.7, 1.3]}}})
    env.reset(SEEDS[:1])
    with pytest.raises(InputError, match=r"recorded draw 'model\.friction:\*' is not among those"):
        randomizer(other).impose(np.array([0]), randomizer(env).drawn())
    with pytest.raises(InputError, match=r"lack 'model\.mass:fore'"):
        randomizer(other).impose(np.array([0]), {})
    with pytest.raises(InputError, match="expected shape"):
        randomizer(other).impose(np.array([0]), {**randomizer(other).drawn(), "level": np.zeros((2, 2))})
    slow, fast = make(1, {"actions": {"delay": 0.2}}), make(1, {"actions": {"delay": 0.02}})
    slow.reset(SEEDS[:1])
    with pytest.raises(InputError, match=r"'actions\.delay': 0\.2 s is longer than the 0\.02 s"):
        randomizer(fast).impose(np.array([0]), randomizer(slow).drawn())


def test_auto_reset_draws_anew_for_the_worlds_that_begin() -> None:
    env = make(2, ALL, autoreset=True, max_episode_steps=3)
    env.reset(SEEDS[:2])
    first = randomizer(env).drawn()["model.mass:fore"]
    env.reset(SEEDS[:2], np.array([False, True]))
    for action in actions(3, 2)[:2]:
        env.step(action)
    np.testing.assert_array_equal(randomizer(env).drawn()["model.mass:fore"], first)
    env.step(actions(1, 2)[0])
    assert (randomizer(env).drawn()["model.mass:fore"] != first).all()


def test_lost_commands_and_readings_are_counted_by_name() -> None:
    env = make(3, {"actions": {"dropout": 1.0}, "sensors": {"observation.state": {"dropout": 1.0}}})
    env.reset(SEEDS[:3])
    seen = [env.step(action).obs["observation.state"] for action in actions(4, 3)]
    assert {name: values.tolist() for name, values in randomizer(env).lost().items()} == {"actions": [3] * 3, "sensors.observation.state": [4] * 3}
    np.testing.assert_array_equal(seen[-1], env.reset(SEEDS[:3])["observation.state"])


def test_nothing_is_lost_in_a_world_that_has_ended() -> None:
    env = make(2, {"actions": {"dropout": 1.0}}, max_episode_steps=3)
    env.reset(SEEDS[:2])
    for action in actions(2, 2):
        env.step(action)
    env.reset(SEEDS[:2], np.array([False, True]))
    counts = []
    for action in actions(3, 2):
        env.step(action)
        counts.append(randomizer(env).lost()["actions"].tolist())
    assert counts == [[2, 0], [2, 1], [2, 2]]


def test_the_policy_is_paid_for_what_it_sent_and_sees_late() -> None:
    """A delay of one step shifts what the joints do by one step; a latency shifts what is seen of it."""
    sent = np.zeros((12, 1, 3), np.float32)
    sent[3:] = 0.5
    plain, late, slow = make(1, None), make(1, {"actions": {"delay": 0.02}}), make(1, {"sensors": {"observation.state": {"latency": 0.02}}})
    plain_seen, late_seen, slow_seen = ([x[0, :4] for x in episode(env, SEEDS[:1], sent)] for env in (plain, late, slow))
    np.testing.assert_array_equal(slow_seen[1:], plain_seen[:-1])  # everything one step later
    np.testing.assert_array_equal(late_seen[:4], plain_seen[:4])
    assert not np.array_equal(late_seen[4], plain_seen[4])  # the command of step 3 has not arrived
    shifted = np.concatenate([sent[:1], sent[:-1]])
    np.testing.assert_array_equal(late_seen, [x[0, :4] for x in episode(plain, SEEDS[:1], shifted)])


@pytest.mark.parametrize(
    ("randomize", "words"),
    [
        ({"sensors": {"observation.stat": {"noise": 0.1}}}, "observes no field 'observation.stat'; did you mean 'observation.state'?"),
        ({"sensors": {"observation.state:sholder": {"noise": 0.1}}}, "no element 'sholder'; did you mean 'shoulder'?"),
    ],
)  # fmt: skip
def test_unknown_sensors_are_named(randomize: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        make(1, randomize)
    assert words in str(caught.value)


# Curricula -------------------------------------------------------------------------------------------------------


def test_a_curriculum_moves_after_every_window() -> None:
    curriculum = Curriculum(CurriculumConfig(level=0.5, step=0.1, window=4, raise_above=0.75, lower_below=0.25))
    levels = []
    for won in (3, 4, 2, 1, 0):  # of four
        curriculum.count(np.arange(4) < won)
        levels.append(round(curriculum.level, 9))
    assert levels == [0.6, 0.7, 0.7, 0.6, 0.5] and curriculum.episodes == 20
    curriculum.count(np.ones(40, bool))  # ten windows at once
    assert curriculum.level == 1.0


def test_a_curriculum_goes_on_from_its_state() -> None:
    config = CurriculumConfig(window=7, step=0.125)
    outcomes = np.random.default_rng(0).random(200) < 0.8
    whole, first = Curriculum(config), Curriculum(config)
    whole.count(outcomes)
    first.count(outcomes[:95])
    second = Curriculum(config)
    second.load(first.state())
    for one in np.split(outcomes[95:], [3, 50]):
        second.count(one)
    assert second.state() == whole.state()
    for wrong in ({}, {**whole.state(), "level": 1.5}, {**whole.state(), "seen": 9}):
        with pytest.raises(InputError, match="curriculum"):
            second.load(wrong)


def test_success_widens_the_ranges_of_a_task() -> None:
    config = {"model": {"mass:fore": {"scale": [0.5, 2.0]}}, "curriculum": {"window": 8, "step": 0.5, "raise_above": 0.9, "lower_below": 0.1}}
    env = make(8, config, autoreset=True, max_episode_steps=5)
    env.reset(np.arange(8))
    assert set(randomizer(env).drawn()["model.mass:fore"].ravel()) == {1.0}
    up = np.zeros((8, 3), np.float32)
    up[:, 0] = 1.0  # the shoulder goes to the positive side, which is success
    levels, spans = [], []
    for _ in range(5 * 12):
        env.step(up)
        levels.append(randomizer(env).drawn()["level"][0])
        spans.append(np.ptp(randomizer(env).drawn()["model.mass:fore"]))
    assert levels[0] == 0.0 and levels[-1] == 1.0 and levels == sorted(levels)
    assert spans[0] == 0 and 0 < spans[levels.index(0.5)] <= 0.75 and spans[-1] > 0.75
    state = randomizer(env).state()
    again = make(1, config)
    randomizer(again).load(state)
    again.reset(SEEDS[:1])
    assert randomizer(again).drawn()["level"].tolist() == [1.0]
    with pytest.raises(InputError, match="no curriculum"):
        randomizer(make(1, ALL)).load(state)


# Pictures --------------------------------------------------------------------------------------------------------

LOOKS = {
    "camera_position:front": {"add": [-0.2, 0.2]},
    "camera_orientation:front": {"add": [-0.1, 0.1]},
    "field_of_view:front": {"scale": [0.8, 1.2]},
    "light_position:lamp": {"add": [-0.5, 0.5]},
    "light_direction:lamp": {"add": [-0.5, 0.5]},
    "light_color:lamp": {"scale": [0.2, 0.9], "per": "component"},
    "light_ambient:lamp": {"set": [0.0, 0.5]},
    "color:fore": {"set": [0.0, 1.0]},
    "material:floor": {"set": {"choice": ["green"]}},
    "material_color:red": {"set": [0.0, 1.0]},
}


def test_looks_change_the_pictures_and_never_the_physics() -> None:
    require("egl")
    sent = actions(6, 2)
    plain = make(2, None)
    motion = episode(plain, SEEDS[:2], sent)
    before = plain.render()
    assert before is not None and before.std() > 5
    for name, draw in LOOKS.items():
        env = make(2, {"model": {name: draw}})
        assert same(motion, episode(env, SEEDS[:2], sent)), name
        pictures = env.render()
        assert pictures is not None, name
        for one, other in ((pictures[0], before[0]), (pictures[1], before[1]), (pictures[0], pictures[1])):
            assert (np.abs(one.astype(int) - other) > 5).any(axis=-1).sum() > 40, name  # pixels
        env.close()


def test_cartpole_by_the_registry() -> None:
    randomize = {"model": {"mass:pole": {"scale": [0.5, 2.0]}}, "actions": {"delay": [0.0, 0.04]}}
    env = registry.make("classic/cartpole", 16, randomize=randomize, autoreset=True)
    env.reset(np.arange(16))
    seen = [env.step(np.zeros((16, 1), np.float32)).obs["observation.state"] for _ in range(30)]
    assert np.isfinite(seen).all()
    with pytest.raises(InputError, match="did you mean 'pole'"):
        registry.make("classic/cartpole", 1, randomize={"model": {"mass:poel": {"scale": 1.0}}})
    with pytest.raises(InputError, match="cannot be randomized"):
        registry.make("two-route", 1, randomize=randomize)
