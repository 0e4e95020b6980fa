"""The PushT benchmark: its table from made-up cells, by hand; the recipes are what the protocol says; a whole run at the smallest size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.bench import cells, lerobot, pusht
from robopolicy.bench.harness import Result
from robopolicy.evaluation import ledger
from robopolicy.recipe import load_recipe


def test_means_and_intervals_are_those_made_by_hand() -> None:
    """Two seeds, two checkpoints, two states; a state's checkpoints are averaged before its spread is taken."""
    rows = [
        {"coverage": [[0.95, 0.5], [1.0, 0.5]], "success": [[1, 0], [1, 0]], "calls": 60.0, "steps": 40},
        {"coverage": [[0.2, 0.4], [0.4, 0.6]], "success": [[0, 0], [0, 1]], "calls": 20.0, "steps": 40},
    ]
    result = Result()
    pusht.add_rows(result, "flow", rows, pusht.Size(seeds=2, states=2, checkpoints=2))
    success, coverage, score, calls = (row.value for row in result.rows)
    assert success == pytest.approx(3 / 8) and calls == 1.0
    assert coverage == pytest.approx((0.975 + 0.5 + 0.3 + 0.5) / 4)
    assert score == pytest.approx((1.0 + 0.5 / 0.95 + 0.3 / 0.95 + 0.5 / 0.95) / 4)
    half = 1.96 * np.std([1, 0, 0, 0.5], ddof=1) / 2
    assert f"success 0.375 +- {half:.3f} (0.50, 0.25)" in result.notes[0]
    assert result.rows[0].target == 0.46 and result.rows[1].target == 0.81 and result.rows[2].peer_value == 0.91


def test_training_seeds_that_agree_on_every_state_do_not_narrow_the_interval() -> None:
    states = np.array([0.0, 1.0, 0.5, 0.2, 0.9, 0.4])
    same = np.broadcast_to(states, (3, 2, 6))
    assert pusht._mean(same) == pytest.approx((states.mean(), 1.96 * states.std(ddof=1) / np.sqrt(6)))
    apart = same + np.array([-0.3, 0.0, 0.3])[:, None, None]  # and seeds that differ widen it
    assert pusht._mean(apart)[1] > pusht._mean(same)[1]


@pytest.mark.parametrize("name", ["flow", "diffusion"])
def test_recipes_differ_in_the_policy_alone(name: str) -> None:
    recipe = load_recipe(f"imitation/pusht_{name}")
    assert recipe.policy_type == name and recipe.data.collect == 500 and recipe.policy.n_action_steps == 4
    assert recipe.training.keep_checkpoints == pusht.Size.checkpoints and recipe.training.steps // recipe.training.checkpoint_every >= pusht.Size.checkpoints
    other = load_recipe(f"imitation/pusht_{'diffusion' if name == 'flow' else 'flow'}")
    assert recipe.training == other.training and recipe.data == other.data


def test_only_means_cells_of_both_halves_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def measured(cell: cells.Cell, folder: Path) -> tuple[dict[str, object], str]:
        ran.append(cell.name)
        if cell.name.endswith("RTI level"):  # the second is the best of both seeds, and of neither
            return {"coverage": [0.9, 0.8, 0.1] if "seed 0" in cell.name else [0.1, 0.8, 0.9]}, ""
        return {"seconds": 1.0, "success": [[1, 1]], "coverage": [[1.0, 1.0]], "calls": 1.0, "steps": 1}, ""

    monkeypatch.setattr(cells, "_measure", measured)

    def only(text: str) -> list[str]:
        ran.clear()
        tmp_path.mkdir(exist_ok=True)
        pusht.measure(tmp_path, pusht.Size(seeds=2, levels=(5, 10, 20)), text, policies=("flow", "regression"), progress=False)
        return list(ran)

    with pytest.raises(InputError, match=r"no cell has it in its name; there are: demonstrations; .*flow seed 1 evaluation rti:level=10,steps=3"):
        only("flwo")
    assert only("demonstrations") == ["demonstrations"] and only("evaluation") == []
    assert only("flow seed 0 training") == ["flow seed 0 training"] and only("demonstrations") == []
    assert only("seed 0") == ["regression seed 0 training", "flow seed 0 RTI level", *(f"{x} seed 0 evaluation {y}" for x, y in SEED_0)]
    warm = [f"flow seed {seed} evaluation rti:level=10,steps=3" for seed in (0, 1)]
    assert only("flow") == ["flow seed 1 training", "flow seed 1 RTI level", "flow seed 1 evaluation none", *warm]


