"""Disturbed demonstrations: how often, when and how, checked by hand in a world whose steps are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policies.spec import ActionSpec, Field, InputError
from robopolicy.data import layout
from robopolicy.data.collect import Disturbing, collect
from robopolicy.data.dataset import Dataset
from robopolicy.data.disturb import POSITION_SHARE, Disturbances, Recovery

SEEDS = np.arange(40_000)
ACTION = ActionSpec({"hand": Field((2,), low=(-1, 0), high=(1, 4), kind="velocity"), "joint": Field((1,), low=(-3,), high=(3,), kind="position")}, 10)


def test_chance_time_length_and_kind_are_as_they_were_asked_for() -> None:
    """40,000 seeds: every share within four standard deviations, every value within its bounds and reached."""
    drawn = Disturbances(Recovery(0.3, steps=7, within=20), SEEDS, ACTION)
    disturbed = drawn.start < 10_000

    def near(found: float, wanted: float, n: int) -> bool:
        return abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / n)

    n = int(disturbed.sum())
    assert near(disturbed.mean(), 0.3, len(SEEDS)) and near(drawn.held[disturbed].mean(), 0.5, n) and not drawn.held[~disturbed].any()
    starts, lengths = drawn.start[disturbed], (drawn.end - drawn.start)[disturbed]
    assert all(near(float((starts == step).mean()), 1 / 20, n) for step in range(20)) and starts.max() == 19 and starts.min() == 0
    assert all(near(float((lengths == steps).mean()), 1 / 4, n) for steps in (4, 5, 6, 7)) and set(lengths) == {4, 5, 6, 7}
    for never in (Recovery(0.0, 7, 20), None):
        assert (Disturbances(never, SEEDS, ACTION).start > 10**9).all()


def test_wrong_actions_are_anywhere_in_the_range_and_targets_of_positions_near_the_experts() -> None:
    drawn = Disturbances(Recovery(1.0, steps=2, within=1), SEEDS[:20_000], ACTION)
    expert = np.tile(np.array([0.5, 3.0, 1.0], np.float32), (20_000, 1))
    first, now = drawn.executed(0, expert, expert)
    assert now.all()
    later = expert + 1  # what the expert would do a step later: a wrong target stays where it was drawn
    second, still = drawn.executed(1, later, later)
    np.testing.assert_array_equal(still, drawn.end == 2)
    both = drawn.held & still
    np.testing.assert_array_equal(first[both], second[both])
    assert (first[still & ~drawn.held] != second[still & ~drawn.held]).all()
    np.testing.assert_array_equal(second[~still], later[~still])
    for column, (low, high) in enumerate([(-1, 1), (0, 4), (1 - 3 * POSITION_SHARE, 1 + 3 * POSITION_SHARE)]):
        spread = (first[:, column] - low) / (high - low)
        assert spread.min() >= 0 and spread.max() <= 1
        counts, _ = np.histogram(spread, 10, (0, 1))
        assert (np.abs(counts / 20_000 - 0.1) < 4 * np.sqrt(0.09 / 20_000)).all(), "uniform"


def test_what_is_drawn_depends_on_the_seed_alone() -> None:
    """Whatever the other seeds of the block are; also with twice the range."""
    many = Disturbances(Recovery(0.5, 6, 9), SEEDS[:64], ACTION)
    expert = np.zeros((64, 3), np.float32)
    for row in (3, 17):
        one = Disturbances(Recovery(0.5, 6, 9, size=2.0), SEEDS[row : row + 1], ACTION)
        assert (one.start[0], one.end[0], one.held[0]) == (many.start[row], many.end[row], many.held[row])
        for step in range(15):
            a, b = many.executed(step, expert, expert)[0][row], one.executed(step, expert[:1], expert[:1])[0][0]
            middle = np.where(many.start[row] <= step < many.end[row], [0, 2, 0], 0)
            np.testing.assert_allclose(2 * (a - middle), b - middle, atol=1e-5)


def test_impossible_disturbances_are_refused() -> None:
    for bad in ({"chance": 1.5, "steps": 3, "within": 3}, {"chance": 0.5, "steps": 0, "within": 3}, {"chance": 0.5, "steps": 3, "within": 3, "size": 0.0}):
        with pytest.raises(InputError, match="recovery: "):
            Recovery(**bad)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """The same 36 attempts with disturbed frames marked, and cut."""
    root = tmp_path_factory.mktemp("recovery")
    out = []
    for name, marked in (("marked", True), ("cut", False)):
        disturbing = Disturbing(0.5, steps=6, within=15, size=0.8, marked=marked)
        collect("two-route", root / name, 36, workers=1, progress=False, only_success=False, recovery=disturbing)
        out.append(Dataset.open(root / name))
    return out[0], out[1]


def test_marked_frames_are_those_that_the_expert_did_not_execute(both: tuple[Dataset, Dataset]) -> None:
    """A point moves by a tenth of the executed velocity and a small drift: what was executed can be read off the path."""
    marked, _ = both
    assert marked.num_episodes == 36
    wrong = Disturbances(Recovery(0.5, 6, 15, 0.8, True), marked.seeds, marked.spec.action)
    disturbed = 0
    for e in range(36):
        frames = marked.episode(e)
        flags, steps = frames["disturbed"].ravel(), frames["step"].ravel()
        assert steps.tolist() == list(range(len(steps)))
        assert flags.tolist() == [wrong.start[e] <= t < wrong.end[e] for t in steps]
        disturbed += bool(flags.any())
        executed = np.diff(frames["observation.state"], axis=0) * 10
        off = np.linalg.norm(executed - frames["action"][:-1], axis=1)
        assert (off[~flags[:-1]] < 0.3).all(), "the expert's own actions are executed, up to the drift"
        if wrong.held[e] and flags.any():
            inside = executed[flags[:-1]]
            assert np.ptp(inside, axis=0).max(initial=0) < 0.3, "one wrong velocity for the whole stretch"
    assert 9 <= disturbed <= 27, "half of 36"


def test_cut_episodes_are_what_comes_behind_the_stretch(both: tuple[Dataset, Dataset]) -> None:
    marked, cut = both
    assert "disturbed" not in cut.arrays
    shortened = 0
    for e, seed in enumerate(cut.seeds):
        if seed not in marked.seeds:
            continue  # an attempt that ended while it was disturbed leaves nothing, so the cut set reaches further
        whole, frames = marked.episode(int(np.flatnonzero(marked.seeds == seed)[0])), cut.episode(e)
        begin = int(frames["step"][0, 0])
        shortened += begin > 0
        for name in ("observation.state", "action", "step"):
            np.testing.assert_array_equal(whole[name][begin:], frames[name])
        flags = whole["disturbed"].ravel()
        assert begin == (int(np.flatnonzero(flags)[-1]) + 1 if flags.any() else 0)
    assert shortened >= 6
    settings = (layout.read_own(cut.path) or {})["provenance"]["collect"]["recovery"]
    assert settings == {"chance": 0.5, "steps": 6, "within": 15, "size": 0.8, "marked": False}


def test_the_stretch_begins_within_the_experts_own_time_and_a_rerun_goes_on(tmp_path: Path) -> None:
    for episodes, workers in ((3, 1), (12, 2)):
        collect("two-route", tmp_path / "parts", episodes, workers=workers, progress=False, recovery=Disturbing(0.6))
    collect("two-route", tmp_path / "whole", 12, workers=1, progress=False, recovery=Disturbing(0.6))
    parts, whole = (Dataset.open(tmp_path / name) for name in ("parts", "whole"))
    assert parts.fingerprint == whole.fingerprint and parts.seeds.tolist() == whole.seeds.tolist() and parts.success.all()
    lengths = np.diff(Dataset.open(collect("two-route", tmp_path / "calm", 1, workers=1, progress=False, extra_steps=0).path).episode_starts)
    found = (layout.read_own(whole.path) or {})["provenance"]["collect"]["recovery"]
    assert found["within"] == lengths[0] and found["steps"] == 3, "a quarter of a second at 10 Hz, three steps at least"
    with pytest.raises(InputError, match="collected with recovery"):
        collect("two-route", tmp_path / "whole", 12, workers=1, progress=False)
