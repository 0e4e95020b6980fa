"""The tasks by name: what exists, what each is tagged with, and how a batch of its worlds is made.

Listing imports no simulator. A suite is one module of ``sim/suites/`` with ``entries()``; a new one is added to
``SUITES`` and nothing else changes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from policies.spec import InputError, suggest
from sim.env import BatchEnv

#: Modules and packages of ``sim/suites/``.
SUITES = ("metaworld", "pusht", "two_route", "arm", "classic", "gymnasium", "locomotion", "quadrotor", "robotics", "dmcontrol", "ogbench", "aloha")

ObservationMode = Literal["state", "image", "state+image"]


@dataclass(frozen=True)
class Options:
    """What every suite is asked for when a batch of worlds is made; see :func:`make`."""

    num_worlds: int = 1
    observations: ObservationMode = "state"
    image_size: int = 96
    max_episode_steps: int | None = None
    autoreset: bool = False
    threads: int = 1
    engine: str = "mujoco"
    reward: str = ""  # the task's own
    randomize: Mapping[str, Any] | None = None

    @property
    def state(self) -> bool:
        """Whether the environment's state is observed."""
        return "state" in self.observations

    @property
    def images(self) -> bool:
        """Whether cameras are observed."""
        return "image" in self.observations


@dataclass(frozen=True)
class Entry:
    """One task.

    Attributes:
        name: e.g. ``metaworld/push``.
        description: One line for people.
        tags: Sets it belongs to, e.g. ``metaworld``, ``mt10``, ``camera``, ``expert``.
        rate_hz: Control steps per second.
        max_episode_steps: The task's own time limit, control steps.
        requires: Modules that must be importable.
        install: The command that brings them.
        factory: Makes the worlds: (name, options) -> BatchEnv.
        short: Name that stands for it where a name has no slash; empty: the last segment of ``name``.
        engines: That its worlds can be stepped by (``sim.engine.ENGINES``).
        rewards: Kinds of reward, the first by default.
        batched: Whether its worlds take ``threads`` and ``randomize``.
        success: When an episode counts as solved, one line for people; part of what the task is.
    """

    name: str
    description: str
    tags: tuple[str, ...]
    rate_hz: float
    max_episode_steps: int
    requires: tuple[str, ...]
    install: str
    factory: Callable[[str, Options], BatchEnv]
    short: str = ""
    engines: tuple[str, ...] = ("mujoco",)
    rewards: tuple[str, ...] = ("dense",)
    batched: bool = False
    success: str = ""

    @property
    def short_name(self) -> str:
        """The name without a slash."""
        return self.short or self.name.rpartition("/")[2]

    @property
    def has_expert(self) -> bool:
        """Whether ``expert_action`` works."""
        return "expert" in self.tags

    @property
    def missing(self) -> tuple[str, ...]:
        """Modules that this task needs and this environment lacks."""
        return tuple(module for module in self.requires if importlib.util.find_spec(module) is None)

    @property
    def installed(self) -> bool:
        """Whether everything that this task needs is installed."""
        return not self.missing


@functools.cache
def _entries() -> dict[str, Entry]:
    out: dict[str, Entry] = {}
    for suite in SUITES:
        for item in importlib.import_module(f"sim.suites.{suite}").entries():
            out[item.name] = item
    return out


def modules_entries(package: str) -> list[Entry]:
    """Return the entries of the classes in ``TASKS`` of every module of a suite that is a ``package`` (its dotted name)."""
    folder = importlib.import_module(package).__path__
    found = [importlib.import_module(f"{package}.{module.name}") for module in sorted(pkgutil.iter_modules(folder), key=lambda m: m.name)]
    return [task.entry() for module in found for task in getattr(module, "TASKS", ())]


