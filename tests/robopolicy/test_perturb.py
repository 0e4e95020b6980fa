"""Perturbations: hand-computed sequences, exact delays, statistics of noise, momentum of pushes, and one line for what a task cannot have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.evaluation.perturb import Perturbation, data_scale, parse, perturbed, read, with_scale
from sim.env import Observation
from sim.episodes import EpisodicBatch, Outcome

RATE = 20.0
FIELDS = {"observation.state": Field((2,), names=("a", "b")), "observation.images.top": Field((2, 2, 3), "uint8", kind="image")}
ACTIONS = {name: Field((1,), low=(-9.0,), high=(9.0,), kind=kind, names=(name,)) for name, kind in (("a", "position"), ("r", "velocity"))}
SPEC = Spec(ObservationSpec(FIELDS, RATE), ActionSpec(ACTIONS, RATE))


class Counting(EpisodicBatch):
    """Observes (10 seed + t, the last action's second element), and a picture of grey t; notes what arrived."""

    def __init__(self, num_worlds: int, steps: int = 50) -> None:
        super().__init__("counting", "test 1", SPEC, num_worlds, steps, False)
        self.seeds, self.count, self.got = np.zeros(num_worlds, np.int64), np.zeros(num_worlds), np.zeros((num_worlds, 2), np.float32)

    def _begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        self.seeds[rows], self.count[rows], self.got[rows] = seeds, 0, 0

    def _advance(self, rows: np.ndarray, action: np.ndarray) -> Outcome:
        self.count[rows] += 1
        self.got[rows] = action
        return Outcome(np.zeros(len(rows)), np.zeros(len(rows), bool), {"success": np.zeros(len(rows), bool)})

    def _observe(self, rows: np.ndarray, out: Observation) -> None:
        out["observation.state"][rows, 0] = 10 * (self.seeds[rows] % 1000) + self.count[rows]
        out["observation.state"][rows, 1] = self.got[rows, 1]
        out["observation.images.top"][rows] = self.count[rows, None, None, None]

    def expert_action(self) -> np.ndarray:
        return np.stack([self.count, self.count], axis=1).astype(np.float32)


def rolled(env: Any, steps: int, seeds: np.ndarray, act: Callable[[int], np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """Return what was observed (T + 1, N, ...) and what arrived (T, N, 2) in ``steps`` control steps."""
    first = env.reset(seeds)
    seen: dict[str, list[np.ndarray]] = {name: [array] for name, array in first.items()}
    seen["got"], seen["info"] = [], []
    for k in range(steps):
        result = env.step(np.full((len(seeds), env.spec.action.dim), float(k + 1), np.float32) if act is None else act(k))
        for name in first:
            seen[name].append(result.next_obs[name])
        seen["got"].append(env.got.copy() if hasattr(env, "got") else result.reward)
        seen["info"].append(result.info)  # type: ignore[arg-type]
    return {name: np.array(values) for name, values in seen.items() if name != "info"} | {"info": seen["info"]}  # type: ignore[dict-item]


def counting(*texts: str, rows: int = 1, steps: int = 50) -> Any:
    return perturbed(Counting(rows, steps), read(list(texts)))


SEED = np.array([2_000_003])


@pytest.mark.parametrize(("late", "numbers", "greys"), [(50, [30, 30, 31, 32, 33], [0, 0, 1, 2, 3]), (125, [30, 30, 30, 30.5, 31.5], [0, 0, 0, 0, 1])])
def test_a_late_observation_is_that_of_so_long_ago(late: float, numbers: list[float], greys: list[int]) -> None:
    """At 20 Hz, 50 ms are one step; 125 ms are 2.5: numbers lie half-way, the picture is the whole one of three steps ago."""
    seen = rolled(counting(f"latency:{late}"), 4, SEED)
    assert seen["observation.state"][:, 0, 0].tolist() == numbers
    assert seen["observation.images.top"][:, 0, 0, 0, 0].tolist() == greys


def test_a_late_action_arrives_so_much_later_and_before_it_the_robot_holds_still() -> None:
    """Position targets are held where the first observation has them (30, cut to the limit 9), rates at 0."""
    got = rolled(counting("delay:100"), 5, SEED)["got"][:, 0]
    assert got.tolist() == [[9, 0], [9, 0], [1, 1], [2, 2], [3, 3]]
    half = rolled(counting("delay:75"), 4, SEED)["got"][:, 0]
    assert half.tolist() == [[9, 0], [5, 0.5], [1.5, 1.5], [2.5, 2.5]]


def test_a_lost_frame_repeats_the_last_one_in_all_fields_and_is_counted() -> None:
    seen = rolled(counting("drops:0.5", rows=3), 40, np.array([2_000_001, 2_000_002, 2_000_003]))
    numbers, greys = seen["observation.state"][:, :, 0], seen["observation.images.top"][:, :, 0, 0, 0]
    frames = numbers - 10 * np.array([1, 2, 3])
    assert (frames == greys).all() and (frames[0] == 0).all()
    fresh = frames == np.arange(41)[:, None]
    stale = np.zeros(3, int)
    for k in range(1, 41):
        expected = np.where(fresh[k], k, frames[k - 1])
        assert (frames[k] == expected).all()
        stale += ~fresh[k]
    assert seen["info"][-1]["frames_dropped"].tolist() == stale.tolist() and stale.min() > 10 and stale.max() < 30
    assert len({tuple(column) for column in frames.T}) == 3  # rows lose different frames
    alone = rolled(counting("drops:1,element=*images*"), 3, SEED)
    assert alone["observation.images.top"][:, 0, 0, 0, 0].tolist() == [0, 0, 0, 0] and alone["observation.state"][:, 0, 0].tolist() == [30, 31, 32, 33]


def test_fields_are_lost_at_chances_of_their_own() -> None:
    seen, steps = rolled(counting("drops:0.2,element=*state", "drops:0.7,element=*images*", steps=250), 240, SEED), np.arange(241)
    state = seen["observation.state"][:, 0, 0] - seen["observation.state"][0, 0, 0]
    lost, dark = state != steps, seen["observation.images.top"][:, 0, 0, 0, 0] != steps
    assert abs(lost.mean() - 0.2) < 0.08 and abs(dark.mean() - 0.7) < 0.08 and not (lost & ~dark).any()
    assert seen["info"][-1]["frames_dropped"][0] == dark.sum()
    with pytest.raises(InputError, match=r"latency of .observation\.state. is given twice"):
        counting("latency:50", "latency:100,element=*state")


def test_a_lost_command_repeats_the_last_one_and_the_first_what_is_held() -> None:
    seen = rolled(counting("lost_commands:1"), 3, SEED)
    assert seen["got"][:, 0].tolist() == [[9, 0]] * 3 and seen["info"][-1]["commands_lost"].tolist() == [3]
    some = rolled(counting("lost_commands:0.4"), 49, SEED)
    last, lost = 0.0, 0
    for k, value in enumerate(some["got"][:9, 0, 1]):  # later ones are all cut to the limit
        assert value in (k + 1, last)
        lost, last = lost + int(value != k + 1), value
    assert some["info"][8]["commands_lost"][0] == lost > 0


def test_noise_has_the_stated_deviation_and_no_memory() -> None:
    worlds = perturbed(Counting(200), [Perturbation(kind="noise", size=0.1, scale={"observation.state": [3.0, 0.0]})])
    seen = rolled(worlds, 49, np.arange(200) + 2_000_000)
    error = seen["observation.state"][..., 0] - (10 * np.arange(200) + np.arange(50)[:, None])
    n = error.size
    assert abs(error.mean()) < 4 * 0.3 / math.sqrt(n) and abs(error.std() / 0.3 - 1) < 4 / math.sqrt(2 * n)
    assert abs(np.corrcoef(error[1:].ravel(), error[:-1].ravel())[0, 1]) < 4 / math.sqrt(n)
    assert abs(np.corrcoef(error[:, 1:].ravel(), error[:, :-1].ravel())[0, 1]) < 4 / math.sqrt(n)
    assert (np.abs(error) > 2 * 0.3).mean() == pytest.approx(0.0455, abs=0.012)
    assert (seen["observation.state"][1:, :, 1] == np.minimum(np.arange(1, 50), 9)[:, None]).all()  # an element without deviation is exact


def test_noise_on_actions_and_pictures_is_a_share_of_their_range() -> None:
    got = rolled(counting("action_noise:0.1", rows=300), 40, np.arange(300), lambda k: np.zeros((300, 2), np.float32))["got"]
    assert got.std() == pytest.approx(0.9, rel=0.03) and abs(got.mean()) < 0.03
    pictures = perturbed(Counting(1000), read(["pixel_noise:0.02"]))
    grey = rolled(pictures, 49, np.arange(1000))["observation.images.top"][45:].astype(float) - np.arange(45, 50)[:, None, None, None, None]
    assert grey.std() == pytest.approx(math.hypot(5.1, math.sqrt(1 / 12)), rel=0.02)  # and that of rounding


def test_ended_rows_stay_and_masked_resets_touch_no_other() -> None:
    worlds: Any = perturbed(Counting(2, 3), read(["latency:50", "drops:0.5", Perturbation(kind="noise", size=1, scale="field"), "delay:50"]))
    worlds.reset(np.array([5, 6]))
    _, _, last = (worlds.step(np.ones((2, 2))) for _ in range(3))
    assert last.truncated.all()
    for _ in range(2):
        later = worlds.step(np.ones((2, 2)))
        assert (
            all((later.next_obs[n] == last.next_obs[n]).all() for n in last.next_obs)
            and later.info["frames_dropped"].tolist() == last.info["frames_dropped"].tolist()
        )
    before = {n: a[1].copy() for n, a in last.next_obs.items()}
    again = worlds.reset(np.array([5, 99]), np.array([True, False]))
    assert all((again[n][1] == before[n]).all() for n in before)
    fresh = perturbed(Counting(1, 3), worlds.perturbations).reset(np.array([5]))
    assert all((again[n][0] == fresh[n][0]).all() for n in fresh)


def test_an_episode_does_not_depend_on_its_row_or_on_the_rows_beside_it() -> None:
    texts = ("drops:0.3", "latency:70", "delay:30", "lost_commands:0.2", "action_noise:0.1", "pixel_noise:0.1")
    wide = rolled(counting(*texts, rows=5), 30, np.arange(5) + 40, lambda k: np.full((5, 2), k / 10, np.float32))
    alone = rolled(counting(*texts), 30, np.array([43]), lambda k: np.full((1, 2), k / 10, np.float32))
    for name in ("observation.state", "observation.images.top", "got"):
        assert (wide[name][:, 3] == alone[name][:, 0]).all()


def test_the_expert_reads_the_truth_unless_it_is_asked_to_see_what_is_delivered() -> None:
    def actions(text: str) -> list[float]:
        worlds, out = counting(text), []
        worlds.reset(SEED)
        for _ in range(5):
            out.append(float(worlds.expert_action()[0, 0]))
            assert worlds.expert_action()[0, 0] == out[-1]  # asked twice
            worlds.step(np.zeros((1, 2)))
        return out

    assert actions("latency:100") == [0, 1, 2, 3, 4]
    assert actions("latency:100,expert=true") == [0, 0, 0, 1, 2]
    late = actions("drops:0.6,expert=true")
    assert late[0] == 0 and all(b in (a, k) for k, (a, b) in enumerate(itertools.pairwise(late), 1)) and late != [0, 1, 2, 3, 4]


# How they are written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("nois:0.1", "did you mean 'noise'"),
        ("noise", "expected KIND:SIZE"),
        ("noise:much", "size"),
        ("drops:1.5", "expected 0 to 1"),
        ("mass:0", "expected 0.001 to 1000"),
        ("delay:10,element=x", "no option 'element'; it has none"),
        ({"kind": "noise", "size": 0.1, "sise": 2}, "did you mean 'size'"),
        (["drops:0.1", "drops:0.2"], "given twice"),
        ("noise:0.05,size=0.9", "size is given twice"),
        ("push:0.5,every=2,every=9", "every is given twice"),
        (0.05, "expected a text such as noise:0.05 or a mapping, found 0.05"),
        ([None], "found None"),
    ],
)
def test_mistakes_in_a_perturbation_are_one_line(value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(value)
    assert "\n" not in str(caught.value)


def test_a_perturbation_survives_text_and_json() -> None:
    for text in ("noise:0.05,scale=field", "push:0.5,element=obj*,every=2", "latency:50,expert=true", "mass:2"):
        p = parse(text)
        assert str(p) == text and read([p.to_dict()]) == (p,)


def test_the_data_s_deviations_come_from_a_checkpoint(tmp_path: Path) -> None:
    """Three policies of the same data, normalised in their own ways; a range stands for a uniform distribution over it."""
    import torch

    from policies.checkpoint import save
    from policies.normalize import Normalizer, limits_normalizer
    from policies.registry import create
    from policies.regression import RegressionConfig

    state = {"mean": np.zeros(2), "std": np.array([3.0, 0.0]), "min": np.array([-6.0, 1.0]), "max": np.array([6.0, 1.0])}
    action = {"min": np.full(2, -1.0), "max": np.ones(2)}
    spec = Spec(SPEC.observation.subset(["observation.state"]), SPEC.action)
    config = RegressionConfig.model_validate({"backbone": "mlp", "mlp": {"width": 8, "blocks": 1}, "n_obs_steps": 1})

    def fitted(mode: str) -> Normalizer:
        return Normalizer.fit({"observation.state": state, "action": action}, {"observation.state": mode, "action": "min_max"})

    for mode in ("mean_std", "min_max"):
        torch.manual_seed(0)
        save(tmp_path / mode, create("regression", config, spec, fitted(mode)), recipe={}, extra={})
    assert data_scale(tmp_path / "mean_std") == {"observation.state": [3.0, 0.0]}
    assert data_scale(tmp_path / "min_max")["observation.state"] == pytest.approx([6 / math.sqrt(3), 0.0])
    [noise] = with_scale(read("noise:0.1"), [tmp_path / "mean_std", tmp_path / "min_max"])
    assert noise.scale == {"observation.state": [3.0, 0.0]}
    with pytest.raises(InputError, match="needs a checkpoint"):
        with_scale(read("noise:0.1"), [])
    for name, normalizer in (("identity", fitted("identity")), ("trial", limits_normalizer(spec))):
        save(tmp_path / name, create("regression", config, spec, normalizer), recipe={}, extra={})
        with pytest.raises(InputError, match=f"{name} keeps none .* noise:SIZE,scale=field"):  # no noise at all would pass for a robust policy
            with_scale(read("noise:0.1"), [tmp_path / name])
    assert with_scale(read("noise:0.1"), [tmp_path / "identity", tmp_path / "mean_std"]) == (noise,)
