"""On a Ray cluster of this machine: the same bits as here, a worker that dies costs one more try, and nothing is left behind."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.cluster import Cluster, WorkerDied, opened, split_engine
from robopolicy.data.collect import collect
from robopolicy.evaluation.rollout import evaluate
from robopolicy.evaluation.workers import WorkerCrash
from robopolicy.sweep import cells_of, run_sweep
from sim.env import BatchEnv
from tests.require import require
from tests.robopolicy.small_runs import demonstrations, recipe

ROOT = Path(__file__).parents[2]
MARK = "ROBOPOLICY_TEST_CLUSTER"  # in the environment of what a test starts


@pytest.fixture(scope="module", autouse=True)
def marked() -> Iterator[None]:
    os.environ[MARK] = str(os.getpid())
    yield
    del os.environ[MARK]


def ray_processes() -> set[int]:
    """Processes of a cluster that this process, or a child of it, started: not those of tests beside this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command, environment = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            if b"robopolicy-ray-" in command and f"{MARK}={os.getpid()}".encode() in environment.split(b"\0"):
                found.add(int(entry.name))
    return found


def gone(before: set[int]) -> bool:
    """Whether there is soon no process more than ``before``."""
    end = time.monotonic() + 60
    while not ray_processes() <= before and time.monotonic() < end:
        time.sleep(0.1)
    return ray_processes() <= before


@pytest.fixture(scope="module")
def cluster(marked: None) -> Iterator[Cluster]:
    require("ray")
    before = ray_processes()
    with opened(2) as made:
        assert ray_processes() > before
        yield made
    assert gone(before)  # nothing is left behind
    assert not (Path(os.environ["HOME"]) / ".ray").exists()  # no token, no statistics


def doubled() -> Callable[[int], tuple[int, int]]:
    return lambda item: (os.getpid(), 2 * item)


def mortal(folder: str, deaths: int) -> Callable[[int], int]:
    def work(item: int) -> int:
        died = len(list(Path(folder).iterdir()))
        if item == 1 and died < deaths:
            (Path(folder) / str(died)).touch()
            os.kill(os.getpid(), 9)
        return item

    return work


def deadly() -> Callable[[int], int]:
    def work(item: int) -> int:
        if item % 3 == 1:
            os.kill(os.getpid(), 9)
        return item

    return work


def failing(kind: str) -> Callable[[int], int]:
    def work(item: int) -> int:
        raise InputError("bad input") if kind == "input" else ValueError("broken")

    return work


def test_items_are_worked_off_by_several_processes(cluster: Cluster) -> None:
    found = dict(cluster.each(doubled, range(6)))
    assert {index: value for index, (_, value) in found.items()} == {i: 2 * i for i in range(6)}
    assert os.getpid() not in {process for process, _ in found.values()}


def test_a_worker_that_dies_is_replaced_once(cluster: Cluster, tmp_path: Path) -> None:
    assert sorted(cluster.each(functools.partial(mortal, str(tmp_path), 1), range(3))) == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(WorkerDied, match="died twice") as error:
        list(cluster.each(functools.partial(mortal, str(tmp_path), 9), [1]))
    assert "\n" not in str(error.value)


