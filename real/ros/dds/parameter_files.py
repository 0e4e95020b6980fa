"""Values of parameters as text, and files of them: YAML, ``NODE: ros__parameters: NAME: value``, with ``*`` and ``/**`` in node names."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from real.ros.dds.exceptions import InvalidROSArgsError

_DEEPEST = 64  # levels of a file: no namespace of nodes or parameters is that deep
_TRUE = ("y", "yes", "on", "true", "Y", "Yes", "On", "True", "YES", "ON", "TRUE")
_FALSE = ("n", "no", "off", "false", "N", "No", "Off", "False", "NO", "OFF", "FALSE")


def _scalar(node: yaml.ScalarNode) -> bool | int | float | str:
    """Return the value of one word: quoted ones are strings, the others what they look like.

    Raises:
        ValueError: if there is nothing.
    """
    text = node.value
    if node.style in ("'", '"', "|", ">"):
        return text
    if text in ("", "~", "null", "Null", "NULL"):
        raise ValueError("a parameter has a value, not null")
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if re.fullmatch(r"[-+]?(\d+|0[xX][0-9a-fA-F]+)", text):
        number = int(text, 16 if "x" in text.lower() else 10)
        if not -(2**63) <= number < 2**63:
            raise ValueError(f"{text} does not fit in 64 bits")
        return number
    if re.fullmatch(r"[-+]?\.(inf|Inf|INF)", text):
        return -math.inf if text.startswith("-") else math.inf
    if text in (".nan", ".NaN", ".NAN"):
        return math.nan
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return float(text)
    return text


def _value(node: yaml.Node) -> Any:
    """Return the value of a YAML node that is a parameter's: a scalar or a list of scalars of one type.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        items = [_scalar(item) if isinstance(item, yaml.ScalarNode) else None for item in node.value]
        kinds = {type(item) for item in items}
        if len(kinds) > 1 or type(None) in kinds:
            raise ValueError("a list holds values of one type: all true/false, all whole numbers, all numbers with a point, or all strings")
        return items
    raise ValueError("a parameter is a value or a list, not a mapping")


def _compose(text: str) -> yaml.Node | None:
    """Return the YAML node of ``text``; aliases are refused, as ROS refuses them: they can stand for more than memory holds.

    Raises:
        yaml.YAMLError: if it is not YAML, has an alias, or is nested too deep.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: an alias (*{event.anchor}) is not taken")
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: nested too deep")
    return yaml.compose(text, Loader=yaml.SafeLoader)


def value_of_text(text: str) -> Any:
    """Return the value of a parameter written on a command line.

    Raises:
        ValueError: if it is no value or a list of mixed types.
    """
    try:
        node = _compose(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML ({str(error).splitlines()[0]})") from None
    if node is None:
        raise ValueError("a parameter has a value")
    return _value(node)


def parameters_of_file(path: str) -> list[tuple[str, str, Any]]:
    """Return (pattern of node names, parameter's name, value) of a file, in its order.

    Raises:
        InvalidROSArgsError: if the file cannot be read or is not of the form, with its line.
    """
    try:
        root = _compose(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidROSArgsError(f"--params-file {path}: {error}") from None
    except yaml.YAMLError as error:
        raise InvalidROSArgsError(f"--params-file {path}: not YAML: {' '.join(str(error).split())}") from None
    if root is None:
        return []
    try:
        return list(_nodes(root, ""))
    except ValueError as error:
        raise InvalidROSArgsError(f"--params-file {path}: {error}") from None


def _at(node: yaml.Node, text: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {text}")


def _nodes(mapping: yaml.Node, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the parameters under a mapping of node names (or namespaces), ``prefix`` being the names above."""
    if not isinstance(mapping, yaml.MappingNode):
        raise _at(mapping, f"expected NODE: ros__parameters: below {prefix or 'the top'}")
    for key, value in mapping.value:
        name = str(key.value)
        if name == "ros__parameters":
            if not prefix:
                raise _at(key, "ros__parameters stands below a node's name (or '/**')")
            yield from _parameters(value, prefix, "")
        else:
            yield from _nodes(value, f"{prefix}/{name.strip('/')}" if name != "/" else prefix)


def _parameters(mapping: yaml.Node, pattern: str, prefix: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the parameters of one node; nested names are joined with dots."""
    if not isinstance(mapping, yaml.MappingNode):
        raise _at(mapping, "expected NAME: value below ros__parameters")
    for key, value in mapping.value:
        name = f"{prefix}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _parameters(value, pattern, f"{name}.")
            continue
        try:
            yield pattern, name, _value(value)
        except ValueError as error:
            raise _at(value, f"parameter {name!r}: {error}") from None


@functools.lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    tokens = [token for token in text.strip("/").split("/") if token]
    return re.compile("".join("(/[^/]+)*" if token == "**" else "/[^/]+" if token == "*" else re.escape(f"/{token}") for token in tokens))


def matches(pattern: str, node: str) -> bool:
    """Whether a pattern of a file (``/arm``, ``/*/arm``, ``/**``) means the node of this absolute name."""
    return _pattern(pattern).fullmatch(node) is not None
