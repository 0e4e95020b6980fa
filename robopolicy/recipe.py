"""Recipes: what is trained, how, and how it is judged. Imitation is here; learning by trial is in ``recipe_trial``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from policies.config import Config
from policies.spec import InputError
from robopolicy.conditioning import ConditionConfig, balance_exponent, completed, task_set
from robopolicy.config import apply_overrides, find_recipe, read_yaml, validate
from robopolicy.data.goals import GoalsConfig
from robopolicy.evaluation.seeds import SIZE

PositiveInt = pydantic.PositiveInt
Note = Callable[[str], None]
_PLACES = ("task", "policy", "algo", "seed")
#: Sections whose ``type`` says which model checks their other keys, with an example each.
TYPED = {"policy": "policy: {type: flow}", "algo": "algo: {type: ppo}"}


def world_options(env: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's section ``env`` as options of ``sim.registry.make``, without those that older worlds do not know and nobody has set."""
    unset = {"randomize": (None, {}), "engine": ("mujoco",), "threads": (1,), "reward": ("",), "condition": (None,)}
    return {key: value for key, value in env.items() if value not in unset.get(key, ())}


def _check_places(text: str) -> str:
    """Return ``text``, with the home folder for ``~/``, if nothing but ``_PLACES`` stands in its braces; raises ValueError otherwise."""
    try:
        text.format(**dict.fromkeys(_PLACES, ""))
    except (KeyError, IndexError, ValueError, AttributeError):
        raise ValueError(f"{text!r}: only {', '.join('{' + name + '}' for name in _PLACES)} can stand in braces") from None
    return str(Path(text).expanduser()) if text.startswith("~/") else text


PathPattern = Annotated[str, pydantic.AfterValidator(_check_places)]


class SetConfig(Config):
    """One of several data sets."""

    path: PathPattern
    weight: pydantic.PositiveFloat = 1.0  # how often its windows come in an epoch
    only_takeovers: bool = False  # imitate only what a person did who took over (HG-DAgger), not what the policy did before
    only_success: bool = False  # leave out episodes that are not known to have succeeded
    episodes: PositiveInt | None = None  # the first N episodes; None: all


class DataConfig(Config):
    """Where the demonstrations are, and how to make them when they are not there yet. A list in its place is ``sets``, a path is ``path``."""

    path: PathPattern = "data/{task}"  # {task} is the task's name with / as -
    episodes: PositiveInt | None = None  # use the first N episodes; None: all
    collect: PositiveInt | None = None  # collect this many with the scripted expert when the path does not exist
    kind: str | None = None  # collect those of a kind that the suite publishes in place of the expert's: play, navigate, stitch (OGBench)
    goals: GoalsConfig | None = None  # fill a goal field by hindsight, see robopolicy/data/goals.py; None: as recorded
    workers: PositiveInt = 2  # processes that collect
    cache: str | None = None  # folder for the memory-mapped arrays; None: inside the data set, or the user's cache folder if read-only
    #: Of one policy for several tasks: how often each comes, in proportion to (its windows)^this; tasks: 0, frames: 1, {alpha: x}: x.
    balance: Annotated[float, Field(ge=0, le=1), pydantic.BeforeValidator(balance_exponent)] = 0.0
    sets: list[SetConfig] | None = None  # several data sets in the place of path, e.g. data=[demos,{path: takeovers, only_takeovers: true}]

    @pydantic.model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if isinstance(value, dict) and isinstance(value.get("sets"), list):
            value = {**value, "sets": [{"path": one} if isinstance(one, str) else one for one in value["sets"]]}
        return {"sets": [{"path": one} if isinstance(one, str) else one for one in value]} if isinstance(value, list) else value

    @pydantic.model_validator(mode="after")
    def _one_or_several(self) -> DataConfig:
        if self.sets is not None and not self.sets:
            raise ValueError("expected at least one data set, found an empty list")
        asked = [key for key in ("path", "episodes", "collect", "kind") if getattr(self, key) != type(self).model_fields[key].default]
        if self.sets is not None and asked:
            raise ValueError(f"{asked[0]} is of one data set; of several each has its own path and episodes")
        return self


