"""Methods of execution by name: ``policies/realtime/NAME.py`` is one if a class in it sets ``Config``.

A method is chosen in one of two forms, the text of a command line and the mapping of a checkpoint's ``policy.yaml``:

>>> parse("rti:level=15,steps=3")
{'type': 'rti', 'level': 15, 'steps': 3}
>>> to_text({"type": "rti", "level": 15, "steps": 3})
'rti:level=15,steps=3'

The text ``none`` stands for no method, which is None in the other form. Listing and parsing import no method.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.registry import scan
from policies.spec import InputError, suggest

if TYPE_CHECKING:
    from policies.base import Policy
    from policies.config import Config
    from policies.learnt import LearntPolicy
    from policies.realtime.method import ExecutionMethod

#: The text for no method.
NONE = "none"
_FOLDER = Path(__file__).parent


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(scan(_FOLDER, "methods"))


def description(name: str) -> str:
    """Return one line about a method. Raises InputError for an unknown name."""
    return _entry(name)[1]


def method_class(name: str) -> type[ExecutionMethod]:
    """Return the class of a method. Raises InputError for an unknown name."""
    kind = _entry(name)[0]  # first: an unknown name is never imported
    return getattr(importlib.import_module(f"policies.realtime.{name}"), kind)


def parse(text: str) -> dict[str, Any] | None:
    """Return the mapping ``{type, key: value, ...}`` of ``NAME`` or ``NAME:KEY=VALUE,...``; None for ``none``.

    Raises:
        InputError: for an unknown name or a text of another form. Keys are checked by :func:`config_of`.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    if name == NONE and not rest:
        return None
    _entry(name)
    out: dict[str, Any] = {"type": name}
    for item in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        if not (key and equals and value) or key == "type":
            raise InputError(f"method {text!r}: expected NAME:KEY=VALUE,KEY=VALUE, found {item!r}")
        if key in out:
            raise InputError(f"method {text!r}: key {key!r} is given twice")
        out[key] = parse_value(value)
    return out


def to_text(described: Mapping[str, Any] | None) -> str:
    """Return the text for a mapping, without keys that are None; :func:`parse` inverts it."""
    if described is None:
        return NONE
    keys = ",".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in described.items() if k != "type" and v is not None)
    return f"{described['type']}:{keys}" if keys else str(described["type"])


def config_of(described: Mapping[str, Any]) -> Config:
    """Return the checked config of a mapping ``{type, key: value, ...}``.

    Raises:
        InputError: one line for an unknown name, an unknown key (with the nearest) or a value that cannot be.
    """
    import pydantic

    name = described.get("type")
    if not isinstance(name, str):
        raise InputError(f"method: expected a type, one of {', '.join(method_names())}, found {name!r}")
    model = method_class(name).Config
    given = {key: value for key, value in described.items() if key != "type"}
    for key in given:
        if key not in model.model_fields:
            raise InputError(f"method {name!r}: key {key!r} is unknown{suggest(str(key), model.model_fields)}")
    try:
        return model.model_validate(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = f"key {'.'.join(map(str, first['loc']))!r}: " if first["loc"] else ""
        found = f", found {first['input']!r}" if first["loc"] else ""
        raise InputError(f"method {name!r}: {where}{first['msg'].removeprefix('Value error, ')}{found}") from None


def describe(name: str, config: Config) -> dict[str, Any]:
    """Return the whole mapping ``{type, key: value, ...}`` of a method's config, JSON-ready."""
    return {"type": name, **config.model_dump(mode="json")}


def apply(described: Mapping[str, Any] | None, policy: LearntPolicy) -> Policy:
    """Return ``policy`` executed by the method of a mapping, in eval mode if it is; the policy itself for None.

    Raises:
        InputError: for a mapping that :func:`config_of` refuses, or a policy that the method cannot execute.
    """
    if described is None:
        return policy
    from policies.chunk import ChunkPolicy

    config = config_of(described)
    if not isinstance(policy, ChunkPolicy):
        raise InputError(f"method {described['type']!r}: expected a policy that predicts chunks, found {type(policy).__name__}")
    return method_class(described["type"])(config, policy).train(policy.training)


def _entry(name: str) -> tuple[str, str]:
    known = scan(_FOLDER, "methods")
    if name not in known:
        raise InputError(f"method {name!r} is unknown{suggest(name, (*known, NONE))}")
    return known[name]


def parse_value(text: str) -> Any:
    """Return a number, true, false or null as JSON has them, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
