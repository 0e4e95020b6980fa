"""A real learner and real actors in processes that are killed: the other goes on and says so, and nothing that was written is lost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.recipe import recipe_from_dict
from robopolicy.training.log import read_log
from tests.robopolicy.forked import context

PATIENCE_S = 90.0
SAC = {"type": "sac", "hidden": [16, 16], "activation": "relu"}


def recipe(output: Path, **changes: Any) -> Any:
    """Return one whose learner has so much to do that nobody is done before a test has looked: actors go 600 steps ahead, then at its pace."""
    training = {"steps": 2000, "worlds": 2, "random_steps": 200, "batch_size": 16, "update_ratio": 0.5, "checkpoint_every": 500, "log_every": 250}
    training |= {"threads": 1, **changes}
    values = {"task": "classic/cartpole", "seed": 5, "output": str(output), "algo": SAC, "policy": {"hidden": [16]}, "training": training}
    return recipe_from_dict(values, "test")


def _role(role: str, values: dict[str, Any], address: str, actors: int, said: str, announced: str) -> None:
    from robopolicy.training.actor_learner import Meeting, learn
    from robopolicy.training.actor_learner_actor import act

    with Path(said).open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        wanted, meeting = recipe_from_dict(values, "test"), Meeting(address, actors, lead=600)
        try:
            if role == "learner":
                learn(wanted, meeting, progress=False, announced=announced)
            else:
                act(wanted, meeting, int(role))
        except InputError as error:
            print(f"error: {error}", flush=True)
            os._exit(2)
    os._exit(0)


class Run:
    """A learner and actors of one run, to be killed."""

    def __init__(self, folder: Path, actors: int = 1, **changes: Any) -> None:
        self.recipe, self.actors, self.folder = recipe(folder / "run", **changes), actors, folder
        self.address, self.processes = "tcp://127.0.0.1:0", {}

    def start(self, role: str) -> None:
        announced = self.folder / "address"
        if role == "learner":
            announced.unlink(missing_ok=True)
        arguments = (role, self.recipe.to_dict(), self.address, self.actors, str(self.said(role)), str(announced))
        process: BaseProcess = context().Process(target=_role, args=arguments, daemon=True)
        process.start()
        self.processes[role] = process
        if role == "learner":
            self.until(announced.is_file, "the learner is bound")
            self.address = announced.read_text()

    def said(self, role: str) -> Path:
        return self.folder / f"{role}.txt"

    def lines(self, role: str) -> str:
        return self.said(role).read_text() if self.said(role).is_file() else ""

    def kill(self, role: str) -> float:
        """Kill with no chance to tidy up; returns the time."""
        os.kill(self.processes[role].pid, signal.SIGKILL)
        self.processes[role].join()
        return time.monotonic()

    def until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < end, f"did not happen: {what}\n" + "\n".join(f"{role}: {self.lines(role)}" for role in self.processes)
            time.sleep(0.02)

    def kept(self, actor: int = 0) -> int:
        """Control steps of an actor in the replay's files."""
        file = Path(self.recipe.output) / f"state/replay/actor-{actor:03d}/position.bin"
        return int(np.fromfile(file, np.int64)[1]) if file.is_file() and file.stat().st_size == 16 else 0

    def rows(self, actor: int = 0) -> np.ndarray:
        """What an actor's replay holds: (rows, worlds, numbers)."""
        folder, count = Path(self.recipe.output) / f"state/replay/actor-{actor:03d}", self.kept(actor)
        names = sorted(p.name for p in folder.glob("obs-*.bin"))
        parts = [np.fromfile(folder / name, np.float32) for name in (*names, "action.bin")]
        length = np.fromfile(folder / "reward.bin", np.float32).size // 2
        return np.concatenate([part.reshape(length, 2, -1)[:count] for part in parts], axis=2)

    def status(self, actor: int = 0) -> dict[str, Any]:
        file = Path(f"{self.recipe.output}-actors/{actor:03d}/status.json")
        return json.loads(file.read_text()) if file.is_file() else {}

    def finish(self, *roles: str) -> None:
        for role in roles:
            self.until(lambda: not self.processes[role].is_alive(), f"{role} ends")  # noqa: B023 (called at once)
            assert self.processes[role].exitcode == 0, self.lines(role)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()


