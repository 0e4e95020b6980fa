"""Learning curves in the report: what a log says, which runs are one learner, means with intervals by hand, and the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from policies.spec import InputError
from robopolicy.config import dump_yaml
from robopolicy.reporting import report, trials

RECIPE = {"task": "gymnasium/hopper", "seed": 0, "output": "runs/x", "algo": {"type": "ppo"}, "policy": {"type": "gaussian"}, "training": {"worlds": 64}}


def leave(folder: Path, rows: list[dict[str, Any]], **changed: Any) -> Path:
    """Write what a run of learning by trial leaves: its recipe and its log, the last line torn."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_yaml({**RECIPE, "output": str(folder), **changed}))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "tr')
    return folder


def rows_of(returns: list[float | None], per_row: int = 2048, **more: Any) -> list[dict[str, Any]]:
    """Return rows of a log, one second each."""
    return [{"event": "begin", "step": 0}] + [
        {"event": "train", "step": k + 1, "env_steps": (k + 1) * per_row, "return": value, "success": 0.5, "wall_s": float(k + 1), "time": 100.0 + k, **more}
        for k, value in enumerate(returns)
    ]


def test_a_log_is_read_and_seconds_go_on_after_a_resume(tmp_path: Path) -> None:
    rows = rows_of([1.0, None, 3.0])
    rows += [{"event": "resume", "step": 3}, {**rows[-1], "step": 4, "env_steps": 8192, "wall_s": 0.5}]
    rows.append({"event": "evaluation", "step": 4, "env_steps": 8192, "success": 0.25, "low": 0.1, "high": 0.5})
    trial = trials.read_trial(leave(tmp_path / "a", rows) / "log.jsonl", {})
    assert trial is not None
    assert trial.steps.tolist() == [2048, 4096, 6144, 8192] and trial.seconds.tolist() == [1.0, 2.0, 3.0, 3.5]
    assert math.isnan(trial.series["return"][1]) and set(trial.series) == {"return", "success"}
    assert trial.checks.tolist() == [[8192, 0.25, 0.1, 0.5]]


def test_a_call_that_logged_late_does_not_swallow_the_one_before(tmp_path: Path) -> None:
    rows = rows_of([1.0, 2.0])  # 2 s, and the next call logs its first row after 5 s
    rows += [{"event": "resume", "step": 2, "wall_s": 0.5}, {**rows[-1], "step": 3, "env_steps": 6144, "wall_s": 5.0}]
    trial = trials.read_trial(leave(tmp_path / "a", rows) / "log.jsonl", {})
    assert trial is not None and trial.steps.tolist() == [2048, 4096, 6144] and trial.seconds.tolist() == [1.0, 2.0, 7.0]


def test_an_older_log_without_seconds_takes_the_clock(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k not in ("wall_s", "env_steps")} for row in rows_of([1.0, 2.0])]
    trial = trials.read_trial(leave(tmp_path / "a", rows) / "log.jsonl", {})
    assert trial is not None and trial.seconds.tolist() == [0.0, 1.0] and trial.steps.tolist() == [1, 2]


def test_a_log_without_a_training_row_shows_nothing(tmp_path: Path) -> None:
    assert trials.read_trial(leave(tmp_path / "a", [{"event": "begin", "step": 0}]) / "log.jsonl", {}) is None


def test_seeds_are_one_learner_and_settings_tell_learners_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        leave(tmp_path / f"few{seed}", rows_of([1.0, 2.0]), seed=seed)
        leave(tmp_path / f"many{seed}", rows_of([1.0, 2.0]), seed=seed, training={"worlds": 256})
    leave(tmp_path / "other", rows_of([1.0, 2.0]), algo={"type": "spo"})
    found = report.gather(tmp_path).learners
    assert {x.label: len(x.trials) for x in found} == {"ppo worlds=64": 2, "ppo worlds=256": 2, "spo": 1}


