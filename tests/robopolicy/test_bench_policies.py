"""The benchmark of policies in small: its bed is exact, its table fits the policies, its verdicts are as written, it resumes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policies import registry
from policies.checkpoint import save
from policies.spec import InputError
from robopolicy.bench import oracle_bed
from robopolicy.bench.few_steps import BASE, ONE, WAYS, Way, build, missing
from robopolicy.bench.few_steps_beds import Measured, OracleBed, TaskBed, metaworld, toys
from robopolicy.bench.few_steps_run import RESULTS, Outcome
from robopolicy.bench.harness import Row
from robopolicy.bench.oracle_bed import SPEC, WEIGHTS, Truth, ask, draw, mode_masses, wasserstein
from robopolicy.bench.policies import advantage, contest, figures, peer_at, works
from robopolicy.evaluation.statistics import wilson
from robopolicy.reporting.curves import Curve, Panel, Point, picture, section
from robopolicy.reporting.report import gather
from tests.policies.toy import stats_of

# ---- the bed


def test_distances_by_hand() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert wasserstein(square, square[::-1]) == 0.0
    assert wasserstein(square, square + [0.3, 0.4]) == pytest.approx(0.5)
    # the pairing matters: greedy pairs 0 with 1 and pays 3 for the rest, the best pays 1 and 1
    assert wasserstein(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [2.0, 0.0]])) == pytest.approx(1.0)


def test_exact_samples_are_those_of_the_mixture() -> None:
    observation = np.repeat([[0.4, -0.5]], 40_000, 0)
    samples = draw(observation, np.random.default_rng(3))
    centres = oracle_bed.means(observation[:1])[0]
    assert np.linalg.norm(centres, axis=1) == pytest.approx(np.full(4, 0.4))  # 0.5 - 0.2 / 2
    assert math.atan2(*centres[0][::-1]) == pytest.approx(0.1 * math.pi)  # 0.4 of 45 degrees
    np.testing.assert_allclose(mode_masses(observation[:1], samples[None])[0], WEIGHTS, atol=0.01)
    np.testing.assert_allclose(samples.mean(0), WEIGHTS @ centres, atol=0.01)
    nearest = np.linalg.norm(samples[:, None] - centres, axis=-1).argmin(1)
    assert (samples - centres[nearest]).std() == pytest.approx(oracle_bed.DEVIATION, rel=0.02)


def test_the_floor_falls_with_the_number_of_samples_and_a_shift_shows() -> None:
    few, many = (Truth.make(3, n).distances(Truth.make(3, n, seed=2).samples).mean() for n in (32, 512))
    assert 0 < many < 0.6 * few
    truth = Truth.make(3, 256)
    assert truth.distances(truth.samples).max() == 0.0
    assert truth.distances(truth.samples + [0.06, 0.08]) == pytest.approx(np.full(3, 0.1))
    lost = oracle_bed.means(truth.observations)[:, :1].repeat(256, 1)  # all in the first mode
    assert truth.mass_errors(lost) == pytest.approx(np.full(3, 1 - WEIGHTS[0]))


class Exact:
    """A policy that draws from the mixture; it counts how often it was asked."""

    n_obs_steps = 1

    def initial_state(self, batch: int) -> dict[str, Any]:
        return {"asked": torch.zeros(batch)}

    def act(self, obs: Any, state: dict[str, Any], noise: Any) -> tuple[Any, dict[str, Any]]:
        from policies.base import Plan

        seen = obs["observation.state"][:, 0].numpy().astype(float)
        actions = torch.tensor(draw(seen, np.random.default_rng(int(noise.keys[0]) % 1000)))[:, None]
        asked = state["asked"] + 1
        return Plan(actions, {"network_calls": asked}), {"asked": asked}


def test_an_exact_policy_is_at_the_floor_and_its_state_is_carried_on() -> None:
    truth = Truth.make(4, 256)
    samples, calls = ask(Exact(), truth, control_steps=3)
    floor = truth.distances(Truth.make(4, 256, seed=2).samples).mean()
    assert calls == 3.0 and truth.distances(samples).mean() == pytest.approx(floor, rel=0.35)
    assert truth.mass_errors(samples).mean() < 0.1


def test_the_data_hold_what_was_drawn(tmp_path: Path) -> None:
    from robopolicy.data.dataset import Dataset

    oracle_bed.write_samples(tmp_path / "set", 300)
    oracle_bed.write_samples(tmp_path / "set", 300)  # a whole set is left as it is
    data = Dataset.open(tmp_path / "set")
    seen, actions = np.asarray(data.field("observation.state")), np.asarray(data.field("action"))
    assert seen.shape == actions.shape == (300, 2) and np.abs(seen).max() <= 1
    away = np.linalg.norm(actions[:, None] - oracle_bed.means(seen), axis=-1).min(1)
    assert away.max() < 5 * oracle_bed.DEVIATION
    oracle_bed.write_samples(tmp_path / "set", 200)  # another size is made anew
    assert Dataset.open(tmp_path / "set").num_frames == 200


# ---- the table


def untrained(way: Way, folder: Path) -> Path:
    """Save the policy of ``way`` as it is before training, on the oracle bed's spec."""
    config = OracleBed("oracle", 1).base(way.policy, folder)["policy"]
    kind = registry.policy_class(way.policy)
    own = kind.Config(**{k: v for k, v in config.items() if k != "type"})
    seen = torch.rand(64, 1, 2) * 2 - 1
    batch = {"observation.state": seen, "action": torch.tensor(draw(seen[:, 0].numpy(), np.random.default_rng(0))).float()[:, None]}
    torch.manual_seed(0)
    policy = registry.create(way.policy, own, SPEC, kind.fit_normalizer(own, SPEC, stats_of(batch, SPEC), [batch]))
    return save(folder / "checkpoint", policy, recipe={}, extra={})


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.label)
def test_every_row_of_the_table_makes_the_calls_that_it_says(way: Way, tmp_path: Path) -> None:
    absent = missing()
    if way.label in absent:
        assert way.policy not in registry.policy_names() or way.teacher not in (None, *registry.policy_names()) or way.method
        return
    checkpoint = untrained(way, tmp_path)
    for calls in way.calls:
        samples, made = ask(build(checkpoint, way, calls), Truth.make(2, 4), control_steps=2)
        assert np.isfinite(samples).all() and (made <= calls if way.adaptive else made == calls)