def test_an_item_that_kills_its_workers_can_cost_the_others_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A cell of a sweep that ran out of memory, or raised what nobody expected, ended the whole sweep."""
    found = dict(cluster.each(functools.partial(mortal, str(tmp_path), 9), range(4), failed=str))
    assert {index: value for index, value in found.items() if index != 1} == {0: 0, 2: 2, 3: 3} and "died twice" in found[1]
    found = dict(cluster.each(functools.partial(failing, "other"), [0, 1], failed=str))
    assert sorted(found) == [0, 1] and all("ValueError: broken" in value for value in found.values())


def test_what_waits_behind_an_item_that_kills_its_worker_is_not_blamed(cluster: Cluster) -> None:
    """Nor what came before it, whose answer is lost with the worker now and then."""
    with cluster.pool(deadly, 1) as pool:
        tasks = [pool.submit(item) for item in range(5)]
        for task in [*tasks[2:], *tasks[:2]]:
            if task.item % 3 == 1:
                with pytest.raises(WorkerDied, match=rf"died twice .* over {task.item}"):
                    pool.result(task)
            else:
                assert pool.result(task) == task.item
        assert pool.result(pool.submit(11)) == 11


def test_what_a_worker_says_arrives_in_one_line(cluster: Cluster) -> None:
    with pytest.raises(InputError, match=r"^bad input$"):
        list(cluster.each(functools.partial(failing, "input"), [0]))
    with pytest.raises(WorkerDied, match=r"failed over 0: ValueError: broken \(test_cluster.py:"):
        list(cluster.each(functools.partial(failing, "other"), [0]))


def test_evaluation_has_the_same_bits(cluster: Cluster, tmp_path: Path) -> None:
    from robopolicy.training.imitation import train

    trained = train(recipe(tmp_path / "run", steps=10, checkpoint_every=10), progress=False)
    settings = {"episodes": 7, "block": 3, "env": {"max_episode_steps": 40}, "latency_calls": 0, "progress": False}
    here = evaluate(str(trained.checkpoint), "two-route", **settings)
    there = evaluate(str(trained.checkpoint), "two-route", cluster=cluster, **settings)
    assert there.episodes == here.episodes and len(here.episodes) == 7
    with pytest.raises(WorkerCrash, match=r"failed over [012]: RuntimeError: no such world"):  # whichever block is first
        evaluate("expert", _broken_on_reset, cluster=cluster, **{**settings, "env": None})


def _broken_on_reset(num_worlds: int) -> BatchEnv:
    from sim.registry import make

    env = make("two-route", num_worlds)
    if num_worlds > 1:
        raise RuntimeError("no such world")
    return env


def test_collected_demonstrations_are_the_same(cluster: Cluster, tmp_path: Path) -> None:
    collect("two-route", tmp_path / "there", episodes=3, workers=2, progress=False, cluster=cluster)
    collect("two-route", tmp_path / "here", episodes=3, workers=1, progress=False)
    from robopolicy.data.dataset import Dataset

    there, here = (Dataset.open(tmp_path / name, str(tmp_path / f"cache-{name}"), False) for name in ("there", "here"))
    assert there.num_episodes == here.num_episodes == 3
    for name in (*here.spec.observation.state_names, "action"):
        assert np.array_equal(there.field(name), here.field(name))


def test_a_sweep_runs_there_and_a_cell_that_fails_costs_the_other_nothing(cluster: Cluster, tmp_path: Path) -> None:
    items = ["seed=0,1", "training.steps=3", "training.checkpoint_every=3", f"data.path={demonstrations()}", "data.episodes=4", "data.collect=10"]
    first = cells_of("quickstart", items)[0]
    blocked = tmp_path / "runs" / first.name
    blocked.mkdir(parents=True)
    (blocked / "something.txt").touch()
    found = run_sweep(cells_of("quickstart", items), tmp_path, progress=False, cluster=cluster)
    assert [row["steps"] for row in found.rows] == [3] and len(found.failed) == 1 and "something.txt" in found.failed[0][1]


def test_engines_are_named_by_words_between_commas() -> None:
    assert split_engine(None) == (None, False) and split_engine("bullet") == ("bullet", False)
    assert split_engine("ray") == (None, True) and split_engine("bullet,ray") == split_engine("ray, bullet") == ("bullet", True)
    for wrong in ("bullet,warp", "ray,ray", "ray,", ""):
        with pytest.raises(InputError, match="expected what steps the worlds"):
            split_engine(wrong)


def test_without_ray_one_line_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no ray')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "robopolicy", "eval", "expert", "--task", "two-route", "-n", "1", "--engine", "ray", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "", done.stderr
    assert done.stderr.strip().splitlines() == ["error: --engine ray needs Ray, which is not installed: pip install 'robopolicy[ray]'"]


def test_the_command_starts_a_cluster_and_says_nothing_of_it(tmp_path: Path) -> None:
    require("ray")
    before = ray_processes()
    command = [sys.executable, "-m", "robopolicy", "eval", "expert", "--task", "two-route", "-n", "3", "--block", "2", "--engine", "ray", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    (found,) = json.loads(done.stdout)["evaluations"]
    assert len(found["episodes"]) == 3
    assert gone(before)


def test_without_ray_no_folder_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("robopolicy.cluster.tempfile.mkdtemp", lambda *args, **how: made.append("a folder") or str(ROOT))
    with pytest.raises(InputError, match="not installed"), opened(1):
        pass
    assert not made