def test_seeds_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pusht, "measure", lambda folder, size, only: size)
    for quick, seeds, expected in ((True, 2, 2), (True, None, 1), (False, 2, 2), (False, None, 3)):
        size: Any = pusht.run(quick, seeds=seeds)
        assert size.seeds == expected and size.states == (4 if quick else 50)


def test_lerobot_is_measured_beside_ours_where_it_is_installed_and_named_where_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def measured(cell: cells.Cell, folder: Path) -> tuple[dict[str, object], str]:
        ran.append(cell.name)
        better = float("LeRobot" not in cell.name)
        return {"seconds": 2.0, "success": [[better]], "coverage": [[better]], "calls": 100.0, "steps": 8}, ""

    monkeypatch.setattr(cells, "_measure", measured)
    monkeypatch.setattr(lerobot, "is_installed", lambda: False)
    alone = lerobot.measure(tmp_path, lerobot.QUICK, progress=False)
    assert ran == ["demonstrations", "diffusion seed 0 training", "diffusion seed 0 evaluation none"]
    assert "LeRobot: not installed; python tests/parity/lerobot_policies.py pusht makes" in alone.missing[0] and len(alone.rows) == 4
    monkeypatch.setattr(lerobot, "is_installed", lambda: True)
    both = lerobot.measure(tmp_path, lerobot.QUICK, progress=False)
    assert ran[3:] == ["LeRobot, epsilon, seed 0"] and both.missing == []
    assert [row.value for row in both.rows if row.name.endswith("success")] == [1.0, 0.0]
    assert "'LeRobot, epsilon, seed 0': 2" in both.notes[-1]


SEED_0 = (("flow", "none"), ("regression", "none"))
SMALL = ("training.steps=4", "training.checkpoint_every=2", "training.batch_size=8", "training.optimizer.warmup_steps=1")
TINY = ("policy.mlp.width=16", "policy.mlp.blocks=1", "policy.steps=2")


def test_cells_train_choose_and_evaluate_the_last_checkpoints(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert pusht.collected(folder, 2, workers=1)["episodes"] == 2
    assert pusht.trained(folder, "flow", 0, 8, [*SMALL, *TINY], 2)["steps"] == 4
    assert len(pusht.level(folder, "flow", 0, 8, [5, 10], 1)["coverage"]) == 2
    plain = pusht.evaluated(folder, "flow", 0, 8, "none", 2, 2, 1, 1)
    warm = pusht.evaluated(folder, "flow", 0, 8, "rti:level=10,steps=3", 2, 2, 1, 1)
    assert np.shape(plain["coverage"]) == np.shape(warm["success"]) == (2, 2) and plain["steps"] == 2 * 2 * 8
    assert plain["calls"] == 2 * 2 * 2 * 2 and warm["calls"] == 2 * 2 * (2 + 7 * 3)  # two plans of two calls; one, then three a step
    rows = list(ledger.read(tmp_path / "evaluations" / ledger.FILE))
    assert len(rows) == 4 and {row["set"] for row in rows} == {"pusht"} and {row["label"] for row in rows} == {"flow", "flow+rti"}
    assert all(row["chosen"] for row in rows if row["label"] == "flow+rti") and len({row["checkpoint_hash"] for row in rows}) == 2


@pytest.mark.soak
def test_a_run_at_the_smallest_size_leaves_rows_and_is_not_run_twice(tmp_path: Path) -> None:
    size = pusht.Size(2, 1, 2, 1, (10,), 2, (*SMALL, *TINY), 8)
    result = pusht.measure(tmp_path, size, policies=("flow",), progress=False)
    assert result.missing == [] and [row.name.partition(":")[0] for row in result.rows] == ["flow"] * 4 + ["flow + RTI, 3 calls"] * 4
    assert pusht.measure(tmp_path, size, policies=("flow",), progress=False).rows == result.rows
    assert len(list(ledger.read(tmp_path / "evaluations" / ledger.FILE))) == 4