def test_every_registered_policy_is_measured_or_missing() -> None:
    absent = missing()
    for name in registry.chunk_policy_names():
        assert name in absent or any(way.policy == name for way in WAYS)
    unknown = Way("new", "no-such-policy", ONE)
    assert "'no-such-policy' is not registered" in missing((unknown,))["new"]
    assert "'no-such-method' is not registered" in missing((Way("new", "flow", ONE, method="no-such-method"),))["new"]
    assert "without a row" in missing((unknown,))["flow"]
    assert len({way.label for way in WAYS}) == len(WAYS) and all(any(w.label == way.peer for w in WAYS) for way in WAYS)


def test_a_key_that_the_policy_does_not_know_is_one_line(tmp_path: Path) -> None:
    way = Way("wrong", "flow", {1: {"stepps": 1}})
    with pytest.raises(InputError, match=r"wrong at 1 calls: unknown key 'policy\.stepps'; did you mean 'steps'"):
        build(untrained(way, tmp_path), way, 1)


def test_ways_with_one_policy_share_a_checkpoint_and_students_name_their_teachers(tmp_path: Path) -> None:
    bed = toys(True)[0]
    ways = {way.label: way for way in WAYS}
    first, second = (bed.training(ways[label], tmp_path).output for label in (BASE, "DDPM"))
    assert first == second
    if "consistency" in registry.policy_names():
        alone, taught = (bed.training(ways[label], tmp_path) for label in ("consistency", "consistency, distilled"))
        assert alone.output != taught.output and taught.policy.teacher.startswith(first)  # type: ignore[attr-defined]
    assert bed.recipe("flow", {}, tmp_path).output != dataclasses.replace(bed, updates=7).recipe("flow", {}, tmp_path).output
    sizes = {name: b.recipe("flow", {}, tmp_path).policy.model_dump()["mlp"]["width"] for name, b in (("toy", toys(False)[1]), ("arm", metaworld(False)))}
    assert sizes == {"toy": 128, "arm": 256}


