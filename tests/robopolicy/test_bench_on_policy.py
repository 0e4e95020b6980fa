"""The bench of on-policy rules on tiny trainings: its rows, its drawings, and that nothing is trained twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from policies.spec import InputError
from robopolicy.bench import on_policy
from robopolicy.recipe import load_recipe
from robopolicy.training.scaling import minibatch_size, scaled


def test_every_cell_is_a_recipe(tmp_path: Path) -> None:
    cells = [on_policy.rule_cell(rule, 0, 1 << 20) for rule in on_policy.RULES]
    cells += [on_policy.world_cell(n, s, 1, 1 << 22) for n in on_policy.WORLDS for s in (True, False)]
    assert len({cell.key for cell in cells}) == len({cell.name for cell in cells}) == 3 + 5, "at the reference, scaled or not is one training"
    for cell in cells:
        recipe = load_recipe(on_policy.RECIPE, cell.all_overrides(tmp_path))
        training = recipe.training
        assert cell.row_steps == training.worlds * training.rollout
        size = minibatch_size(scaled(training))
        if "scaled" in cell.name and training.worlds > on_policy.REFERENCE:
            assert training.reference_worlds == on_policy.REFERENCE
            assert size == 256 * 32 / 8 != minibatch_size(training)
        elif "scaled" not in cell.name:
            assert scaled(training) == training
        assert recipe.seed == cell.seed


def test_trainings_of_other_lengths_have_folders_of_their_own(tmp_path: Path) -> None:
    cells = [on_policy.rule_cell("ppo", 0, steps) for steps in (on_policy.RULE_STEPS, 4096, on_policy.WORLD_STEPS)]
    cells += [on_policy.world_cell(16, True, 0, steps) for steps in (on_policy.WORLD_STEPS, 4096)]
    folders = [Path(cell.all_overrides(tmp_path)[-1]).name for cell in cells]
    assert len(set(folders)) == len(folders) and (folders[0], folders[3]) == ("ppo-seed0", "worlds16-scaled-seed0")


def test_rules_side_by_side_once(tmp_path: Path) -> None:
    found = on_policy.run(True, steps=4096, seeds=1, only="ratios", folder=tmp_path)
    rows = {row.name: row for row in found.rows}
    assert len(rows) == 12
    for rule in ("PPO", "SPO", "MDPO"):
        mean, most = (rows[f"{rule}: {what} |ratio - 1| in the last epoch"].value for what in ("mean", "most"))
        assert 0 < mean < most
        assert math.isfinite(rows[f"{rule}: return"].value)
    drawn = ElementTree.parse(tmp_path / "ratios.svg")
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}svg"))) == 3
    lines = (tmp_path / "results.jsonl").read_text()
    again = on_policy.run(True, steps=4096, seeds=1, only="ratios", folder=tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == lines
    assert [row.value for row in again.rows] == [row.value for row in found.rows]
    assert all(json.loads(line)["curves"]["ratio_deviation"] for line in lines.splitlines())


def test_seconds_of_a_training_in_three_calls_add_up() -> None:
    rows = [{"wall_s": seconds} for seconds in (1.0, 2.5, 0.5, 4.0, 2.0)]
    assert on_policy._spent(rows, "wall_s") == 2.5 + 4.0 + 2.0


def test_what_is_run_alone_has_a_name() -> None:
    with pytest.raises(InputError, match="expected 'ratios' or 'scaling'"):
        on_policy.run(True, only="speed")