def test_the_same_learner_measured_at_one_task_has_no_settings_in_its_name(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        leave(tmp_path / f"a{seed}", rows_of([1.0, 2.0]), seed=seed)
    leave(tmp_path / "b", rows_of([1.0]), task="gymnasium/half-cheetah")
    assert [(x.task, x.label, len(x.trials)) for x in report.gather(tmp_path).learners] == [
        ("gymnasium/half-cheetah", "ppo", 1),
        ("gymnasium/hopper", "ppo", 3),
    ]


def test_means_and_intervals_by_hand() -> None:
    x = np.array([0.0, 10.0, 20.0])
    grid, mean, low, high = trials.mean_curve([(x, np.array([0.0, 1.0, 2.0])), (x, np.array([2.0, 3.0, 4.0])), (x[:2], np.array([1.0, 2.0]))])
    assert grid[0] == 0.0 and grid[-1] == 10.0  # only as far as every run went
    np.testing.assert_allclose(mean, 1.0 + grid / 10.0)
    assert low is not None and high is not None
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)  # the deviation of 0, 2, 1 is 1 everywhere
    np.testing.assert_allclose(high - mean, half)
    np.testing.assert_allclose(mean - low, half)
    alone = trials.mean_curve([(x, x)])
    assert alone[0] is x and alone[2] is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.integers(2, 4))
def test_equal_runs_have_no_width(values: list[float], runs: int) -> None:
    x, y = np.arange(1.0, len(values) + 1), np.array(values)
    grid, mean, low, high = trials.mean_curve([(x, y)] * runs)
    assert low is not None and high is not None
    np.testing.assert_allclose(mean, np.interp(grid, x, y), atol=1e-9)
    np.testing.assert_allclose(high - low, 0.0, atol=1e-9)


def test_the_page_draws_every_quantity_against_steps_and_seconds(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        leave(tmp_path / f"run{seed}", rows_of([float(seed + k) for k in range(30)], tracking_error=0.2), seed=seed)
    text = report.write_report(tmp_path).read_text()
    for name in ("Return of an episode", "Success", "Tracking error"):
        assert f"{name} against environment steps" in text and f"{name} against seconds of training" in text
    assert text.count('class="band"') == 6 and "ppo, mean of 3 seeds" in text and "Training loss" not in text
    assert "Learning by trial: <code>gymnasium/hopper</code>" in text and "training runs <b>3</b>" in text


def test_the_band_of_a_share_stays_in_its_chart(tmp_path: Path) -> None:
    for seed, share in ((0, 0.0), (1, 1.0)):  # Student's interval of two runs that differ so much is -5.9 to 6.9
        leave(tmp_path / f"run{seed}", [{**row, "success": share} for row in rows_of([1.0, 2.0])], seed=seed)
    group = report.gather(tmp_path).learners
    (line,) = trials._lines(group, "success", False, {"ppo": 0})
    assert line.low is not None and line.high is not None and line.low.min() == 0.0 and line.high.max() == 1.0
    (line,) = trials._lines(group, "return", False, {"ppo": 0})
    assert line.low is not None


def test_several_folders_make_one_page_where_they_meet(tmp_path: Path) -> None:
    folders = [leave(tmp_path / "all" / f"run{seed}", rows_of([1.0, 2.0]), seed=seed) for seed in (0, 1)]
    page = report.write_report(folders)
    assert page == tmp_path / "all" / "report.html" and "mean of 2 seeds" in page.read_text()


def test_a_broken_line_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    leave(tmp_path / "whole", rows_of([1.0, 2.0]))
    leave(tmp_path / "broken", [{"event": "train"}])
    found = report.gather(tmp_path)
    assert len(found.learners) == 1 and len(found.problems) == 1 and "broken" in found.problems[0] and "line 1" in found.problems[0]
    with pytest.raises(InputError, match="line 1"):
        report.write_report(tmp_path / "broken")
