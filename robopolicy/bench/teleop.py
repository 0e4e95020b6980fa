"""Teleoperation through the browser page, end to end: ten demonstrations, a policy of them, takeovers, a better policy.

A program at the page (:mod:`robopolicy.bench.teleop_person`) reaches with the simulated arm through everything that a person's
hands would go through: browser, page, device, jog, safety filter, drive, twin, recorder. Nothing else tells the policies what to do.
Every part that is done in the folder is read back, so a benchmark that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError
from robopolicy.bench.harness import Result, Row
from robopolicy.bench.teleop_person import Person
from robopolicy.evaluation.records import Evaluation, compare_evaluations
from robopolicy.evaluation.seeds import REPORT
from robopolicy.processes import Background, end

TASK = "arm/reach"
_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE_S = 120.0  # for a process to be ready
_EPISODE_S = 150.0  # that an episode may take, on a slow machine
_MAX_STEPS = 2000  # 100 s: a person may take longer than the task's expert, all the more on a busy machine
_SPEED = 0.5  # of the world: a browser without a graphics card draws on the cores that twin, drive, run and recorder need
_HELP_SEED = 1000  # of the first episode in which a policy is helped


def run(quick: bool, folder: Path | None = None, steps: int | None = None) -> Result:
    """Collect, train, help and train again.

    Args:
        quick: Three demonstrations, two helped episodes, short trainings.
        folder: For data sets, runs and what was measured; None: ``runs/bench-teleop``.
        steps: Of each training; None: 2000, quick 300.

    Raises:
        InputError: if there is no browser, or a part fails; one line.
    """
    folder = folder or Path("runs/bench-teleop" + ("-quick" if quick else ""))
    folder.mkdir(parents=True, exist_ok=True)
    demonstrations, helped, states, steps = (3, 2, 20, steps or 300) if quick else (10, 20, 100, steps or 2000)
    shown = kept(folder / "shown.json", lambda: session(folder, "demonstrations", demonstrations))
    first = policy(folder, "first", ["demonstrations"], steps, states)
    taken = kept(folder / "helped.json", lambda: session(folder, "takeovers", helped, folder / "first"))
    second = policy(folder, "second", ["demonstrations", "takeovers"], steps, states)
    paired = compare_evaluations(second, first)
    name = f"of {demonstrations} demonstrations"
    rows = [
        Row("demonstrations collected through the page", shown["successes"], "episodes", target=demonstrations, wall_s=shown["seconds"]),
        Row("a demonstration, world's time", shown["median_s"], "s"),
        Row("browser there and back, median", shown["latency_ms"], "ms", better="lower"),
        Row("age of what the robot follows, median", 1e3 * shown["age_s"], "ms", better="lower"),
        Row("age of what the robot follows, p99", 1e3 * shown["age_p99_s"], "ms", better="lower", target=200),
        Row(f"success {name}", 100 * first.success_rate, "%"),
        Row(f"episodes with a takeover, of {helped}", taken["taken_episodes"], "episodes"),
        Row("steps by hand in them", 100 * taken["taken_share"], "%"),
        Row("success after training on both", 100 * second.success_rate, "%", "before", 100 * first.success_rate, target=None if quick else 1.0),
    ]
    notes = [
        f"success on {states} report states: {first.successes} {name}, {second.successes} after {helped} helped episodes; "
        f"better on {paired.first_only}, worse on {paired.second_only}, p = {paired.p_value:.2g}",
        f"task {TASK}: the browser is Chromium without a screen, its gamepad a program's; the last demonstration is shown with the keyboard",
    ]
    return Result(rows, [], notes)


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what ``file`` holds; if it is not there, what ``make`` returns, which then is."""
    if not file.is_file():
        found = make()
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
    return json.loads(file.read_text(encoding="utf-8"))


def session(folder: Path, name: str, episodes: int, policy: Path | None = None, stale_s: float = 0.2) -> dict[str, Any]:
    """Teleoperate until the data set ``name`` holds so many episodes, and return what there is to say of it.

    Args:
        folder: Of the benchmark.
        name: Of the data set.
        episodes: That it shall hold.
        policy: Run whose policy acts until it is taken over; None: the person alone acts.
        stale_s: Age of the browser's input from which the robot holds.

    Raises:
        InputError: if a process fails or an episode does not end.
    """
    have = episodes_in(folder / name)
    began, ages, latencies = time.monotonic(), [], []
    if have < episodes:
        seed0 = (0 if policy is None else _HELP_SEED) + have
        world = ["twin", TASK, "--seed0", str(seed0), "--max-steps", str(_MAX_STEPS), "--speed", str(_SPEED)]
        with tempfile.TemporaryDirectory(prefix="robopolicy-") as room, Background(world, Path(room), "twin") as twin:
            robot = ["robot=twin", f"robot.address={twin.address()}", "robot.connect_s=60", "robot.timeout_s=10"]
            acting = "none" if policy is None else str(policy)
            # The rate of a machine that also draws a browser's page is no reason not to begin: what it costs is in the rows
            given = [
                *robot,
                f"policy={acting}",
                f"record={folder / name}",
                f"episodes={episodes - have}",
                f"seconds={_PATIENCE_S + (episodes - have) * _EPISODE_S:g}",
                "preflight=false",
                "device=page",
                f"device.stale_s={stale_s:g}",
                "device.port=0",
            ]
            given += ["jog.dead_zone=0", "jog.expo=0", "reach the green ball"]  # the program's hand does not shake
            ages, latencies = _at_the_page(folder, name, given, episodes - have, policy is not None)
    out = about(folder / name)
    if out["episodes"] < episodes:
        raise InputError(f"teleoperation ended with {out['episodes']} of {episodes} episodes: {folder / name}.log")
    quantiles = (float(np.median(ages)), float(np.quantile(ages, 0.99)), float(np.median(latencies))) if ages else (0.0, 0.0, 0.0)
    return {**out, "seconds": time.monotonic() - began, "age_s": quantiles[0], "age_p99_s": quantiles[1], "latency_ms": quantiles[2]}


