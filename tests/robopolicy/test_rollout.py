"""Rollouts on a world whose every number is known beforehand, and with a network on several workers."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from policies.base import Execution, Plan, State
from policies.noise import Noise
from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec, SpecMismatch
from robopolicy.evaluation import blocks, ledger, rollout, seeds, videos
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.workers import Job, WorkerCrash, _Pool, _Worker
from sim.env import Observation, StepResult

SPEC = Spec(
    ObservationSpec({"observation.state": Field((2,), unit="m")}, rate_hz=10.0),
    ActionSpec({"velocity": Field((2,), unit="m/s", low=(-1.0, -1.0), high=(1.0, 1.0), kind="velocity")}, rate_hz=10.0),
)


class Line:
    """A point that starts at (seed mod 7, seed mod 5) and succeeds within 0.5 of the origin; ``score`` is 1 / (1 + distance)."""

    task, suite_version, spec, autoreset = "line", "line-1", SPEC, False
    moves = 0  # of all worlds that were not yet decided

    def __init__(self, num_worlds: int, max_episode_steps: int = 12, pictures: bool = True) -> None:
        self.num_worlds, self.max_episode_steps, self.pictures = num_worlds, max_episode_steps, pictures

    def retire(self, mask: np.ndarray) -> None:
        self.retired |= mask

    def reset(self, seeds: np.ndarray, mask: np.ndarray | None = None) -> Observation:
        assert seeds.shape == (self.num_worlds,)
        self.place = np.stack([seeds % 7, seeds % 5], 1).astype(np.float32)
        self.step_count, self.retired = np.zeros(self.num_worlds, int), np.zeros(self.num_worlds, bool)
        return {"observation.state": self.place.copy()}

    def step(self, action: np.ndarray) -> StepResult:
        assert action.shape == (self.num_worlds, 2) and action.dtype == np.float32
        running = (self.step_count < self.max_episode_steps) & ~self.retired
        Line.moves += int(running.sum())
        self.place = np.where(running[:, None], self.place + np.clip(action, -1, 1), self.place).astype(np.float32)
        self.step_count += running
        distance = np.linalg.norm(self.place, axis=1)
        obs = {"observation.state": self.place.copy()}
        info = {"success": distance < 0.5, "score": 1 / (1 + distance), "quadrant": (self.place[:, 0] > 0).astype(np.int64)}
        truncated = self.step_count >= self.max_episode_steps
        return StepResult(obs, obs, np.where(running, -distance, 0).astype(np.float32), np.zeros(self.num_worlds, bool), truncated, info)

    def render(self, worlds: np.ndarray | None = None) -> np.ndarray | None:
        if not self.pictures:
            return None
        out = np.zeros((self.num_worlds, 65, 97, 3), np.uint8)  # odd sides on purpose
        for row, (x, y) in enumerate(self.place):
            out[row, int(np.clip(8 * y, 0, 64)), int(np.clip(8 * x, 0, 96))] = 255
        return out

    def expert_action(self) -> np.ndarray:
        return -self.place

    def close(self) -> None:
        self.num_worlds = 0


def line(num_worlds: int) -> Line:
    return Line(num_worlds)


def dark_line(num_worlds: int) -> Line:
    return Line(num_worlds, pictures=False)


class Homing:
    """Plans ``chunk`` steps of at most 1 m per axis straight home from the newest observation; counts what it sees."""

    spec, horizon = SPEC, 4

    def __init__(self, n_obs_steps: int = 2, chunk: int = 2, skip: int = 0) -> None:
        self.n_obs_steps, self.n_action_steps, self.skip = n_obs_steps, chunk, skip
        self.windows: list[np.ndarray] = []
        self.keys: list[np.ndarray] = []

    def initial_state(self, batch: int) -> State:
        return {"calls": np.zeros(batch, np.int64)}

    def act(self, obs: dict[str, np.ndarray], state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        window = obs["observation.state"]
        self.windows.append(window.copy())
        self.keys.append(np.asarray(noise.keys))
        place, out = window[:, -1].copy(), []
        for _ in range(self.n_action_steps):
            step = np.clip(-place, -1, 1).astype(np.float32)
            if self.skip:
                step[:, 1] = 0
            place = place + step
            out.append(step)
        calls = state["calls"] + 1
        return Plan(np.stack(out, 1), {"network_calls": np.full(len(window), 3)}), {"calls": calls}

    def reset(self, state: State, mask: np.ndarray) -> State:
        return {"calls": np.where(mask, 0, state["calls"])}


class Net(torch.nn.Module):
    """A network with per-row noise whose rounding depends on the batch shape: what workers could get wrong."""

    spec, n_obs_steps, horizon, n_action_steps = SPEC, 2, 4, 2

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        widths = [4, 257, 257, 4]
        self.weights = torch.nn.ParameterList(torch.randn(a, b, generator=generator) / a**0.5 for a, b in itertools.pairwise(widths))

    def initial_state(self, batch: int) -> State:
        return {}

    def act(self, obs: dict[str, torch.Tensor], state: State, noise: Noise, execution: Execution = Execution()) -> tuple[Plan, State]:
        x = obs["observation.state"].flatten(1)
        newest = obs["observation.state"][:, -1]
        for weight in self.weights:
            x = torch.tanh(x @ weight)
        actions = x.reshape(-1, 2, 2) * 0.3 - 0.4 * newest[:, None] + 0.1 * noise.normal(2, 2)
        return Plan(actions, {"network_calls": torch.ones(len(x))}), state

    def reset(self, state: State, mask: torch.Tensor) -> State:
        return state


def run(policy: object = None, world: object = line, **options: object) -> Evaluation:
    defaults: dict = {"episodes": 10, "block": 4, "progress": False, "latency_calls": 0}
    return rollout.evaluate(policy or Homing(), world, **{**defaults, **options})  # type: ignore[arg-type]


def test_records_are_those_computed_by_hand() -> None:
    evaluation = run(episodes=36, block=8)
    assert [e.index for e in evaluation.episodes] == list(range(36))
    for e in evaluation.episodes:
        assert e.seed == seeds.REPORT + e.index
        start = np.array([e.seed % 7, e.seed % 5], float)
        steps = max(1, int(start.max()))  # one metre per axis and step; at least one step is made
        places = [np.maximum(start - t, 0) for t in range(1, steps + 1)]
        assert e.success and e.length == steps
        assert e.return_ == pytest.approx(-sum(np.linalg.norm(p) for p in places), rel=1e-6)
        assert e.score == pytest.approx(1.0) and e.info == {"quadrant": 0.0}
        assert e.chunks == -(-steps // 2) and e.network_calls == 3 * e.chunks
    assert evaluation.purpose == "report" and evaluation.block == 8 and evaluation.successes == 36
    assert evaluation.network_calls_per_chunk == 3.0


def test_failures_run_to_the_time_limit() -> None:
    evaluation = run(Homing(skip=1), episodes=35)
    for e in evaluation.episodes:
        assert e.success == (e.seed % 5 == 0)
        assert e.length == (max(1, e.seed % 7) if e.success else 12)
        assert e.score == pytest.approx(1 / (1 + e.seed % 5), rel=1e-6)


def test_windows_and_noise_keys() -> None:
    """The first observation is repeated; then the window moves by single steps; keys name (noise seed, episode seed, call)."""
    from policies.noise import row_keys

    policy = Homing(n_obs_steps=3, chunk=2)
    run(policy, episodes=2, block=2, seed0=seeds.SELECTION + 4, noise_seed=5)
    first = np.array([[(1_000_004 + i) % 7, (1_000_004 + i) % 5] for i in range(2)], np.float32)
    np.testing.assert_array_equal(policy.windows[0], np.repeat(first[:, None], 3, 1))
    moved = [np.maximum(first - t, 0) for t in (0, 1, 2)]
    np.testing.assert_array_equal(policy.windows[1], np.stack(moved, 1))
    for call, keys in enumerate(policy.keys):
        np.testing.assert_array_equal(keys, row_keys(5, np.array([1_000_004, 1_000_005]), call))


def test_a_block_is_always_full_and_stops_when_every_row_has_ended() -> None:
    policy, Line.moves = Homing(), 0
    evaluation = run(policy, episodes=6, block=4)
    assert Line.moves == sum(e.length for e in evaluation.episodes)  # padding is not simulated
    assert {w.shape[0] for w in policy.windows} == {4}
    slowest = [max(e.chunks for e in evaluation.episodes[i : i + 4]) for i in (0, 4)]
    assert len(policy.windows) == sum(slowest)


def test_the_expert_is_a_policy() -> None:
    evaluation = run("expert", episodes=5)
    assert evaluation.policy == "expert" and evaluation.successes == 5 and evaluation.latency_ms == []
    assert all(e.network_calls == 0 for e in evaluation.episodes)


@pytest.mark.parametrize("policy", [Net(), "expert"], ids=["network", "expert"])
def test_one_and_two_workers_agree_bit_for_bit(policy: object) -> None:
    one = run(policy, episodes=30, block=8, workers=1)
    two = run(policy, episodes=30, block=8, workers=2)
    assert [dataclasses.asdict(e) for e in one.episodes] == [dataclasses.asdict(e) for e in two.episodes]
    assert len({e.return_ for e in one.episodes}) > 5  # the records could have differed


def test_an_episode_does_not_depend_on_its_neighbours() -> None:
    """The same seed in another row, beside other episodes: the same noise and, to rounding, the same episode."""
    whole = {e.seed: e for e in run(Net(), episodes=16, block=8).episodes}
    shifted = run(Net(), episodes=12, block=8, seed0=seeds.REPORT + 3).episodes
    assert all(e.return_ == pytest.approx(whole[e.seed].return_, abs=1e-4) for e in shifted)
    other = run(Net(), episodes=16, block=8, noise_seed=1).episodes
    assert all(abs(e.return_ - whole[e.seed].return_) > 1e-4 for e in other if e.length == 12)


def test_torch_threads_are_fixed_and_given_back() -> None:
    seen = []

    class Spy(Homing):
        def act(self, *args: object, **more: object) -> tuple[Plan, State]:
            seen.append(torch.get_num_threads())
            return super().act(*args, **more)  # type: ignore[arg-type]

    before = torch.get_num_threads()
    run(Spy(), episodes=2, threads=before + 1)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before


class Broken(Homing):
    def act(self, *args: object, **more: object) -> tuple[Plan, State]:
        plan, state = super().act(*args, **more)  # type: ignore[arg-type]
        if len(self.windows) == 2:
            plan.actions[1] = np.nan
        return plan, state


def test_a_plan_that_is_not_finite_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"not finite in episode seed 2000004, call 1"):
        run(Broken(), episodes=4, seed0=seeds.REPORT + 3)


class Dies(Homing):
    """Kills its own process in the second call, when it is not the one that made it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.owner = how, os.getpid()

    def act(self, *args: object, **more: object) -> tuple[Plan, State]:
        if len(self.windows) == 1 and os.getpid() != self.owner:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("lost")
        return super().act(*args, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("how", "said"), [("kill", "SIGKILL"), ("raise", r"KeyError: 'lost' \(test_rollout.py")])
