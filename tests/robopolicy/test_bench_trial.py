"""Benchmarks of learning by trial in small: the peer's settings are those published, every side is planned, figures by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from policies import checkpoint, registry
from policies.normalize import limits_normalizer
from robopolicy.bench import baselines, off_policy, ppo, trial_runs, updates
from robopolicy.bench.cells import Cell, Cells
from robopolicy.bench.entered import PeerPolicy, entries
from robopolicy.bench.harness import Result
from robopolicy.bench.returns import EVALUATION_SEEDS, deterministic_returns, first_reached, policy_act, said
from robopolicy.evaluation import ledger
from robopolicy.evaluation.rollout import evaluate
from robopolicy.reporting import leaderboard
from robopolicy.training.log import read_log
from sim.registry import make

# ---- returns


def test_returns_are_those_of_gymnasium_s_own_loop() -> None:
    seeds = EVALUATION_SEEDS[:2]
    found = deterministic_returns("Hopper-v5", lambda obs: 0.1 * obs[:, :3], seeds)
    for seed, total in zip(seeds, found, strict=True):
        env, expected, done = gymnasium.make("Hopper-v5"), 0.0, False
        obs = env.reset(seed=seed)[0]
        while not done:
            obs, reward, terminated, truncated, _ = env.step(np.clip(0.1 * obs[:3].astype(np.float32), -1, 1))
            expected, done = expected + float(reward), terminated or truncated
        assert total == pytest.approx(expected, rel=1e-12)
    assert found[0] != found[1]  # other initial states


def test_a_checkpoint_acts_by_its_mean(tmp_path: Path) -> None:
    spec = make("gymnasium/hopper").spec
    policy = registry.create("gaussian", registry.config_class("gaussian")(), spec, limits_normalizer(spec)).eval()
    folder = checkpoint.save(tmp_path / "saved", policy, recipe={}, extra={})
    obs = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    with torch.no_grad():
        mean = policy.network(torch.from_numpy(obs))
    np.testing.assert_allclose(policy_act(folder)(obs), mean.numpy(), atol=1e-6)


def test_means_intervals_and_first_points_by_hand() -> None:
    assert said([3000.0]) == "3,000" and said([1000.0, 2000.0, 3000.0]) == "2,000 [-484, 4,484] (1,000, 2,000, 3,000)"  # 4.302653 / 3^0.5
    points = [{"return": 1.0, "steps": 1.0}, {"return": 3.0, "steps": 2.0}, {"return": 2.0, "steps": 3.0}]
    assert first_reached(points, 2.0) == points[1] and first_reached(points, 4.0) is None


# ---- the peer


@pytest.mark.parametrize("environment", list(baselines.PUBLISHED))
def test_the_peer_runs_at_its_published_settings(environment: str) -> None:
    for worlds in (1, 8):
        model = baselines._ppo(environment, worlds, 0, None)
        for name, value in baselines.PUBLISHED[environment].items():
            found = getattr(model, name)
            assert (found(1.0) if callable(found) else found) == value, name
        assert model.n_steps * worlds == 512 and model.get_env().norm_obs and model.get_env().norm_reward and model.get_env().gamma == model.gamma
        widths = [[layer.out_features for layer in net if isinstance(layer, torch.nn.Linear)] for net in model.policy.mlp_extractor.children()]
        assert widths == [[256, 256], [256, 256]] and model.policy.log_std.detach().unique().tolist() == [-2.0]


def test_the_peer_s_clock_counts_whole_iterations() -> None:
    row = baselines.ppo_speed("Hopper-v5", 8, 0.01, 1, 0, {"n_steps": 8, "batch_size": 32, "n_epochs": 1, "hidden": [8], "critic_hidden": [4]})
    assert row["steps"] % 64 == 0 and row["steps"] > 0 and row["wall_s"] > 0 and row["cpu_s"] > 0


def test_the_peer_s_curve_has_its_marks_and_a_clock_that_evaluations_stop() -> None:
    points = baselines.sac_curve("Hopper-v5", 0, 60, 30, 1, random_steps=20)["points"]
    assert [point["steps"] for point in points] == [30, 60]
    assert 0 < points[0]["cpu_s"] < points[1]["cpu_s"] and all(np.isfinite(point["return"]) for point in points)


def test_what_was_trained_enters_a_ledger_and_training_seeds_of_a_peer_are_joined(tmp_path: Path) -> None:
    entry = entries("gymnasium/hopper", "peer: stable-baselines3 SAC", 1500, 2, tmp_path)
    assert entry["label"] == "peer: stable-baselines3 SAC (1.5k steps)"
    found = [baselines.sac_curve("Hopper-v5", seed, 30, 30, 1, random_steps=20, entry=entry)["report_return"] for seed in (0, 1)]
    small = ("policy.hidden=[8]", "training.random_steps=20", "training.batch_size=8", "training.log_every=10", "training.threads=1")
    ours = {**entry, "label": "SAC"}
    found.append(trial_runs.curve("rl/hopper-sac", small, "Hopper-v5", 0, 30, 10, 1, str(tmp_path / "run"), ours)["report_return"])
    rows = list(ledger.read(tmp_path / "evaluations" / ledger.FILE))
    assert [row["return"] for row in rows] == pytest.approx(found) and {row["purpose"] for row in rows} == {"report"}
    mine, theirs = leaderboard.entries(rows)
    assert (mine.label, theirs.label, list(theirs.seeds)) == ("SAC", entry["label"], [0, 1])


def test_a_peer_s_actions_are_cut_at_the_limits_and_act_as_in_gymnasium() -> None:
    def act(obs: np.ndarray) -> np.ndarray:
        return 3 * obs[:, :3] - 0.5

    peer = PeerPolicy("gymnasium/hopper", act)
    seen = np.linspace(-2, 2, 22, dtype=np.float32).reshape(2, 1, 11)
    plan, _ = peer.act({"observation.state": seen}, {}, None)
    np.testing.assert_array_equal(plan.actions[:, 0], np.clip(act(seen[:, 0]), -1, 1))
    found = evaluate(peer, "gymnasium/hopper", episodes=50, latency_calls=0, progress=False)
    expected = deterministic_returns("Hopper-v5", act, range(50))  # initial states are drawn otherwise
    assert np.mean([e.return_ for e in found.episodes]) == pytest.approx(np.mean(expected), rel=0.2)


@pytest.mark.parametrize("algo", ["sac", "ppo"])
def test_updates_of_the_peer_and_of_ours_are_timed(algo: str) -> None:
    from robopolicy.bench import update_cells

    theirs = baselines.update_speed(algo, 2, 0, sizes=(8,), batch=8)
    ours = getattr(update_cells, algo)(2, 0, sizes=(8,), batch=16)
    for row in (theirs, ours):
        assert row["updates"] >= 2 and row["wall_s"] > 0


# ---- plans


def test_every_side_of_ppo_is_planned_and_keys_differ(tmp_path: Path) -> None:
    size = ppo.Size()
    for environment in ppo.TASKS:
        side = ppo.plan(environment, size, tmp_path)
        names = list(side.speeds)
        assert names[:2] == ["ours", "ours with the published network"] and len([n for n in names if "published," in n]) == 6
        assert any("our batch sizes" in n for n in names) and all(len(cells) == size.rounds for cells in side.speeds.values())
        assert [len(cells) for cells in side.curves.values()] == [3, 3]
        keys = [cell.key for cells in (*side.speeds.values(), *side.curves.values()) for cell in cells]
        assert len(set(keys)) == len(keys)
        assert {cell.threads for name, cells in side.speeds.items() for cell in cells if "2 threads" in name} == {2}


def test_every_cell_of_the_other_plans_has_a_name_and_a_key_of_its_own(tmp_path: Path) -> None:
    cells = [c for some in off_policy.plan(off_policy.Size(), tmp_path).values() for c in some]
    cells += [c for some in updates.plan("cpu", False).values() for c in some] + [c for some in updates.plan("cuda", False).values() for c in some]
    assert len({c.key for c in cells}) == len({c.name for c in cells}) == len(cells)
    assert {*off_policy.RULES.values()} == {"SAC", "TD3", "DSAC-T"}


@pytest.mark.parametrize("bench", [ppo, off_policy])
def test_trainings_of_other_lengths_have_folders_and_results_of_their_own(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[list[Cell]] = []
    monkeypatch.setattr(bench, "run_cells", lambda cells, *_, **__: planned.append(list(cells)) or Cells({}, []))
    for steps in (None, 70_000, 80_000):
        bench.run(False, steps=steps, seeds=1, folder=tmp_path)
    mine = [{c.settings["folder"]: c.key for c in cells if c.function.endswith((":curve", ":overestimate"))} for cells in planned]
    assert {Path(folder).name for folder in mine[0]} <= {"ours-seed0", "sac-seed0", "td3-seed0", "dsact-seed0"}, "the usual ones are where they were"
    assert not set(mine[1]) & set(mine[2]) and not (set(mine[1]) | set(mine[2])) & set(mine[0])
    assert len({key for some in mine for key in some.values()}) == sum(map(len, mine)), "a result of one length is not that of another"


def test_a_rule_of_the_plan_is_a_recipe_that_loads(tmp_path: Path) -> None:
    from robopolicy.recipe import load_recipe

    for name, cells in off_policy.plan(replace(off_policy.QUICK), tmp_path).items():
        for cell in cells:
            if "recipe" in cell.settings and name in off_policy.RULES:
                recipe = load_recipe(str(cell.settings["recipe"]), list(cell.settings["overrides"]), lambda text: None)
                assert recipe.algo_type == name and recipe.task == "gymnasium/hopper"


# ---- rows


def filled(cells: dict[Any, list[Cell]], rows: dict[Any, dict[str, Any]]) -> Cells:
    return Cells({cell.key: rows[name] for name, some in cells.items() if name in rows for cell in some}, [])


def test_the_fastest_setting_of_the_peer_is_the_one_compared_with(tmp_path: Path) -> None:
    side = ppo.plan("HalfCheetah-v5", ppo.QUICK, tmp_path)
    rates = {name: {"steps": 1000, "wall_s": 10.0 - k, "cpu_s": 1.0 + k} for k, name in enumerate(side.speeds)}
    rows = list(ppo._speed_rows("HalfCheetah-v5", side, filled(side.speeds, rates)))
    published = [name for name in side.speeds if name.startswith("stable-baselines3, published")]
    wall = [row for row in rows if row.unit == "env-steps/s" and row.target]
    assert len(wall) == 1 and wall[0].peer == published[-1] and wall[0].target == 4.0 and wall[0].value == pytest.approx(100.0)
    cpu = [row for row in rows if row.unit == "env-steps/CPU-s" and row.target]
    assert cpu[0].peer == published[0]  # the least CPU seconds are another's
    assert any(row.peer and row.peer.endswith("our batch sizes and network") for row in rows)


def test_time_to_the_peer_s_return_needs_every_seed(tmp_path: Path) -> None:
    size = replace(ppo.QUICK, seeds=2)
    side = ppo.plan("Hopper-v5", size, tmp_path)
    points = [{"steps": 4096, "wall_s": 1.0, "cpu_s": 2.0, "return": 5.0}, {"steps": 8192, "wall_s": 3.0, "cpu_s": 6.0, "return": 10.0}]
    theirs = [{**points[0], "return": 1.0}, {**points[1], "wall_s": 30.0, "return": 4.0}]
    rows, _ = ppo._curve_rows("Hopper-v5", side, filled(side.curves, {"ours": {"points": points}, ppo.PEER: {"points": theirs}}), size)
    assert [(row.value, row.peer_value) for row in rows] == [(10.0, 4.0), (1.0, 30.0), (2.0, 6.0)]
    early = [{**points[0], "return": 7.0, "wall_s": 15.0}, {**points[1], "return": 4.0, "wall_s": 30.0}]  # above its own end half way
    rows, _ = ppo._curve_rows("Hopper-v5", side, filled(side.curves, {"ours": {"points": points}, ppo.PEER: {"points": early}}), size)
    assert [(row.value, row.peer_value) for row in rows[1:]] == [(1.0, 15.0), (2.0, 2.0)]
    rows, notes = ppo._curve_rows("Hopper-v5", side, filled(side.curves, {"ours": {"points": theirs}, ppo.PEER: {"points": points}}), size)
    assert len(rows) == 1 and any("2 of 2 seeds of ours did not reach 10" in note for note in notes)


# ---- ours


def test_our_curves_go_on_and_our_clock_counts_whole_iterations(tmp_path: Path) -> None:
    small = ("training.worlds=4", "training.rollout=16", "policy.hidden=[8]", "training.critic.hidden=[8]", "training.threads=1")
    row = trial_runs.speed("rl/half-cheetah", small, 4, str(tmp_path / "speed"), 0)
    assert row["steps"] == 2 * 64 and row["wall_s"] > 0 and not (tmp_path / "speed").exists()
    folder = str(tmp_path / "run")
    found = trial_runs.curve("rl/hopper", (*small, "env.max_episode_steps=20", "training.log_every=1"), "Hopper-v5", 0, 256, 128, 1, folder)
    assert [point["steps"] for point in found["points"]] == [128, 256] and found["points"][0]["wall_s"] <= found["points"][1]["wall_s"]
    rows = list(read_log(folder, "train"))
    again = trial_runs.curve("rl/hopper", (*small, "env.max_episode_steps=20", "training.log_every=1"), "Hopper-v5", 0, 256, 128, 1, folder)
    assert again == found and list(read_log(folder, "train")) == rows  # finished: nothing is trained again


def test_over_estimation_is_measured_of_a_finished_run(tmp_path: Path) -> None:
    small = ("algo.hidden=[8]", "policy.hidden=[8]", "training.random_steps=30", "training.log_every=30", "training.threads=1", "training.batch_size=8")
    folder = str(tmp_path / "run")
    found = trial_runs.curve("rl/hopper-sac", small, "Hopper-v5", 0, 60, 30, 1, folder)
    assert [point["steps"] for point in found["points"]] == [30, 60]
    row = trial_runs.overestimate(folder, 2)
    assert np.isfinite(row["gap"]) and row["error"] >= 0


def test_curves_of_every_side_are_drawn_the_peer_s_too(tmp_path: Path) -> None:
    cells = off_policy.plan(off_policy.QUICK, tmp_path)
    points = [{"steps": 200 * n, "wall_s": 1.0, "cpu_s": 1.0, "return": 100.0 * n} for n in (1, 2, 3)]
    result = Result()
    off_policy._curves(cells, Cells({}, []), tmp_path, result)
    assert result.notes == [] and not list(tmp_path.iterdir())
    found = Cells({cells[name][0].key: {"points": points} for name in ("sac", off_policy.PEER)}, [])
    off_policy._curves(cells, found, tmp_path, result)
    drawing = (tmp_path / "returns.svg").read_text()
    assert result.notes == [f"drawn: {tmp_path / 'returns.svg'}"] and drawing.count('class="line') == 2
    assert all(name in drawing for name in ("SAC", "TD3", "DSAC-T", "stable-baselines3 SAC"))
