"""Transfer: sections and worlds by hand, statistics by other means, every bed's worlds, and the whole benchmark with next to no training."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from policies.spec import InputError
from robopolicy.bench import transfer, transfer_cells
from robopolicy.bench.harness import Result
from robopolicy.bench.transfer_beds import (
    BEDS,
    BOTH,
    BULLET,
    IDENTIFIED,
    MUJOCO,
    NOMINAL,
    PARAMETERS,
    RANDOMIZED,
    ROBOT,
    VARIANTS,
    WORLDS,
    Bed,
    centred,
    training_section,
    world_env,
)
from robopolicy.bench.transfer_table import markdown, paired_bootstrap, sign_flip, tables
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.rollout import evaluate, make_world
from robopolicy.evaluation.seeds import REPORT, Purpose
from robopolicy.evaluation.versus import prepare
from tests.require import require

# Sections ---------------------------------------------------------------------------------------------------------------

RANGES = {
    "model": {"mass:pole": {"scale": {"log_uniform": [0.5, 2.0]}}, "damping:*": {"scale": [0.5, 1.5], "per": "group"}, "friction:x": {"scale": [0.9, 1.1]}},
    "actions": {"delay": [0.0, 0.04]},
}
FOUND = {"model": {"mass:pole": {"set": 0.4}, "damping:*": {"scale": 1.2}, "gear:m": {"set": 9.0}}, "actions": {"delay": 0.03}}


def test_ranges_are_put_around_what_was_identified() -> None:
    found = centred(RANGES, FOUND)
    assert found["model"]["mass:pole"] == {"per": "group", "set": {"log_uniform": [0.2, 0.8]}}
    assert found["model"]["damping:*"] == {"per": "group", "scale": [0.6, pytest.approx(1.8)]}
    assert found["model"]["friction:x"] == {"scale": [0.9, 1.1]} and found["model"]["gear:m"] == {"set": 9.0}
    assert found["actions"]["delay"] == pytest.approx([0.01, 0.05])
    assert centred({}, FOUND)["actions"]["delay"] == [0.03, 0.03] and centred(RANGES, {})["actions"] == RANGES["actions"]
    with pytest.raises(InputError, match="range of 'mass:pole': expected a scale"):
        centred({"model": {"mass:pole": {"set": [0.1, 0.2]}}}, FOUND)


def test_variants_and_worlds() -> None:
    assert training_section(NOMINAL, RANGES, None) is None and training_section(RANDOMIZED, RANGES, None) == RANGES
    assert training_section(IDENTIFIED, RANGES, FOUND) == FOUND and training_section(BOTH, RANGES, FOUND) == centred(RANGES, FOUND)
    with pytest.raises(InputError, match="needs a model that was identified"):
        training_section(BOTH, RANGES, None)
    with pytest.raises(InputError, match="variant 'best': expected one of nominal"):
        training_section("best", RANGES, FOUND)
    assert world_env(MUJOCO, FOUND) == {} and world_env(BULLET, FOUND) == {"engine": "bullet"}
    assert world_env(PARAMETERS, FOUND) == {"randomize": FOUND} and world_env(ROBOT, FOUND) == {"engine": "bullet", "randomize": FOUND}
    with pytest.raises(InputError, match="did you mean 'PyBullet'"):
        world_env("PyBulet", FOUND)


@pytest.mark.parametrize("bed", BEDS, ids=lambda bed: bed.name)
def test_every_bed_is_one_task_in_all_its_worlds(bed: Bed) -> None:
    """Its files fit its model; what is identified has a range; the robot lies inside the ranges and is not the model."""
    require("bullet")
    told = bed.settings()
    assert Bed.of(json.loads(json.dumps(told))).settings() == told == json.loads(json.dumps(told))
    ranges, robot = told["ranges"], told["robot"]
    keys = [text.partition("=")[0] for text in bed.fits]
    assert set(robot["model"]) == set(ranges["model"]) and {key for key in keys if ":" in key} <= set(ranges["model"])
    for key, draw in robot["model"].items():
        ((kind, (low, high)),) = ranges["model"][key]["scale"].items()
        assert kind == "log_uniform" and low <= draw["scale"] <= high and draw["scale"] != 1.0
    assert 0 < robot["actions"]["delay"] <= ranges["actions"]["delay"][1]
    with contextlib.ExitStack() as held:
        worlds = [held.enter_context(contextlib.closing(make_world(bed.task, world_env(world, robot), 1))) for world in WORLDS]
        varied = held.enter_context(contextlib.closing(make_world(bed.task, {"randomize": ranges}, 1)))
        assert all(world.spec == varied.spec and world.max_episode_steps == varied.max_episode_steps for world in worlds)
        model: Any = worlds[0]
        true = transfer_cells.true_values(bed, model.model, robot)
    assert list(true) == keys and true["delay"] == robot["actions"]["delay"]


# Statistics -------------------------------------------------------------------------------------------------------------


def test_the_bootstrap_is_scipy_s() -> None:
    differences = np.random.default_rng(3).gamma(2.0, 1.0, 80) - 1.5
    mean, low, high = paired_bootstrap(differences)
    other = stats.bootstrap((differences,), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(9)).confidence_interval
    assert mean == pytest.approx(differences.mean()) and [low, high] == pytest.approx([other.low, other.high], abs=0.02)
    assert paired_bootstrap(differences) == (mean, low, high)


def test_the_randomisation_test_against_all_signs() -> None:
    values = np.array([0.3, -0.1, 0.8, 0.4, 0.2, -0.3, 0.9, 0.5])
    sums = np.abs([np.dot(signs, values) for signs in itertools.product((-1, 1), repeat=len(values))])
    exact = np.mean(sums >= abs(values.sum()) - 1e-12)
    assert sign_flip(values) == pytest.approx(exact, abs=0.01) and sign_flip(np.zeros(5)) == 1.0
    rng = np.random.default_rng(0)
    rejected = np.mean([sign_flip(rng.standard_t(3, 20), flips=199) <= 0.05 for _ in range(400)])
    assert 0.02 < rejected < 0.09


def _tried(success: list[int], score: list[float]) -> dict[str, Any]:
    return {"success": success, "score": score, "return": score}


def test_a_table_by_hand() -> None:
    bed = replace(BEDS[2], score="distance")
    worse = {MUJOCO: _tried([1] * 40, [10.0] * 40), ROBOT: _tried([1] * 10 + [0] * 30, [4.0] * 40)}
    better = {MUJOCO: _tried([1] * 40, [10.0] * 40), ROBOT: _tried([1] * 25 + [0] * 15, [8.5] * 40)}
    success, distance = tables(bed, {NOMINAL: {0: worse}, RANDOMIZED: {0: better}}, {ROBOT: _tried([1] * 40, [10.0] * 40)})
    assert success.gaps[NOMINAL].value == -0.75 and success.gaps[NOMINAL].high < -0.5
    closing = success.closings[RANDOMIZED]
    assert closing.gain.value == 0.375 and closing.share == pytest.approx(0.5) and closing.p_value == pytest.approx(2 * 0.5**15)
    assert distance.closings[RANDOMIZED].share == pytest.approx(4.5 / 6) and distance.reached["expert"][ROBOT].value == 10.0
    assert "| randomised | 100% [91, 100] |  |  | 62% [47, 76] | -38% [" in markdown(bed, success) and "| 50% |" in markdown(bed, success)
    level = tables(bed, {NOMINAL: {0: better}, RANDOMIZED: {0: better, 1: better}}, None)[0]
    assert level.closings == {}  # other training seeds: nothing to pair
    torn = {0: worse, 1: {MUJOCO: worse[MUJOCO]}, 2: {ROBOT: better[ROBOT]}}  # cells of two seeds failed
    assert tables(bed, {NOMINAL: torn}, None)[0].gaps == {}, "as many training seeds, but not the same"
    again = tables(bed, {NOMINAL: {0: worse, 1: worse}, RANDOMIZED: {0: better, 1: better}}, None)[0]
    assert again.reached[NOMINAL][ROBOT].low == success.reached[NOMINAL][ROBOT].low, "seeds that agree on every state tell no more than one"
    assert again.gaps[NOMINAL].low == pytest.approx(success.gaps[NOMINAL].low) and again.gaps[NOMINAL].high == pytest.approx(success.gaps[NOMINAL].high)
    assert again.closings[RANDOMIZED].p_value >= closing.p_value, "nor do their pairs"
    none = tables(replace(bed, score=""), {NOMINAL: {0: {MUJOCO: worse[MUJOCO], ROBOT: worse[MUJOCO]}}, RANDOMIZED: {0: better}}, None)[0]
    assert none.closings[RANDOMIZED].share is None


# The whole --------------------------------------------------------------------------------------------------------------

TINY = transfer.Size(
    1, 4, 25, ("training.steps=10", "training.checkpoint_every=10", "training.batch_size=16", "policy.mlp.width=16"),
    ("training.steps=256", "training.worlds=8", "training.rollout=16", "training.epochs=1", "training.minibatches=1"), together=True,
)  # fmt: skip
CART = Bed(
    "cart", "classic/cartpole", "rl/cartpole",
    {"model": {"mass:pole": {"scale": {"log_uniform": [0.5, 2.0]}}}, "actions": {"delay": [0.0, 0.04]}},
    {"model": {"mass:pole": {"scale": 1.6}}, "actions": {"delay": 0.02}}, ("mass:pole", "delay"), shake=0.4, episodes=2, seconds=1.5, windows=6, starts=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """One bed that learns by trial and one from demonstrations, everything in this process."""
    require("bullet")
    folder = tmp_path_factory.mktemp("transfer")
    shown = replace(CART, name="shown", recipe="imitation/quickstart", demonstrations=2)
    return folder, transfer.measure([CART, shown], TINY, folder, here=True)


def test_the_benchmark_from_end_to_end(done: tuple[Path, Result]) -> None:
    folder, result = done
    kept = json.loads((folder / "transfer.json").read_text())
    assert not result.missing and set(kept) == {"cart", "shown"}
    for name in kept:
        page, reached = (folder / transfer.TABLES).read_text(), kept[name]["tables"][0]["reached"]
        assert f"## {name}" in page and set(reached) == {*VARIANTS, "expert"} and all(set(worlds) == set(WORLDS) for worlds in reached.values())
        assert set(kept[name]["tables"][0]["closings"]) == set(VARIANTS[1:])
        sections = {v: kept[name]["trained"][f"{v}, seed 0"]["section"] for v in VARIANTS}
        assert sections[NOMINAL] is None and sections[RANDOMIZED] == CART.ranges and "log_uniform" in json.dumps(sections[BOTH])
    lines = [json.loads(line) for line in (folder / "evaluations" / "ledger.jsonl").read_text().splitlines()]
    assert len(lines) == 2 * len(WORLDS) * (len(VARIANTS) + 1)
    assert sum(line["env"].get("engine") == "bullet" for line in lines) == len(lines) / 2
    assert all(line["purpose"] == "report" and line["seed0"] == REPORT and line["set"] == "transfer" for line in lines)
    record = Evaluation.load(folder / "evaluations" / lines[-1]["results"])
    assert len(record.episodes) == 4 and record.env["randomize"] == CART.robot
    assert any(row.name.startswith("classic/cartpole, identified - nominal on the robot") for row in result.rows)


def test_the_robot_is_identified_from_what_it_does(done: tuple[Path, Result]) -> None:
    """Bullet's cart and pole is MuJoCo's without contacts: what was planted comes back, and nothing where nothing was."""
    kept = json.loads((done[0] / "transfer.json").read_text())["cart"]["identified"]
    for world, mass, delay in ((ROBOT, 1.6, 0.02), (BULLET, 1.0, 0.0)):
        found = {one["key"]: one for one in kept[world]["estimates"]}
        assert kept[world]["true"]["delay"] == delay
        assert found["mass:pole"]["value"] == pytest.approx(kept[world]["true"]["mass:pole"], rel=0.02)
        assert kept[world]["true"]["mass:pole"] / found["mass:pole"]["start"] == pytest.approx(mass, rel=1e-6)
        assert found["delay"]["value"] == pytest.approx(delay, abs=1e-3)


def test_worlds_of_training_are_left_behind(done: tuple[Path, Result], tmp_path: Path) -> None:
    """A policy of varied worlds is tried in varied ones unless an empty section is given; then in the engine's plain worlds."""
    kept = json.loads((done[0] / "transfer.json").read_text())["cart"]["trained"]
    checkpoint = kept[f"{RANDOMIZED}, seed 0"]["checkpoint"]
    envs = [prepare([checkpoint], None, {}, Purpose.REPORT, tmp_path, randomize=given, engine="bullet").entrants[0].env for given in (None, {})]
    assert envs[0]["randomize"] == CART.ranges and envs[1]["randomize"] is None and envs[1]["engine"] == "bullet"


def test_evaluations_in_bullet_do_not_depend_on_workers() -> None:
    require("bullet")
    env = {**world_env(ROBOT, BEDS[1].settings()["robot"]), "max_episode_steps": 12}
    asked: dict[str, Any] = {"episodes": 4, "seed0": REPORT, "block": 2, "env": env, "latency_calls": 0, "progress": False}
    one, two = (evaluate("expert", "arm/push", **asked, workers=workers) for workers in (1, 2))
    assert one.episodes == two.episodes and len({e.return_ for e in one.episodes}) == 4