class EnvConfig(Config):
    """What the simulated worlds are like and what they show."""

    observations: Literal["state", "image", "state+image"] = "state"
    image_size: PositiveInt = 96  # px, height and width
    max_episode_steps: PositiveInt | None = None  # None: the task's own
    randomize: dict[str, Any] | None = None  # what differs from episode to episode, see sim/randomize_config.py
    engine: Literal["mujoco", "warp", "bullet"] = "mujoco"  # what steps the physics, see sim/engine.py
    threads: PositiveInt = 1  # of the physics; results do not depend on it
    reward: str = ""  # one of the task's kinds; empty: its first
    condition: ConditionConfig | None = None  # one policy for several tasks: how the one that is wanted is observed

    @pydantic.field_validator("randomize")
    @classmethod
    def _known(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            from sim.randomize_config import read_config

            try:
                read_config(value, "")
            except InputError as error:
                raise ValueError(str(error).removeprefix(": ")) from None
        return value

    def options(self) -> dict[str, Any]:
        """Return the options of ``sim.registry.make``, see :func:`world_options`."""
        return world_options(self.model_dump())


class OptimizerConfig(Config):
    """AdamW with linear warm-up and cosine decay to zero (Diffusion Policy's schedule)."""

    lr: pydantic.PositiveFloat = 1e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.95, 0.999)
    weight_decay: pydantic.NonNegativeFloat = 1e-6
    warmup_steps: pydantic.NonNegativeInt = 500
    gradient_clip: pydantic.PositiveFloat | None = 1.0  # global norm


class EmaConfig(Config):
    """Exponential moving average of the weights: decay_t = clip(1 - (1 + t / inv_gamma)^-power, 0, max), t = step - 1."""

    enabled: bool = True
    power: pydantic.PositiveFloat = 0.75
    inv_gamma: pydantic.PositiveFloat = 1.0
    max_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999


class TrainingConfig(Config):
    """The loop: how long, how much at once, what is written when."""

    steps: PositiveInt = 5000
    batch_size: PositiveInt = 256  # total over all processes
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"  # auto: bf16 on a GPU that has it; bf16 by name also on processors that multiply in it
    threads: PositiveInt | None = 1  # torch threads a process; None: all cores
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000
    keep_checkpoints: PositiveInt = 5
    evaluate_every: pydantic.NonNegativeInt = 0  # 0: never during training
    compile: bool = False  # torch.compile


class EvaluationConfig(Config):
    """How success is measured; see the design's section on evaluation."""

    episodes: PositiveInt = 50
    block: PositiveInt = 50  # B: episode i runs in row i mod B of block i div B
    workers: PositiveInt = 1
    threads: PositiveInt = 1  # torch threads a worker
    seed: Annotated[int, Field(ge=0, lt=SIZE)] = 0  # offset inside the selection or the report seeds, and the key of the policy's noise
    videos: pydantic.NonNegativeInt = 0  # of the best and of the worst episodes, each


class Experiment(Config):
    """What every recipe has: a task, a policy, and how it is judged."""

    task: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    output: PathPattern = "runs/{task}-{policy}-seed{seed}"
    init: str | None = None  # checkpoint to begin with
    env: EnvConfig = EnvConfig()
    policy: pydantic.SerializeAsAny[pydantic.BaseModel]
    evaluation: EvaluationConfig = EvaluationConfig()
    _name: str = pydantic.PrivateAttr("")  # for tables; what a run is does not depend on it

    @property
    def name(self) -> str:
        """What the recipe was found by, e.g. ``imitation/pusht``; empty for one that was not read from a file of its own."""
        return self._name

    def __eq__(self, other: object) -> bool:
        """Whether two recipes say the same; what they were found by does not count."""
        return isinstance(other, Experiment) and type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    @pydantic.field_validator("policy", mode="before")
    @classmethod
    def _typed_policy(cls, value: Any) -> Any:
        return typed_section("policy", value)

    @property
    def policy_type(self) -> str:
        """Name of the policy: the module ``policies/NAME.py``."""
        return type(self.policy).__module__.rpartition(".")[2]

    def places(self) -> dict[str, Any]:
        """Return what stands for the words in braces of a path."""
        return {"task": self.task.replace("/", "-"), "policy": self.policy_type, "algo": "imitation", "seed": self.seed}

    def filled(self, text: str) -> str:
        """Replace ``{task}``, ``{policy}``, ``{algo}`` and ``{seed}`` in a path."""
        return text.format(**self.places())

    def to_dict(self) -> dict[str, Any]:
        """Return a YAML-ready mapping from which the same recipe is built again."""
        out = self.model_dump(mode="json")
        out["policy"] = {"type": self.policy_type, **out["policy"]}
        return out