# ---- the verdicts

ROUTES = TaskBed("two-route", 1, title="Two routes", balanced=True)
MIXTURE = OracleBed("oracle", 1, title="Oracle", quantity="W1", better="lower")
PEER, MINE = Way(BASE, "diffusion", {}), Way("mine", "flow", {}, few_step=True)


def outcomes(successes: int, calls: float, left: float = 0.5, n: int = 200) -> Measured:
    return Measured(calls, [1.0] * successes + [0.0] * (n - successes), {"left share": left})


def verdict(bed: Any, peers: dict[int, Measured], mine: dict[int, Measured]) -> bool | None:
    return works(bed, Outcome({(bed.name, BASE): peers, (bed.name, "mine"): mine}, {}, {bed.name: []}), MINE, (PEER, MINE))


def test_a_method_works_if_it_is_above_at_few_calls_and_nowhere_below() -> None:
    peers = {1: outcomes(20, 1), 2: outcomes(100, 2), 4: outcomes(160, 4), 10: outcomes(199, 10)}
    assert verdict(ROUTES, peers, {1: outcomes(180, 1)}) is True
    assert verdict(ROUTES, peers, {1: outcomes(158, 1)}) is True  # as good in 1 as the peer in 4, up to chance
    assert verdict(ROUTES, peers, {1: outcomes(110, 1)}) is False  # above with 1 call, below with 4
    assert verdict(ROUTES, peers, {10: outcomes(200, 10)}) is None  # nothing at few calls
    assert verdict(ROUTES, {}, {1: outcomes(200, 1)}) is None  # nothing to compare with
    same = {n: outcomes(150, n) for n in (1, 2, 4)}
    assert verdict(ROUTES, same, same) is False and verdict(ROUTES, same, {4: outcomes(153, 4)}) is False


def test_one_route_alone_does_not_work() -> None:
    peers = {1: outcomes(20, 1), 4: outcomes(100, 4)}
    assert verdict(ROUTES, peers, {1: outcomes(200, 1, left=0.5)}) is True
    assert verdict(ROUTES, peers, {1: outcomes(200, 1, left=0.9)}) is False
    assert verdict(ROUTES, peers, {1: Measured(1, [1.0] * 200, {})}) is False


def test_distances_are_better_when_they_are_smaller() -> None:
    wave = 0.01 * np.sin(np.arange(16.0))
    peers = {4: Measured(4, (0.3 + wave).tolist(), {})}
    assert verdict(MIXTURE, peers, {1: Measured(1, (0.2 + 2 * wave).tolist(), {}), 2: Measured(2, (0.5 + wave).tolist(), {})}) is True
    assert verdict(MIXTURE, peers, {4: Measured(4, (0.4 + wave).tolist(), {})}) is False
    low, high = advantage(MIXTURE, (0.2 + 2 * wave).tolist(), (0.3 + wave).tolist())
    half = 2.131450 * wave.std(ddof=1) / 4  # t quantile with 15 degrees of freedom
    assert (low, high) == pytest.approx((0.1 - wave.mean() - half, 0.1 - wave.mean() + half), rel=1e-4)


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_paired_interval_holds_the_difference_and_swaps(a: int, b: int) -> None:
    first, second = outcomes(a, 1, n=50).values, outcomes(b, 1, n=50).values
    low, high = advantage(ROUTES, first, second)
    assert low - 1e-9 <= (a - b) / 50 <= high + 1e-9
    assert advantage(ROUTES, second, first) == pytest.approx((-high, -low), abs=1e-6)


