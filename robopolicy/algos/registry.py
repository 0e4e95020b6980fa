"""The update rules by name: ``robopolicy/algos/NAME.py`` is a rule if a class in it sets ``Config``. Listing them imports nothing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from policies.registry import scan
from policies.spec import InputError, suggest

if TYPE_CHECKING:
    from policies.config import Config
    from robopolicy.algos.rule import OffPolicyRule, OnPolicyRule

_FOLDER = Path(__file__).parent


def algo_names() -> tuple[str, ...]:
    """Return the names of all rules, sorted."""
    return tuple(scan(_FOLDER, "rules"))


def description(name: str) -> str:
    """Return one line about a rule. Raises InputError for an unknown name."""
    return _entry(name)[1]


def rule_class(name: str) -> type[OnPolicyRule] | type[OffPolicyRule]:
    """Return the class of a rule. Raises InputError for an unknown name."""
    kind = _entry(name)[0]  # first: an unknown name is never imported
    return getattr(importlib.import_module(f"robopolicy.algos.{name}"), kind)


def config_class(name: str) -> type[Config]:
    """Return the config model of a rule. Raises InputError for an unknown name."""
    return rule_class(name).Config


def _entry(name: str) -> tuple[str, str]:
    known = scan(_FOLDER, "rules")
    if name not in known:
        raise InputError(f"algo {name!r} is unknown{suggest(name, known)}")
    return known[name]