class Recipe(Experiment):
    """One imitation experiment."""

    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @pydantic.model_validator(mode="after")
    def _of_its_tasks(self) -> Recipe:
        if self.env.condition is not None:
            self.env.condition = completed(self.env.condition, self.task)
        for key, given in (("sets", self.data.sets), ("goals", self.data.goals)):
            if given is not None and (self.env.condition is not None or task_set(self.task)):
                raise ValueError(f"data.{key} is for one task; of several tasks each has the set data.path, {{task}} in it being its name")
        return self


def typed_section(section: str, value: Any) -> Any:
    """Return the config of a section with a ``type`` (see :data:`TYPED`); a config is returned as it is. Raises ValueError or InputError."""
    if isinstance(value, pydantic.BaseModel):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ValueError(f"expected a section with a 'type', e.g. {TYPED[section]}")
    return _config_of(section, value["type"], "recipe").model_validate({k: v for k, v in value.items() if k != "type"})


def _config_of(section: str, name: str, source: str) -> type[pydantic.BaseModel]:
    """Return the config model of the policy or the algorithm ``name``. Raises InputError for an unknown one."""
    known: Any = importlib.import_module({"policy": "policies.registry", "algo": "robopolicy.algos.registry"}[section])
    try:
        known.description(name)  # refuses an unknown name
    except InputError as error:
        raise InputError(f"{source}: key '{section}.type': {error}") from None
    return known.config_class(name)


def print_note(text: str) -> None:
    """Print one line to standard error."""
    print(f"note: {text}", file=sys.stderr)


def recipe_from_dict(values: Mapping[str, Any], source: str) -> Any:
    """Build a :class:`Recipe`, or the ``TrialRecipe`` of ``values`` that name an ``algo``. Raises InputError.

    Mistakes inside ``policy`` and ``algo`` name their own keys.
    """
    values = _typed("algo", values, source)
    if "algo" in values:
        from robopolicy.algos.registry import rule_class
        from robopolicy.recipe_trial import with_policy

        values = {**values, "policy": with_policy(values, rule_class(type(values["algo"]).__module__.rpartition(".")[2]))}
    values = _typed("policy", values, source)
    if "algo" in values:
        from robopolicy.recipe_trial import trial_recipe

        return trial_recipe(values, source)
    return validate(Recipe, values, source)


