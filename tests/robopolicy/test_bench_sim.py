"""The simulation benchmark: what is counted, what is compared, and that a stopped run goes on where it was."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest

from robopolicy.bench import harness, sim, sim_speed
from robopolicy.bench.sim import Cell
from robopolicy.bench.sim_peers import ENVIRONMENTS, PEERS, against_peer
from robopolicy.bench.sim_speed import Side, against_raw, make_worlds, tree_cpu_s
from robopolicy.bench.sim_suites import pictures
from sim import registry
from tests.require import require


def test_the_best_block_counts() -> None:
    side = Side()
    side.add(100, 0.5, 0.25)
    side.add(100, 0.2, 0.4)
    assert (side.best, side.best_cpu) == (500.0, 400.0) and (side.wall_s, side.cpu_s, side.steps) == (0.7, 0.65, 200)
    assert Side.from_list(side.to_list()).best == 500.0
    coarse = Side()
    coarse.add(100, 0.5, 0.0, coarse=True)
    coarse.add(100, 0.5, 0.5, coarse=True)
    assert coarse.best_cpu == 400.0


def test_every_robot_and_peer_is_measured_or_named_as_missing() -> None:
    keys = [cell.key for cell in sim.cells(False)]
    assert len(keys) == len(set(keys))
    lines = sim.missing(False)
    for task in (*sim.ROBOTS, *sim.FULL):
        assert any(task in key for key in keys) or any(line.startswith(task) for line in lines), task
    for peer in PEERS:
        assert any(key.startswith(peer.name) for key in keys) or any(line.startswith(peer.name) for line in lines), peer.name
    targets = {cell.target for cell in sim.cells(False) if cell.peer == "mujoco.batch" and ", 64 worlds" in cell.title}
    assert targets == {0.9}
    assert {cell.target for cell in sim.cells(False) if cell.peer == "mujoco.batch" and ", 1 world," in cell.title} == {None}
    assert {cell.key for cell in sim.cells(True)} <= {*keys, *(cell.key for cell in sim.cells(True))} and len(list(sim.cells(True))) < len(keys) / 2


@pytest.mark.parametrize("task", ["gymnasium/half-cheetah", "classic/cartpole"])
def test_ours_and_the_library_step_the_same_states(task: str) -> None:
    ours, library = against_raw(task, 8, 1, 0.02)
    assert ours.steps == library.steps and ours.steps % 8 == 0
    assert ours.wall_s > 0 and library.cpu_s > 0


def test_worlds_that_are_measured_run_and_reset() -> None:
    env, actions = make_worlds("gymnasium/hopper", 4, 1)
    assert env.autoreset and actions.shape == (32, 4, 3) and np.abs(actions).max() <= 1.0
    ended = sum(int(env.step(actions[k % 32]).terminated.sum()) for k in range(60))
    assert ended > 0
    env.close()


def test_a_vector_of_environments_stands_beside_the_same_robot() -> None:
    peer = PEERS[0]
    ours, theirs = against_peer("gymnasium/half-cheetah", peer, 2, 0.02, rounds=2)
    assert ours.best > 0 and theirs.best > 0
    for task, (environment, options) in ENVIRONMENTS.items():
        vector = peer.make(environment, options, 1)
        assert vector.single_observation_space.shape == registry.make(task).spec.observation.fields["observation.state"].shape
        vector.close()


def _busy_for(cpu_s: float) -> None:
    while time.process_time() < cpu_s:
        sum(k * k for k in range(1000))


def test_processor_time_counts_this_process_and_children_that_end() -> None:
    child = multiprocessing.get_context("spawn").Process(target=_busy_for, args=(0.3,))
    seen = [tree_cpu_s()]
    child.start()
    while child.is_alive():  # on the way and beyond its end: what it used is never lost again
        seen.append(tree_cpu_s())
        time.sleep(0.01)
    child.join()
    sum(k * k for k in range(300_000))
    seen.append(tree_cpu_s())
    assert sorted(seen) == seen and seen[-1] - seen[0] > 0.3


def test_pictures_are_counted_with_the_steps_that_they_belong_to() -> None:
    require("egl")
    side = pictures("classic/cartpole", 32, 0.0)
    assert side.steps == 8 and side.best > 0


def test_a_stopped_run_goes_on_and_a_finished_one_begins_anew(tmp_path: Path) -> None:
    file, called = tmp_path / "rows.json", []

    def measure(name: str, fails: bool = False):
        def run(seconds: float) -> tuple[Side, Side | None]:
            called.append(name)
            if fails:
                raise KeyboardInterrupt
            return Side(10.0, 8.0, seconds, 1.0), Side(5.0, 8.0, seconds, 1.0)

        return run

    cells = [Cell(name, name, "peer", 1.5, measure(name)) for name in ("a", "b")]
    stopped = [cells[0], Cell("b", "b", "peer", 1.5, measure("b", fails=True))]
    with pytest.raises(KeyboardInterrupt):
        sim.measured_cells(stopped, 0.1, file, [])
    assert called == ["a", "b"] and list(json.loads(file.read_text())["cells"]) == ["a"]
    result = sim.measured_cells(cells, 0.1, file, ["nothing"])
    assert called == ["a", "b", "b"] and not file.exists() and result.missing == ["nothing"]
    row = result.rows[0]
    assert (row.ratio, row.reached, row.name, row.wall_s) == (2.0, True, "a", 0.1)
    assert result.rows[1].unit == "env-steps/CPU-s" and result.rows[1].ratio == 1.0
    sim.measured_cells(cells, 0.1, file, [])
    assert called[3:] == ["a", "b"]
    assert json.loads(json.dumps(harness.to_json("sim", result, {})))["rows"][0]["reached"] is True


@pytest.mark.parametrize("task", ["gymnasium/half-cheetah", "arm/reach"])
def test_what_is_replayed_is_what_the_worlds_did(task: str) -> None:
    from mujoco import batch

    env, actions = make_worlds(task, 3, 1)
    engine = env.engine  # type: ignore[attr-defined]
    calls = sim_speed._record(env, engine, actions, 4)
    assert len(calls) == 4 and "step" not in vars(engine) and "follow" not in vars(engine)
    raw, side = batch.Batch(engine.model, 3, nthread=1), Side()
    for call, after in zip(calls, [*calls[1:], None], strict=True):
        sim_speed._replay(raw, [call], 3, side)
        state = engine.save() if after is None else after.state
        np.testing.assert_array_equal(raw.bind("qpos"), state[:, 1 : 1 + engine.model.nq])
    assert side.steps == 12
    env.close()
