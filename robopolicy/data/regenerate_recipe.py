"""Recipes of data (``configs/data/NAME.yaml``): which tasks, how many demonstrations of each, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from policies.config import Config
from policies.spec import InputError, suggest
from robopolicy.config import apply_overrides, find_recipe, read_yaml, recipe_names, validate
from robopolicy.evaluation.seeds import SIZE

FOLDER = "data"  # of the recipes


class RecoveryConfig(Config):
    """Recovery demonstrations, see ``robopolicy.data.disturb``."""

    chance: Annotated[float, pydantic.Field(ge=0, le=1)]  # that an episode is disturbed
    steps: pydantic.PositiveInt | None = None  # longest stretch; None: a quarter of a second
    within: pydantic.PositiveInt | None = None  # it begins in these first steps; None: as many as the expert takes
    size: pydantic.PositiveFloat = 1.0  # share of the action range
    marked: bool = False  # keep disturbed frames, in a column of their own


class Settings(Config):
    """How the demonstrations of one task are made; every key as the option of ``robopolicy collect`` of that name."""

    episodes: pydantic.PositiveInt = 50
    seed: Annotated[int, pydantic.Field(ge=0, lt=SIZE)] = 0  # first; a demonstration's seed is never one for choosing or reporting
    observations: Literal["state", "image", "state+image"] | None = None  # None: what the expert sees
    image_size: Annotated[int, pydantic.Field(ge=8)] | None = None  # px
    noise: pydantic.NonNegativeFloat = 0.0
    recovery: RecoveryConfig | None = None
    only_success: bool | None = None  # None: yes, unless there is a least return
    extra_steps: pydantic.NonNegativeInt | None = None
    max_episode_steps: pydantic.PositiveInt | None = None
    randomize: dict[str, Any] | None = None
    engine: Literal["mujoco", "warp", "bullet"] = "mujoco"
    reward: str = ""
    expert: str | None = None  # checkpoint or run that demonstrates, {task} in it is the task's name; None: the scripted expert
    act: Literal["mean", "sample"] | None = None
    min_return: float | None = None

    @pydantic.field_validator("recovery", mode="before")
    @classmethod
    def _chance_alone(cls, value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"chance": value} if value else None
        return value


class SetSettings(Config):
    """How much there is of a data set that a suite's own generator makes."""

    episodes: pydantic.PositiveInt | None = None  # None: as many as published
    frames: pydantic.PositiveInt | None = None  # of an episode; None: as published


class DataRecipe(Settings):
    """A suite's demonstrations. Settings are those of every task; ``tasks`` as a mapping changes them for one."""

    tag: str | None = None  # the tasks that carry it and have an expert
    tasks: dict[str, dict[str, Any]] = pydantic.Field(default_factory=dict)  # or these: a list, or a name with the settings that differ
    sets: dict[str, SetSettings] = pydantic.Field(default_factory=dict)  # of a suite's own generator (OGBench), a list or a mapping as tasks
    output: str = "data/{name}"  # {name} is the recipe's
    merge: bool = False  # also one data set of all tasks

    @pydantic.field_validator("tasks", "sets", mode="before")
    @classmethod
    def _list_of_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, Sequence):
            return {str(name): {} for name in value}
        return {name: own or {} for name, own in value.items()} if isinstance(value, Mapping) else value

    @pydantic.field_validator("output")
    @classmethod
    def _place(cls, value: str) -> str:
        try:
            value.format(name="")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError(f"{value!r}: only {{name}} can stand in braces") from None
        return value


@dataclass(frozen=True)
class Plan:
    """A recipe with every name resolved.

    Attributes:
        name: Of the recipe.
        root: Folder that gets one data set a task.
        tasks: Registered name -> settings, in the order in which they are collected.
        sets: Name of a data set of a suite's own generator -> how much of it; after the tasks.
        merge: Whether all are also written as one data set.
    """

    name: str
    root: Path
    tasks: Mapping[str, Settings]
    sets: Mapping[str, SetSettings]
    merge: bool

    def identity(self) -> dict[str, Any]:
        """Return what decides the contents, JSON-ready: a folder that was begun with another is refused.

        A checkpoint that demonstrates is identified by its hash, which each data set keeps; where it lies decides nothing.
        """
        tasks = {task: settings.model_dump(mode="json", exclude={"expert"}) for task, settings in self.tasks.items()}
        return tasks | {name: settings.model_dump(mode="json") for name, settings in self.sets.items()}


def data_recipes() -> list[str]:
    """Return the names of the installed recipes of data, without their folder."""
    return [name.removeprefix(f"{FOLDER}/") for name in recipe_names() if name.startswith(f"{FOLDER}/")]


def load_plan(name: str, overrides: Sequence[str] = (), out: Path | None = None, merge: bool | None = None) -> Plan:
    """Read a recipe by path or by name (``mt10``) with ``key=value`` overrides.

    Raises:
        InputError: one line: an unknown recipe, key, task or tag (naming the nearest), a wrong type, or no task at all.
    """
    path = _find(name)
    recipe = validate(DataRecipe, apply_overrides(read_yaml(path), overrides), str(path))
    shared = {key: value for key, value in recipe.model_dump(exclude_unset=True).items() if key in Settings.model_fields}
    tasks = {}
    for task, own in _tasks(recipe, str(path)).items():
        settings = validate(Settings, {**shared, **own}, str(path), f"tasks.{task}.")
        if settings.expert is not None:
            settings.expert = settings.expert.replace("{task}", task.replace("/", "-"))
        tasks[task] = settings
    root = out or Path(recipe.output.format(name=path.stem))
    return Plan(path.stem, root, tasks, _sets(recipe, str(path)), recipe.merge if merge is None else merge)


def _find(name: str) -> Path:
    if name.endswith(".yaml") or "/" in name:
        return find_recipe(name)
    known = data_recipes()
    if name not in known:
        raise InputError(f"recipe of data {name!r}: no file configs/{FOLDER}/{name}.yaml{suggest(name, known)}; one task is collected without --all")
    return find_recipe(f"{FOLDER}/{name}")


def _tasks(recipe: DataRecipe, source: str) -> dict[str, dict[str, Any]]:
    """Return the registered name of every task and what it says of itself. Raises InputError."""
    from sim import registry

    if not recipe.tag and not recipe.tasks and not recipe.sets:
        raise InputError(f"{source}: expected tag, tasks or sets, found none of them")
    own = {}
    for name, settings in recipe.tasks.items():
        try:
            own[registry.resolve(name)] = settings
        except InputError as error:
            raise InputError(f"{source}: key 'tasks': {error}") from None
    if not recipe.tag:
        return own
    try:
        tagged = registry.names(recipe.tag)
    except InputError as error:
        raise InputError(f"{source}: key 'tag': {error}") from None
    can = [task for task in tagged if registry.entry(task).has_expert or recipe.expert or own.get(task, {}).get("expert")]
    if not can:
        raise InputError(f"{source}: no task with tag {recipe.tag!r} has an expert; name a checkpoint with expert=runs/{{task}}-...")
    return {**{task: own.get(task, {}) for task in can}, **own}


def _sets(recipe: DataRecipe, source: str) -> dict[str, SetSettings]:
    """Return the data sets of a suite's own generator. Raises InputError."""
    if not recipe.sets:
        return {}
    from robopolicy.data.ogbench import find

    for name in recipe.sets:
        try:
            find(name)
        except InputError as error:
            raise InputError(f"{source}: key 'sets': {error}") from None
    return dict(recipe.sets)
