"""Recipes: YAML read into typed pydantic models, with ``key=value`` overrides; every mistake is one clear line.

A recipe is found by path first, then by the name of one that is installed (``imitation/quickstart``). Unknown key or
wrong type: the key, the file and the nearest valid name are named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from policies.spec import InputError, suggest

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Config(pydantic.BaseModel):
    """Base of every config model: unknown keys are errors, values are checked strictly when they are assigned."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True)


def recipe_folders() -> Iterator[Path]:
    """Yield the folders that hold recipes: the one inside the wheel, or ``configs/`` of a source tree."""
    here = Path(__file__).resolve().parent
    for folder in (here / "recipes", here.parent / "configs"):
        if folder.is_dir() and (folder.name == "recipes" or (here.parent / "pyproject.toml").is_file()):
            yield folder


def recipe_names() -> list[str]:
    """Return the names of the installed recipes, e.g. ``imitation/quickstart``."""
    return sorted({p.relative_to(folder).with_suffix("").as_posix() for folder in recipe_folders() for p in folder.rglob("*.yaml")})


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or installed name.

    Raises:
        InputError: if there is none; names the nearest.
    """
    path = Path(name)
    if path.is_file():
        return path
    wanted = name.removeprefix("configs/").removesuffix(".yaml")
    for folder in recipe_folders():
        file = folder / f"{wanted}.yaml"
        if file.is_file():
            return file
    raise InputError(f"recipe {name!r}: no such file and no installed recipe of that name{suggest(wanted, recipe_names())}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises InputError with file and line if it is not one."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(value).__name__}")
    return value


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``a.b=value`` items (YAML values) in a copy of ``values``; whether the keys exist is checked by the model.

    A scalar set over a mapping that has a ``type`` key sets that type (``policy=flow``).
    """
    out = _copy(values)
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise InputError(f"override {item!r}: expected key=value, e.g. training.steps=2000")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise InputError(f"override {item!r}: the value is not valid YAML") from error
        *parents, last = key.split(".")
        node = out
        for depth, parent in enumerate(parents):
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise InputError(f"override {item!r}: {'.'.join(parents[: depth + 1])} is a value ({child!r}), not a section")
            node = child
        if isinstance(node.get(last), dict) and "type" in node[last] and not isinstance(value, dict):
            node[last] = {**node[last], "type": value}
        else:
            node[last] = value
    return out


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def validate(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Build ``model`` from ``values``.

    Raises:
        InputError: one line for the first mistake: key, source, what was expected and found, nearest valid name.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(_first_mistake(model, error, source)) from None


def _first_mistake(model: type[pydantic.BaseModel], error: pydantic.ValidationError, source: str) -> str:
    mistakes = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = mistakes[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    if first["type"] == "extra_forbidden":
        valid = _valid_names(model, first["loc"][:-1])
        return f"{source}: unknown key {key!r}{suggest(str(first['loc'][-1]), valid)}{more}"
    if first["type"] == "missing":
        return f"{source}: key {key!r} is required and missing{more}"
    if first["type"] == "value_error":
        return f"{source}: {key + ': ' if key else ''}{first['ctx']['error']}{more}"
    shown = repr(first["input"])
    shown = shown if len(shown) < 60 else shown[:57] + "..."
    return f"{source}: key {key!r}: {first['msg'][:1].lower() + first['msg'][1:]}, found {shown} ({type(first['input']).__name__}){more}"


def _valid_names(model: type[pydantic.BaseModel], loc: Sequence[Any]) -> list[str]:
    """Return the field names of the model found by walking ``loc`` down from ``model``."""
    current: Any = model
    for part in loc:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            continue
        candidates = [fields[part].annotation, *getattr(fields[part].annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, pydantic.BaseModel)), current)
    return list(getattr(current, "model_fields", {}))