def names(tag: str | None = None) -> list[str]:
    """Return the names of all tasks, or of those that carry ``tag``. Raises InputError for an unknown tag."""
    if tag is not None and tag not in tags():
        raise InputError(f"task tag {tag!r} does not exist{suggest(tag, tags())}")
    return [name for name, item in _entries().items() if tag is None or tag in item.tags]


def tags() -> list[str]:
    """Return every tag in use, sorted."""
    return sorted({tag for item in _entries().values() for tag in item.tags})


def resolve(name: str) -> str:
    """Return the registered name for ``name``: itself, or a unique short name, optionally with Meta-World's ``-v3``.

    Raises:
        InputError: if no task or more than one is meant; names the nearest.
    """
    wanted = name.strip().lower().replace("_", "-").removesuffix("-v3")
    if wanted in _entries():
        return wanted
    ends = [full for full, item in _entries().items() if item.short_name == wanted]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise InputError(f"task {name!r} could be any of {', '.join(ends)}: give the full name")
    known = [*_entries(), *(item.short_name for item in _entries().values())] if "/" not in wanted else _entries()
    raise InputError(f"task {name!r} does not exist{suggest(wanted, known)} (see: robopolicy list tasks)")


def entry(name: str) -> Entry:
    """Return the entry of a task given as in :func:`resolve`. Raises InputError."""
    return _entries()[resolve(name)]


def make(
    name: str,
    num_worlds: int = 1,
    observations: ObservationMode = "state",
    image_size: int = 96,
    max_episode_steps: int | None = None,
    autoreset: bool = False,
    threads: int = 1,
    engine: str = "mujoco",
    reward: str = "",
    randomize: Mapping[str, Any] | None = None,
) -> BatchEnv:
    """Make ``num_worlds`` worlds of a task.

    Args:
        name: As in :func:`resolve`.
        num_worlds: N.
        observations: ``state`` (robot and environment state), ``image`` (robot state and cameras) or ``state+image``.
        image_size: Height and width of observation images, px.
        max_episode_steps: Time limit in control steps; None: the task's own.
        autoreset: Whether an ended world begins anew by itself.
        threads: Of the physics; results do not depend on it.
        engine: One of ``sim.engine.ENGINES``.
        reward: One of the task's kinds of reward; empty: its first.
        randomize: What ``sim.randomize`` draws anew for every episode; None: nothing.

    Raises:
        InputError: one line, for an unknown task, a suite that is not installed, a bad option, or cameras on a machine
            that cannot render.
    """
    item = entry(name)
    if item.missing:
        raise InputError(f"task {item.name!r} needs {', '.join(item.missing)}, not installed here: run {item.install}")
    if observations not in get_args(ObservationMode):
        raise InputError(f"observations {observations!r} of task {item.name!r} is unknown{suggest(observations, get_args(ObservationMode))}")
    if image_size < 8:
        raise InputError(f"image_size of task {item.name!r}: expected at least 8 px, found {image_size}")
    if "image" in observations and "camera" not in item.tags:
        raise InputError(f"task {item.name!r} has no camera: use observations=state")
    if engine not in item.engines:
        raise InputError(f"engine {engine!r} of task {item.name!r}: expected one of {', '.join(item.engines)}{suggest(engine, item.engines)}")
    if reward and reward not in item.rewards:
        raise InputError(f"reward {reward!r} of task {item.name!r}: expected one of {', '.join(item.rewards)}{suggest(reward, item.rewards)}")
    for name, number in (("num_worlds", num_worlds), ("threads", threads), ("max_episode_steps", 1 if max_episode_steps is None else max_episode_steps)):
        if not isinstance(number, int | np.integer) or number < 1:
            raise InputError(f"{name} of task {item.name!r}: expected a whole number of at least 1, found {number!r}")
    if randomize and not item.batched:
        raise InputError(f"task {item.name!r} cannot be randomized: its worlds are not on an engine of sim.engine")
    options = Options(num_worlds, observations, image_size, max_episode_steps, autoreset, threads, engine, reward, randomize)
    return item.factory(item.name, options)