def test_a_crashed_worker_is_one_line_and_no_wait(how: str, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(WorkerCrash, match=said) as caught:
        run(Dies(how), episodes=16, workers=2)
    assert "\n" not in str(caught.value) and "block" in str(caught.value) and time.monotonic() - begun < 60


def test_a_worker_that_is_gone_when_it_is_told_its_block_has_crashed() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.send(("ready", None))
    theirs.close()
    dead: Any = SimpleNamespace(exitcode=-signal.SIGKILL, join=lambda *_: None, is_alive=lambda: False)

    class Pool(_Pool):
        def _start(self) -> None:
            self.workers.append(_Worker(dead, ours))

    with pytest.raises(WorkerCrash, match=r"SIGKILL.*in block 0 \(seeds 7 to 7\)"):
        Pool(Job(Line, None, 1, 1, 0, [(0, np.array([7]))]), 1, None).run()


def test_a_workers_input_error_is_an_input_error() -> None:
    with pytest.raises(InputError, match="not finite"):
        run(Broken(), episodes=16, workers=2)


def wide(num_worlds: int) -> Line:
    out = Line(num_worlds)
    out.spec = dataclasses.replace(SPEC, observation=ObservationSpec({"observation.state": Field((3,), unit="m")}, 10.0))
    return out


def test_a_world_that_does_not_fit_is_refused_before_anything_runs() -> None:
    policy = Homing()
    with pytest.raises(SpecMismatch, match=r"observation.state.*expected \(2,\), found \(3,\)"):
        run(policy, wide)
    assert not policy.windows


@pytest.mark.parametrize("wrong", [{"block": 0}, {"workers": 0}, {"episodes": 0}, {"seed0": 1_999_999}, {"seed0": -1}, {"videos": 1}])
def test_bad_arguments_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        run(**wrong)


class Unsound(Line):
    """One number that it tells is none from the third step on."""

    told = "reward"

    def step(self, action: np.ndarray) -> StepResult:
        out = super().step(action)
        wrong = np.where(self.step_count >= 3, np.nan, out.reward)
        return dataclasses.replace(out, reward=wrong) if self.told == "reward" else dataclasses.replace(out, info={**out.info, self.told: wrong})


def test_a_world_that_tells_no_numbers_is_one_line_and_what_is_besides_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for told, said in (("reward", "rewards sum up to nan in episode seed 20000"), ("score", "score comes to nan in episode seed 20000")):
        monkeypatch.setattr(Unsound, "told", told)
        with pytest.raises(InputError, match=said):
            run(Homing(skip=1), Unsound, out=tmp_path)
        assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Unsound, "told", "distance")
    made = run(Homing(skip=1), Unsound, out=tmp_path)
    assert Evaluation.load(made.folder).episodes == made.episodes and all(
        "distance" not in e.info and "quadrant" in e.info for e in made.episodes if e.length > 3
    )


