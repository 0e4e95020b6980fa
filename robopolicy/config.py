"""Recipes: YAML read into typed pydantic models, with ``key=value`` overrides; every mistake is one clear line.

A recipe is found by path first, then by the name of one that is installed (``imitation/quickstart``, or its last part
alone). Unknown key or wrong type: the key, the file and the nearest valid name are named.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from policies.spec import InputError, suggest

Model = TypeVar("Model", bound=pydantic.BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML as people write it (the 1.2 core schema): ``1e-4`` is a number, ``no`` and ``on`` are words, keys are unique.

    PyYAML follows version 1.1, where ``1e-4`` is a string, ``no`` is false, ``1:30`` is 90 and a key given twice is
    silently the last one.
    """

    yaml_implicit_resolvers: typing.ClassVar[dict[str | None, list[Any]]] = {}  # type: ignore[misc]

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _core_schema() -> Iterator[tuple[str, str, str]]:
    """Yield (tag, pattern, first characters) of the YAML 1.2 core schema, section 10.3.2."""
    yield "null", r"^(?:~|null|Null|NULL|)$", "~nN\0"
    yield "bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"
    yield "int", r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$", "-+0123456789"
    yield "float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+.0123456789"


for _tag, _pattern, _first in _core_schema():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), [*_first.rstrip("\0"), *([""] if "\0" in _first else [])])


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 16) if node.value.startswith("0x") else int(node.value)  # 010 is ten, not eight


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever version 1.1 or 1.2 would read as anything but a string."""

    yaml_implicit_resolvers: typing.ClassVar[dict[str | None, list[Any]]] = {  # type: ignore[misc]
        first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }


def dump_yaml(value: Any) -> str:
    """Return YAML from which :func:`parse_yaml` makes the same value again; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def parse_yaml(text: str) -> Any:
    """Return the value of YAML ``text`` (1.2 core schema). Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


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
    """Return the file of a recipe given by path, by installed name or by the last part of one installed name.

    Raises:
        InputError: if there is none; names the nearest. Or if several installed recipes end in that part.
    """
    path = Path(name)
    if path.is_file():
        return path
    wanted = name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    names = recipe_names()
    # recipes of data have the names of what is trained on them: they are meant by their whole name alone
    found = [n for n in names if n == wanted] or [n for n in names if n.rpartition("/")[2] == wanted and not n.startswith("data/")]
    if len(found) > 1:
        raise InputError(f"recipe {name!r} is the name of {len(found)} recipes: {', '.join(found)}")
    for folder in recipe_folders():
        for one in found:
            if (folder / f"{one}.yaml").is_file():
                return folder / f"{one}.yaml"
    last_parts = [] if "/" in wanted else [n.rpartition("/")[2] for n in names]
    hint = suggest(wanted, last_parts or names)
    raise InputError(f"recipe {name!r}: no such file and no installed recipe of that name{hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises InputError with file and line if it is not one."""
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_line(error)}: not valid YAML: {_problem(error)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {'nothing' if value is None else type(value).__name__}")
    return value


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" line {mark.line + 1}" if mark else ""


def _problem(error: yaml.YAMLError) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``a.b=value`` items (YAML values; nothing after the sign is null) in a copy of ``values``.

    A scalar set over a mapping that has a ``type`` key sets that type (``policy=flow``). Whether the keys exist is
    checked by the model that the result is validated with.

    Raises:
        InputError: if an item has no ``=``, its value is not YAML, or it goes through a key that holds a value.
    """
    out = _copy(values)
    for item in overrides:
        key, sign, text = item.partition("=")
        *parents, last = key.strip().split(".")
        if not sign or not all([*parents, last]):
            raise InputError(f"override {item!r}: expected key=value, e.g. training.steps=2000")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"override {item!r}: the value is not valid YAML: {_problem(error)}") from error
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


def validate(model: type[Model], values: Mapping[str, Any], source: str, prefix: str = "") -> Model:
    """Build ``model`` from ``values``; ``prefix`` (``"policy."``) comes before the keys in messages.

    Raises:
        InputError: one line for the first mistake: key, source, what was expected and found, nearest valid name.
    """
    _refuse_switches_for_numbers(model, values, source, prefix)
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise InputError(_first_mistake(model, error, source, prefix)) from None


def _first_mistake(model: type[pydantic.BaseModel], error: pydantic.ValidationError, source: str, prefix: str) -> str:
    mistakes = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = mistakes[0]
    key = prefix + ".".join(str(part) for part in first["loc"])
    more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
    if first["type"] == "extra_forbidden":
        valid = _valid_names(model, first["loc"][:-1])
        return f"{source}: unknown key {key!r}{suggest(str(first['loc'][-1]), valid)}{more}"
    if first["type"] == "missing":
        return f"{source}: key {key!r} is required and missing{more}"
    if first["type"] == "value_error":
        at = f"key {key!r}: " if first["loc"] else ""
        return f"{source}: {at}{first.get('ctx', {}).get('error')}{more}"
    if first["type"] in ("model_type", "model_attributes_type"):
        return f"{source}: key {key!r}: expected a section of keys, {_found(first['input'])}{more}"
    near = suggest(first["input"], re.findall(r"'([^']+)'", first["msg"])) if first["type"] == "literal_error" and isinstance(first["input"], str) else ""
    near = near if near.startswith("; did") else ""  # the message lists the valid words already
    return f"{source}: key {key!r}: {first['msg'][:1].lower() + first['msg'][1:]}, {_found(first['input'])}{near}{more}"


def _found(value: Any) -> str:
    shown = repr(value)
    return f"found {shown if len(shown) < 60 else shown[:57] + '...'} ({type(value).__name__})"


def _models(annotation: Any) -> Iterator[Any]:
    """Yield the plain types in ``annotation``, looking through ``X | None``, ``Annotated`` and lists."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _models(part)
    elif origin is typing.Annotated:
        yield from _models(typing.get_args(annotation)[0])
    elif origin is list:
        yield annotation
        yield from _models(typing.get_args(annotation)[0])
    else:
        yield annotation


def _refuse_switches_for_numbers(model: type[pydantic.BaseModel], values: Mapping[str, Any], source: str, prefix: str) -> None:
    """Refuse true and false where a number is expected: pydantic takes them for 1 and 0."""
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            continue
        kinds = list(_models(field.annotation))
        if isinstance(value, bool) and bool not in kinds and any(k in (int, float) for k in kinds):
            raise InputError(f"{source}: key {prefix + name!r}: expected a number, {_found(value)}")
        for kind in kinds:
            if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel):
                _refuse_switches_for_numbers(kind, value, source, f"{prefix}{name}.")


def _valid_names(model: type[pydantic.BaseModel], loc: Sequence[Any]) -> list[str]:
    """Return the field names of the model found by walking ``loc`` down from ``model``."""
    current: Any = model
    for part in loc:
        fields = getattr(current, "model_fields", {})
        if part in fields:
            current = next((c for c in _models(fields[part].annotation) if isinstance(c, type) and issubclass(c, pydantic.BaseModel)), current)
    return list(getattr(current, "model_fields", {}))