def test_the_peer_never_has_fewer_calls() -> None:
    peers = {n: outcomes(1, n) for n in (1, 2, 4, 10)}
    assert [peer_at(peers, calls)[0] for calls in (1, 1.004, 2.5, 3, 9, 99)] == [1, 1, 4, 4, 10, 10]  # type: ignore[index]
    assert peer_at({}, 1) is None


def test_rows_hold_interval_peer_and_what_else_was_measured() -> None:
    outcome = Outcome({("two-route", BASE): {4: outcomes(0, 4)}, ("two-route", "mine"): {3: outcomes(150, 3, left=0.4)}}, {}, {})
    rows = {row.name: row for row in figures(ROUTES, outcome, (PEER, MINE))}
    low, high = wilson(150, 200)
    row = rows[f"Two routes: mine, 3 calls [{low:.3f}, {high:.3f}]"]
    assert (row.value, row.unit, row.peer, row.peer_value, row.ratio) == (0.75, "success", "DDIM, 4", 0.0, None)  # no ratio to nothing
    assert rows["Two routes: mine, 3 calls"].value == 0.4 and rows["Two routes: mine, 3 calls"].unit == "left share"
    assert Row("a", 1.0, "1", "b", 0.0, 2.0).reached is None


# ---- the plot

PANEL = Panel(
    "Two <routes>",
    "success",
    "higher",
    "how",
    [Curve("a & b", "flow", [Point(1, 0.2, 0.1, 0.3, {"left share": 0.5}), Point(10, 0.9, 0.8, 1.0)], True), Curve("c", "act", [Point(1, 0, 0, 0.1)])],
    missing=["d: <not> registered"],
)


def test_panels_are_read_back_and_bad_files_are_one_line(tmp_path: Path) -> None:
    assert Panel.load(PANEL.save(tmp_path)) == PANEL
    for text in ("[]", "{", '{"format": 9}', '{"format": 1, "curves": [{}]}'):
        (tmp_path / "curves.json").write_text(text)
        with pytest.raises(InputError, match=r"curves\.json") as caught:
            Panel.load(tmp_path / "curves.json")
        assert "\n" not in str(caught.value)