def _at_the_page(folder: Path, name: str, given: list[str], episodes: int, helps: bool) -> tuple[list[float], list[float]]:
    """Start teleoperation and be its person; returns ages, s, and latencies, ms. Raises InputError."""
    announced, log = folder / f"{name}.url", folder / f"{name}.log"
    announced.unlink(missing_ok=True)
    command = [sys.executable, "-m", "robopolicy", "teleop", *given, f"device.announce={announced}", f"drive_options.state_dir={folder / 'state'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment)
    try:
        until = time.monotonic() + _PATIENCE_S
        while not announced.is_file():
            if process.poll() is not None or time.monotonic() > until:
                raise InputError(f"teleoperation did not begin: {_last(log)} (all of it: {log})")
            time.sleep(0.05)
        until = time.monotonic() + _PATIENCE_S + episodes * _EPISODE_S
        with Person(announced.read_text()) as person:
            over = lambda: process.poll() is not None or time.monotonic() > until  # noqa: E731
            (person.help if helps else person.show)(over, episodes)
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                raise InputError(f"teleoperation does not end: {_last(log)} (all of it: {log})") from None
            if code:
                raise InputError(f"teleoperation failed with exit code {code}: {_last(log)} (all of it: {log})")
            return person.ages, person.latencies
    finally:
        if process.poll() is None:
            end(process)


def _last(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def episodes_in(path: Path) -> int:
    """Return how many episodes the data set at ``path`` has; 0: there is none."""
    from robopolicy.data import layout

    return int(layout.read_info(path)["total_episodes"]) if layout.is_dataset(path) else 0


def about(path: Path) -> dict[str, Any]:
    """Return episodes, successes, the median length in s of an episode, and how much of it was by hand."""
    from robopolicy.data.dataset import Dataset

    if not episodes_in(path):
        return {"episodes": 0, "successes": 0, "median_s": 0.0, "taken_share": 0.0, "taken_episodes": 0}
    data = Dataset.open(path)
    taken = data.field("takeover").reshape(-1).astype(bool)
    by_episode = [taken[start:stop] for start, stop in zip(data.episode_starts[:-1], data.episode_starts[1:], strict=True)]
    return {
        "episodes": data.num_episodes,
        "successes": int((data.success == 1).sum()),
        "median_s": float(np.median([len(one) for one in by_episode])) / data.fps,
        "taken_share": float(taken.mean()),
        "taken_episodes": sum(bool(one.any()) for one in by_episode),
    }


def policy(folder: Path, name: str, sets: list[str], steps: int, states: int) -> Evaluation:
    """Train a policy on data sets of ``folder`` and return its evaluation on so many report states; what is there already is not done again."""
    from robopolicy.evaluation.rollout import evaluate
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    demonstrations, *helped = [folder / one for one in sets]
    only = "".join(f",{{path: {one}, only_takeovers: true, only_success: true}}" for one in helped)  # what the policy did before it was helped is no example
    given = [f"data=[{demonstrations}{only}]", f"output={folder / name}", f"training.steps={steps}", "policy.mlp.width=128"]
    given += ["policy.horizon=24", "policy.n_action_steps=16"]  # long plans: of so few demonstrations the present velocity explains too much
    found = sorted((folder / f"{name}-evaluation").rglob("evaluation.json"))
    if found:
        return Evaluation.load(found[-1])
    recipe = load_recipe("imitation/arm_goal", given, note=lambda text: None)
    train(recipe)
    return evaluate(str(checkpoint(folder, name)), TASK, episodes=states, seed0=int(REPORT), out=folder / f"{name}-evaluation", label=name, videos=0)


def checkpoint(folder: Path, name: str) -> Path:
    """Return the last checkpoint of the policy ``name``. Raises InputError if there is none."""
    from robopolicy.training.run_folder import find_checkpoint

    return find_checkpoint(folder / name)