def test_actor_and_learner_survive_each_others_death(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    run = Run(tmp_path)
    try:
        run.start("learner")
        run.start("0")
        run.until(lambda: run.kept() > 60, "the first steps are kept")
        began = run.kill("0")
        run.until(lambda: "actor 0 is silent" in run.lines("learner"), "the learner says that the actor is silent")
        record_property("learner_said_after_s", time.monotonic() - began)
        run.until(lambda: any("is silent" in row["text"] for row in read_log(Path(run.recipe.output), "actors")), "and logs it")
        assert run.processes["learner"].is_alive()
        before = run.kept()
        run.start("0")
        run.until(lambda: run.kept() > before + 60, "a new actor is taken in")
        kept, began = run.rows(), run.kill("learner")
        run.until(lambda: run.status().get("learner") == "silent", "the actor says that the learner is silent")
        record_property("actor_said_after_s", time.monotonic() - began)
        print(f"the actor said so after {time.monotonic() - began:.1f} s")
        assert "is silent for" in run.lines("0") and "collecting goes on, there is room for" in run.lines("0")
        run.until(lambda: run.status()["waiting"] > 200, "the actor goes on without the learner")
        run.start("learner")
        run.finish("learner", "0")
    finally:
        run.stop()
    rows = run.rows()
    assert np.array_equal(rows[: len(kept)], kept)  # what was acknowledged before the kill is there, as it was
    flat = rows.reshape(len(rows) * 2, -1)
    assert len(np.unique(flat, axis=0)) == len(flat)  # nothing came twice
    assert run.status()["control_steps"] == len(rows) >= 1000 and run.status()["learner"] == "done"  # and nothing is missing in between
    train = list(read_log(Path(run.recipe.output), "train"))
    assert train[-1]["env_steps"] == 2000 and train[-1]["updates"] == 900 and train[-1]["received"] >= 2000
    assert "is back" in run.lines("0")
    assert (Path(run.recipe.output) / "checkpoints/step_002000/manifest.json").is_file()


def test_two_actors_share_a_run_and_the_update_ratio_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, actors=2, steps=1200, normalize_observations=True)
    try:
        run.start("learner")
        learner = run.processes["learner"].pid
        assert learner is not None
        os.kill(learner, signal.SIGSTOP)  # until both actors are there: one alone could do it all
        run.start("0")
        run.start("1")
        run.until(lambda: all(Path(f"{run.recipe.output}-actors/{actor:03d}").is_dir() for actor in range(2)), "both actors look for the learner")
        os.kill(learner, signal.SIGCONT)
        run.finish("learner", "0", "1")
    finally:
        run.stop()
    # how much of it each does is the machine's affair
    assert run.kept(0) > 0 and run.kept(1) > 0 and 2 * (run.kept(0) + run.kept(1)) >= 1200
    last = list(read_log(Path(run.recipe.output), "train"))[-1]
    assert last["updates"] == 500 and last["episodes"] >= 0 and last["actors_taken"] == run.kept(0) + run.kept(1)
    for row in read_log(Path(run.recipe.output), "train"):
        assert row["env_steps"] <= row["received"] <= row["env_steps"] + 600 + 2 * 2 * 64


def test_recipes_that_cannot_be_shared_are_refused(tmp_path: Path) -> None:
    from robopolicy.training.actor_learner import require_asynchronous

    on_policy = recipe_from_dict({"task": "classic/cartpole", "algo": {"type": "ppo"}, "policy": {"type": "gaussian"}}, "test")
    with pytest.raises(InputError, match="choose an off-policy one"):
        require_asynchronous(on_policy)
    with pytest.raises(InputError, match="one process alone"):
        require_asynchronous(recipe(tmp_path, takeover={"source": "expert"}))
    with pytest.raises(InputError, match=r"training\.reward\.record works in one process alone"):
        require_asynchronous(recipe(tmp_path, reward={"sparse": True, "record": str(tmp_path / "kept")}))