def _typed(section: str, values: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Return ``values`` with a section that has a ``type`` (see :data:`TYPED`) checked by the model of that type. Raises InputError."""
    own, example = values.get(section), TYPED[section]
    if own is None:
        return values
    if not isinstance(own, Mapping):
        raise InputError(f"{source}: key '{section}': expected a section of keys with a type, found {own!r}; e.g. {example}")
    name = own.get("type")
    if not isinstance(name, str):
        raise InputError(f"{source}: key '{section}.type' is required: a name, e.g. {example}")
    model = _config_of(section, name, source)
    checked = validate(model, {k: v for k, v in own.items() if k != "type"}, f"{source}: {section} {name!r}", f"{section}.")
    return {**values, section: checked}


def load_recipe(name: str, overrides: Sequence[str] = (), note: Note = print_note) -> Any:
    """Read a recipe by path or installed name and apply ``key=value`` overrides; see :func:`recipe_from_dict` for what is returned.

    ``policy=NAME`` changes the type of the policy: keys of the file that both types have are kept, those that only the
    old one has are dropped, and ``note`` is told which.

    Raises:
        InputError: one line; it names the override where the mistake is in one, else the file.
    """
    path: Path = find_recipe(name)
    values = _typed_by_rule(read_yaml(path), overrides)
    wanted = apply_overrides(values, overrides)
    try:
        for section in TYPED:
            wanted = _switch_type(section, values, wanted, overrides, str(path), note)
        recipe = recipe_from_dict(wanted, str(path))
    except InputError as error:
        named = re.search(r"key '([^']+)'", str(error))
        at_fault = [item for item in overrides if named and f"{named[1]}.".startswith(f"{_key(item)}.")]
        if at_fault:
            raise InputError(f"override {max(reversed(at_fault), key=lambda item: len(_key(item)))!r} of {error}") from None
        raise
    recipe.task = _full_task_name(recipe.task)
    recipe._name = "" if path.name == "recipe.yaml" else "/".join(path.with_suffix("").parts[-2:])
    return recipe


def _typed_by_rule(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` with the type of a policy that its rule implies, where an override ``policy=NAME`` is to replace that type."""
    algo, own = values.get("algo"), values.get("policy", {})
    if not any(_key(item) == "policy" for item in overrides) or not (isinstance(algo, dict) and isinstance(own, dict)) or "type" in own:
        return values
    from robopolicy.algos import registry

    rule = algo.get("type")
    return {**values, "policy": {"type": registry.rule_class(rule).policy_type, **own}} if rule in registry.algo_names() else values


def _full_task_name(task: str) -> str:
    """Return the registered name of a simulated task given by its last part; other tasks (of a robot) as they are."""
    from sim.registry import resolve

    try:
        return resolve(task)
    except InputError:
        return task


def _switch_type(section: str, values: Mapping[str, Any], wanted: dict[str, Any], overrides: Sequence[str], source: str, note: Note) -> dict[str, Any]:
    """Drop the keys of the file's ``section`` that its wanted type cannot have; overrides are never dropped."""
    old, new = values.get(section), wanted.get(section)
    if not (isinstance(old, dict) and isinstance(new, dict) and isinstance(old.get("type"), str) and isinstance(new.get("type"), str)):
        return wanted
    if old["type"] == new["type"] or any(_key(item) == section and isinstance(_value(item), dict) for item in overrides):
        return wanted
    old_model, new_model = _config_of(section, old["type"], source), _config_of(section, new["type"], source)
    asked = {_key(item).split(".")[1] for item in overrides if _key(item).startswith(f"{section}.")}
    dropped, unfit = [], []
    for key, value in old.items():
        if key == "type" or key in asked or key not in old_model.model_fields:
            continue  # a key that neither type knows is reported as the mistake it is
        if key not in new_model.model_fields:
            dropped.append(key)
        elif _fits(old_model, key, value) and not _fits(new_model, key, value):
            unfit.append(key)
    if dropped:
        note(f"{section} {new['type']!r} has no {', '.join(dropped)} (set for {old['type']!r} in the recipe): not used")
    if unfit:
        what = ", ".join(f"{k}={old[k]!r}" for k in unfit)
        note(f"{section} {new['type']!r} cannot take the recipe's {what} (set for {old['type']!r}): its own default is used")
    if section == "algo":
        wanted = _switch_loop(values, wanted, overrides, (old["type"], new["type"]), note)
    return {**wanted, section: {k: v for k, v in new.items() if k not in dropped + unfit}}


def _switch_loop(values: Mapping[str, Any], wanted: dict[str, Any], overrides: Sequence[str], rules: tuple[str, str], note: Note) -> dict[str, Any]:
    """Drop what the file says of training and the loop of the wanted rule does not know; overrides are never dropped."""
    from robopolicy.recipe_trial import switched_training

    _, unknown = switched_training(values, *rules)
    asked = {_key(item).split(".")[1] for item in overrides if _key(item).startswith("training.")}
    dropped = [key for key in unknown if key not in asked]
    if not dropped:
        return wanted
    note(f"algo {rules[1]!r} trains in another loop, which has no {', '.join(dropped)} (set for {rules[0]!r} in the recipe): not used")
    return {**wanted, "training": {key: value for key, value in wanted["training"].items() if key not in dropped}}


def _key(item: str) -> str:
    return item.partition("=")[0].strip()


def _value(item: str) -> Any:
    return apply_overrides({}, [f"value={item.partition('=')[2]}"])["value"]


def _fits(model: type[pydantic.BaseModel], key: str, value: Any) -> bool:
    """Whether ``model`` accepts ``value`` for ``key``, whatever it says about other keys."""
    try:
        model.model_validate({key: value})
    except pydantic.ValidationError as error:
        return not any(mistake["loc"][:1] == (key,) for mistake in error.errors())
    return True


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return ``{"training.steps": 5000, ...}`` for a nested mapping."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            out.update(flatten(value, f"{prefix}{key}."))
        else:
            out[prefix + key] = value
    return out