def test_latency_is_measured_at_batch_one() -> None:
    policy = Homing()
    policy.act = functools.partial(_slow, policy.act)  # type: ignore[method-assign]
    times = rollout.latency(policy, n=6, warmup=2)
    assert len(times) == 6 and all(10 <= t < 200 for t in times)
    assert len(policy.windows) == 8 and policy.windows[0].shape == (1, 2, 2)
    assert len(run(latency_calls=7).latency_ms) == 7


def _slow(act: object, *args: object) -> object:
    time.sleep(0.01)
    return act(*args)  # type: ignore[operator]


def test_what_is_written_is_what_was_returned(tmp_path: Path) -> None:
    evaluation = run(Homing(skip=1), episodes=9, out=tmp_path, label="homing", latency_calls=3)
    [line_] = ledger.read(tmp_path / "ledger.jsonl")
    assert Evaluation.load(tmp_path / line_["results"]) == evaluation
    assert line_["episodes"] == 9 and line_["successes"] == evaluation.successes and line_["block"] == 4
    again = run(Homing(skip=1), episodes=9, out=tmp_path, label="homing")
    assert again.episodes == evaluation.episodes
    assert len({r["results"] for r in ledger.read(tmp_path / "ledger.jsonl")}) == 2


def test_videos_of_best_and_worst(tmp_path: Path) -> None:
    import av

    evaluation = run(Homing(skip=1), episodes=20, out=tmp_path, videos=2)
    assert [v["kind"] for v in evaluation.videos] == ["best", "best", "worst", "worst"] and not evaluation.notes
    ranked = sorted(evaluation.episodes, key=lambda e: e.rank)
    assert {v["index"] for v in evaluation.videos if v["kind"] == "worst"} == {e.index for e in ranked[:2]}
    assert not ranked[0].success and ranked[-1].success
    folder = tmp_path / next(ledger.read(tmp_path / "ledger.jsonl"))["results"]
    for v in evaluation.videos:
        with av.open(str(folder.parent / v["file"])) as container:
            pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
            assert container.streams.video[0].codec_context.name == "h264" and container.streams.video[0].average_rate == 10
        assert len(pictures) == evaluation.episodes[v["index"]].length + 1 and pictures[0].shape == (64, 96, 3)
    assert not list(tmp_path.rglob("*.new"))


def test_without_rendering_there_is_one_line_and_no_video(tmp_path: Path) -> None:
    evaluation = run(world=dark_line, out=tmp_path, videos=3)
    assert evaluation.videos == [] and evaluation.notes == [videos.NO_RENDERING]


def test_best_and_worst_never_share_an_episode() -> None:
    episodes = run(episodes=3).episodes
    for count in range(6):
        chosen = [e.index for _, e in videos.choose(episodes, count)]
        assert len(chosen) == len(set(chosen)) <= 3


def test_splitting_into_blocks() -> None:
    parts = blocks.split(np.arange(7), 3)
    assert [(first, list(s)) for first, s in parts] == [(0, [0, 1, 2]), (3, [3, 4, 5]), (6, [6])]
