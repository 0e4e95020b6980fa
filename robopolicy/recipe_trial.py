"""Recipes of learning by trial: a task, a policy, a rule, and the loop that the rule plugs into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic

from policies.spec import InputError
from robopolicy.algos import registry
from robopolicy.config import validate
from robopolicy.recipe import Experiment, PathPattern, typed_section
from robopolicy.training.off_policy_config import OffPolicyTraining
from robopolicy.training.on_policy_config import OnPolicyTraining

#: What each loop can be told, by the ``loop`` of a rule.
LOOPS: dict[str, type[pydantic.BaseModel]] = {"on_policy": OnPolicyTraining, "off_policy": OffPolicyTraining}


class TrialRecipe(Experiment):
    """One experiment of learning by trial."""

    output: PathPattern = "runs/{task}-{algo}-seed{seed}"
    algo: pydantic.SerializeAsAny[pydantic.BaseModel]
    training: pydantic.SerializeAsAny[pydantic.BaseModel]

    @pydantic.field_validator("algo", mode="before")
    @classmethod
    def _typed_algo(cls, value: Any) -> Any:
        return typed_section("algo", value)

    @pydantic.model_validator(mode="after")
    def _one_task(self) -> TrialRecipe:
        if self.env.condition is not None:
            raise ValueError("env.condition tells tasks apart, and learning by trial has one: leave it out")
        return self

    @property
    def algo_type(self) -> str:
        """Name of the rule: the module ``robopolicy/algos/NAME.py``."""
        return type(self.algo).__module__.rpartition(".")[2]

    @property
    def loop(self) -> str:
        """Name of the loop: a key of :data:`LOOPS`."""
        return registry.rule_class(self.algo_type).loop

    def places(self) -> dict[str, Any]:
        """See base class."""
        return {**super().places(), "algo": self.algo_type}

    def to_dict(self) -> dict[str, Any]:
        """See base class."""
        out = super().to_dict()
        out["algo"] = {"type": self.algo_type, **out["algo"]}
        return out


def with_policy(values: Mapping[str, Any], rule: Any) -> Any:
    """Return the section ``policy`` of ``values`` with what ``rule`` needs where it does not say: its type, and keys of it."""
    own = values.get("policy", {})
    if not isinstance(own, Mapping):
        return own
    return {"type": rule.policy_type, **(rule.policy_settings if own.get("type", rule.policy_type) == rule.policy_type else {}), **own}


def trial_recipe(values: Mapping[str, Any], source: str) -> TrialRecipe:
    """Build the recipe of ``values`` whose sections ``policy`` and ``algo`` are configs already; the rule says which loop checks ``training``.

    Raises:
        InputError: one line for the first mistake.
    """
    name = type(values["algo"]).__module__.rpartition(".")[2]
    rule = registry.rule_class(name)
    model, own = LOOPS[rule.loop], values.get("training", {})
    if not isinstance(own, Mapping):
        raise InputError(f"{source}: key 'training': expected a section of keys, found {own!r}")
    checked = validate(model, own, f"{source}: loop {rule.loop.replace('_', '-')!r}", "training.")
    _require_policy(rule, name, values["policy"], source)
    return validate(TrialRecipe, {**values, "training": checked}, source)


def _require_policy(rule: Any, name: str, policy: Any, source: str) -> None:
    """Refuse a policy that the rule cannot train. Raises InputError."""
    found = type(policy).__module__.rpartition(".")[2]
    if found != rule.policy_type:
        raise InputError(f"{source}: key 'policy.type': algo {name!r} trains {rule.policy_type!r}, found {found!r}")
    memory = getattr(getattr(policy, "memory", None), "type", "none")
    if rule.loop == "off_policy" and memory != "none":
        raise InputError(f"{source}: key 'policy.memory.type': algo {name!r} learns from single steps, not from sequences: expected 'none', found {memory!r}")
    for key, needed in rule.policy_settings.items():
        if getattr(policy, key) != needed:
            raise InputError(f"{source}: key 'policy.{key}': algo {name!r} needs {needed!r}, found {getattr(policy, key)!r}")


def switched_training(values: Mapping[str, Any], old: str, new: str) -> tuple[Any, list[str]]:
    """Return the section ``training`` of a file for rule ``old`` as rule ``new`` can take it, and the keys that its loop does not have."""
    own, before, after = values.get("training"), LOOPS[registry.rule_class(old).loop], LOOPS[registry.rule_class(new).loop]
    if before is after or not isinstance(own, Mapping):
        return own, []
    unknown = [key for key in own if key in before.model_fields and key not in after.model_fields]
    return {key: value for key, value in own.items() if key not in unknown}, unknown