def test_the_plot_has_a_dot_for_every_point_and_a_box_for_every_policy() -> None:
    other = dataclasses.replace(PANEL, title="Mixture", quantity="W1", better="lower", floor=0.05)
    drawn = xml.etree.ElementTree.fromstring(f"<div>{section([PANEL, other])}</div>")
    tips = [e.text or "" for e in drawn.iter("title")]
    assert sum("calls: success" in tip for tip in tips) == 3 and sum("calls: W1" in tip for tip in tips) == 3
    assert "a & b, 1 calls: success 20.0% [10.0%, 30.0%]; left share 0.5" in tips and "two sets of exact samples" in tips
    boxes = [e.attrib["id"] for e in drawn.iter("input")]
    assert boxes == ["way0", "way1"] and all(f"#{box}:not(:checked)" in section([PANEL]) for box in boxes)
    assert len([e for e in drawn.iter("g") if e.attrib["class"] == "way0"]) == 2
    svg = xml.etree.ElementTree.fromstring(picture([PANEL, other]))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg" and len(list(svg.iter("{http://www.w3.org/2000/svg}circle"))) == 6


# ---- the whole, in small


def test_a_worker_ends_with_its_parent() -> None:
    child = "import os, sys, time; from robopolicy.bench.cells import end_with; end_with(int(sys.argv[1])); print(flush=True); time.sleep(60)"
    parent = (
        "import os, subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())], stdout=subprocess.PIPE)\n"
        "worker.stdout.readline()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    # standard error is held by the worker too: this returns when both have ended
    done = subprocess.run([sys.executable, "-c", parent], stderr=subprocess.PIPE, timeout=45, cwd=Path(__file__).parents[2])
    assert done.returncode == -9 and done.stderr == b""


@pytest.mark.parametrize("learnt", [False, True])
def test_workers_of_a_pool_end_with_their_parent_and_have_its_environment(learnt: bool, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from robopolicy.worker_processes import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    for turn in ('first', 'second'):\n"
        "        os.environ['TOLD'] = turn\n"
        f"        pool = worker_pool(2, {learnt})\n"
        "        assert list(pool.map(os.getenv, ['TOLD'] * 4)) == [turn] * 4\n"
        "    pool.submit(time.sleep, 60)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    # standard error is held by the workers and their server too: this returns when all have ended
    done = subprocess.run([sys.executable, str(script)], stderr=subprocess.PIPE, timeout=60, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert done.returncode == -9 and b"Traceback" not in done.stderr, done.stderr.decode()


def small_beds() -> tuple[OracleBed, TaskBed]:
    oracle, routes = toys(True)
    return dataclasses.replace(oracle, updates=2, observations=2, samples=8, frames=300), dataclasses.replace(routes, updates=2, demonstrations=2, episodes=3)


def test_a_contest_goes_on_where_it_stopped(tmp_path: Path) -> None:
    ways = (
        Way(BASE, "diffusion", {1: {"steps": 1}, 2: {"steps": 2}}, sample={"sampler": "ddim"}),
        Way("flow", "flow", {3: {"steps": 2}}, sample={"solver": "heun"}, few_step=True),
        Way("broken", "regression", {1: {"steps": 1}}),
        Way("absent", "no-such-policy", ONE, few_step=True),
    )
    first = contest(small_beds(), tmp_path, workers=1, progress=False, ways=ways)
    names = [row.name for row in first.rows]
    for start in ("Oracle mixture: two sets", "Oracle mixture: DDIM, 2 calls [", "Oracle mixture: flow, 3 calls [", "Two routes: DDIM, 1 call ["):
        assert any(name.startswith(start) for name in names), names
    assert sum("works (above DDIM" in name for name in names) == 2 and all(math.isfinite(row.value) for row in first.rows)
    said = "\n".join(first.missing)
    assert "absent: policy 'no-such-policy' is not registered" in said and "broken at 1 calls" in said and "unknown key 'policy.steps'" in said
    lines = (tmp_path / RESULTS).read_text().splitlines()
    assert len(lines) == 12  # on each of two beds: trainings of three policies, and three figures
    (tmp_path / RESULTS).write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:40])  # what a kill leaves
    again = contest(small_beds(), tmp_path, workers=0, progress=False, ways=ways)
    assert again.rows == first.rows
    assert [json.loads(line)["key"] for line in (tmp_path / RESULTS).read_text().splitlines() if line.endswith("}")] == [json.loads(v)["key"] for v in lines]
    found = gather(tmp_path)
    assert [panel.title for panel in found.panels] == ["Oracle mixture", "Two routes"] and not found.runs  # the plot stands for the runs
    page = (tmp_path / "report.html").read_text()
    assert "Success and distance against network calls" in page and "no-such-policy" in page and "<script" not in page
    xml.etree.ElementTree.parse(tmp_path / "few_steps.svg")
    shutil.rmtree(tmp_path / "two-route" / "runs")  # another training: nothing of the old is taken for its figures
    other = (small_beds()[0], dataclasses.replace(small_beds()[1], updates=3))
    assert len(contest(other, tmp_path, workers=0, progress=False, ways=ways[:1]).rows) > 0
    assert len((tmp_path / RESULTS).read_text().splitlines()) == 12 + 1 + 3  # the torn line, one training, two figures
