"""A checkpoint drives the arm's twin in real time, over ROS 2 or over ZeroMQ: driver, drive and runtime as a robot would have them."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from policies.spec import InputError

TASK = "arm/reach"
TRANSPORTS = ("ROS 2", "ZeroMQ")
_SMALL = ("data.collect=8", "training.steps=200", "training.checkpoint_every=200")
_DOMAINS = range(1, 100)  # whose ports are below those that a kernel gives out


def checkpoint(folder: Path, small: bool = False) -> Path:
    """Return the checkpoint in ``folder``, trained there if it is not: a minute of one core; ``small``: seconds, and it reaches little.

    Raises:
        InputError: if ``folder`` holds another run.
    """
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    given = [f"data.path={folder}/data/{{task}}", f"output={folder}/run", *(_SMALL if small else ())]
    return train(load_recipe("imitation/arm_reach", given, note=lambda text: None)).checkpoint


@contextmanager
def free_domain() -> Iterator[int]:
    """Keep a ROS domain that no other benchmark of this machine uses: an abstract socket says that it is taken."""
    for k in range(len(_DOMAINS)):
        number = _DOMAINS[(7 * os.getpid() + 31 * k) % len(_DOMAINS)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind(f"\0robopolicy-test-domain-{number}")
            except OSError:
                continue
            yield number
            return
    raise InputError("every ROS domain from 1 to 99 is taken on this machine")


def drive(policy: str, transport: str, *, seed0: int, episodes: int | None = None, seconds: float | None = None) -> dict[str, Any]:
    """Run the whole stack in real time; returns the runtime's summary and, under ``world``, the twin's own records.

    Args:
        policy: Folder of the checkpoint; it runs in this process.
        transport: One of ``TRANSPORTS``.
        seed0: Seed of the first episode.
        episodes: After how many it ends.
        seconds: After how long it ends, where episodes do not say.
    """
    from robopolicy.deployment import RunConfig
    from robopolicy.deployment import run as run_robot
    from robopolicy.processes import Background

    with ExitStack() as stack:
        domain = stack.enter_context(free_domain())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robopolicy-bench-", ignore_cleanup_errors=True)))
        words = ["twin", TASK, "--seed0", str(seed0), "--json", str(place / "world.json")]
        words += ["--episodes", str(episodes)] if episodes else []
        words += ["--ros2", "--domain", str(domain)] if transport == "ROS 2" else []
        with Background(words, place, "twin") as twin:
            address = twin.address()
            over_ros = {"type": "ros2", "domain": domain, "spec": policy, "connect_s": 20.0}
            robot = over_ros if transport == "ROS 2" else {"type": "twin", "address": address}
            options: dict[str, Any] = {"drive_options": {"state_dir": str(place / "state")}, "preflight": False}
            config = RunConfig(robot=robot, policy=policy, episodes=episodes, seconds=seconds, **options)
            summary = run_robot(config, _patience(episodes, seconds)).to_dict()
        return {**summary, "world": json.loads((place / "world.json").read_text(encoding="utf-8"))}


def _patience(episodes: int | None, seconds: float | None) -> Any:
    """Return what ends a run that does not: the time that all its episodes could take, and a minute."""
    until = time.monotonic() + 60.0 + (seconds or 0.0) + 8.0 * (episodes or 0)
    return lambda: time.monotonic() > until


def latency(policy: str, transport: str, seconds: float, seed0: int) -> dict[str, Any]:
    """Return how long commands took after the sensor values that they answer, and what was on time."""
    found = drive(policy, transport, seed0=seed0, seconds=seconds)
    counted = found["drive"]
    if not counted:
        raise InputError(f"{transport}: the run ended early: {found['ended']}")
    return {
        "reaction_ms": counted["reaction_ms"],
        "lateness_ms": counted["lateness_ms"],
        "commands": counted["commands"],
        "missed_ticks": counted["missed_ticks"],
        "rate_held": found["rate_held"],
        "ended": found["ended"],
        "twin": found["world"].get("ros", {}),
    }


def episodes(policy: str, transport: str, seed0: int, count: int) -> dict[str, Any]:
    """Return seed -> success of ``count`` episodes, as the world itself saw them."""
    found = drive(policy, transport, seed0=seed0, episodes=count)
    records = {record["seed"]: record for record in found["world"]["episodes"]}
    if sorted(records) != list(range(seed0, seed0 + count)):
        raise InputError(f"{transport}: expected episodes {seed0} to {seed0 + count - 1}, found {sorted(records)}; the run: {found['ended']}")
    return {
        "success": {str(seed): bool(record["success"]) for seed, record in records.items()},
        "length": {str(seed): int(record["length"]) for seed, record in records.items()},
        "rate_held": found["rate_held"],
        "late_chunks": found["late_chunks"],
        "interventions": found.get("interventions", {}),
    }


def cameras(seconds: float) -> dict[str, Any]:
    """Return what became of two cameras' pictures (``robopolicy.bench.ros_cameras``)."""
    from robopolicy.bench.ros_cameras import stream

    with free_domain() as domain:
        return stream(seconds, domain)
