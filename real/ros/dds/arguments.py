"""``--ros-args``: remapping, parameters, log levels and the enclave, as every ROS 2 program takes them.

``Arguments.parse`` reads a command line once; a node asks it for its name, its topics and its parameters. Rules of a node's own
arguments come before those of the process; the first that matches wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from real.ros.dds.exceptions import InvalidROSArgsError, UnknownROSArgsError
from real.ros.dds.names import absolute_namespace, expand_topic_name, fully_qualified, validate_namespace, validate_node_name
from real.ros.dds.parameter_files import matches, parameters_of_file, value_of_text

_VALUED = ("-r", "--remap", "-p", "--param", "--params-file", "--log-level", "-e", "--enclave", "--log-config-file", "--log-file-name")
_SWITCHES = ("rosout-logs", "stdout-logs", "external-lib-logs")
_LEVELS = {"unset": 0, "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50}


@dataclass(frozen=True)
class Remap:
    """One rule ``[node:]from:=to``; kind is what it is about."""

    node: str | None
    source: str
    target: str
    kind: Literal["any", "topic", "service", "node", "namespace"]


@dataclass(frozen=True)
class Arguments:
    """What a command line says to ROS, and the words that it does not concern (``remaining``)."""

    remaps: tuple[Remap, ...] = ()
    #: (pattern of node names, parameter's name, value), in the order given; later ones win.
    values: tuple[tuple[str, str, Any], ...] = ()
    #: Logger's name ("" for all) to level.
    log_levels: dict[str, int] = field(default_factory=dict)
    enclave: str = "/"
    switches: dict[str, bool] = field(default_factory=dict)
    remaining: tuple[str, ...] = ()

    @classmethod
    def parse(cls, args: Sequence[str] | None) -> Arguments:
        """Read the words of a command line (None: none at all).

        Raises:
            UnknownROSArgsError: for a word inside ``--ros-args`` that is no flag.
            InvalidROSArgsError: for a flag without a value, a rule that is none, or a file that cannot be read.
        """
        words, rest, inside = list(args or ()), [], False
        found: dict[str, Any] = {"remaps": [], "values": [], "log_levels": {}, "enclave": "/", "switches": {}}
        index = 0
        while index < len(words):
            word = words[index]
            index += 1
            if not inside:
                inside = word == "--ros-args"
                if not inside:
                    rest.append(word)
            elif word == "--":
                inside = False
            elif word == "--ros-args":
                continue
            elif (switch := re.fullmatch(r"--(enable|disable)-(.+)", word)) and switch[2] in _SWITCHES:
                found["switches"][switch[2]] = switch[1] == "enable"
            elif word in _VALUED:
                if index >= len(words):
                    raise InvalidROSArgsError(f"{word} needs a value behind it")
                _take(found, word, words[index])
                index += 1
            elif ":=" in word and not word.startswith("-"):  # an old form of remapping, still accepted by rcl inside --ros-args
                _take(found, "-r", word)
            else:
                raise UnknownROSArgsError(f"{word!r} between --ros-args and -- is no flag of ROS; known: {', '.join(_VALUED)}")
        return cls(tuple(found["remaps"]), tuple(found["values"]), found["log_levels"], found["enclave"], found["switches"], tuple(rest))

    def log_level(self, logger: str) -> int | None:
        """Return the level given for this logger (its own, a parent's, or the one for all), None for none."""
        name = logger
        while name:
            if name in self.log_levels:
                return self.log_levels[name]
            name = name.rpartition(".")[0]
        return self.log_levels.get("")


def _take(found: dict[str, Any], flag: str, value: str) -> None:
    """Add one flag and its value to what was found."""
    if flag in ("-r", "--remap"):
        found["remaps"].append(_remap(value))
    elif flag in ("-p", "--param"):
        found["values"].append(_parameter(value))
    elif flag == "--params-file":
        found["values"].extend(parameters_of_file(value))
    elif flag == "--log-level":
        logger, _, level = value.rpartition(":=")
        if level.lower() not in _LEVELS:
            raise InvalidROSArgsError(f"--log-level {value}: {level!r} is none of {', '.join(_LEVELS)}")
        found["log_levels"][logger] = _LEVELS[level.lower()]
    elif flag in ("-e", "--enclave"):
        found["enclave"] = value if value.startswith("/") else f"/{value}"


def _split(rule: str, flag: str) -> tuple[str | None, str, str]:
    """Return (node or None, left, right) of ``[node:]left:=right``."""
    left, sign, right = rule.partition(":=")
    if not sign or not left or not right:
        raise InvalidROSArgsError(f"{flag} {rule}: expected [NODE:]NAME:=VALUE")
    head = re.fullmatch(r"(?:(?!rostopic://|rosservice://)([A-Za-z_]\w*):)?((?:rostopic://|rosservice://)?[^:]+)", left)
    if head is None:
        raise InvalidROSArgsError(f"{flag} {rule}: {left!r} is neither NAME nor NODE:NAME")
    return head[1], head[2], right


def _remap(rule: str) -> Remap:
    node, source, target = _split(rule, "-r")
    if source in ("__node", "__name"):
        kind: Literal["any", "topic", "service", "node", "namespace"] = "node"
    elif source == "__ns":
        kind = "namespace"
        if not target.startswith("/"):
            raise InvalidROSArgsError(f"-r {rule}: a namespace starts with '/'")
    else:
        kind = "any"
        for prefix, meant in (("rostopic://", "topic"), ("rosservice://", "service")):
            if source.startswith(prefix):
                source, kind = source.removeprefix(prefix), "topic" if meant == "topic" else "service"
        if not re.fullmatch(r"[A-Za-z0-9_/~{}]+", source) or not re.fullmatch(r"[A-Za-z0-9_/~{}]+", target):
            raise InvalidROSArgsError(f"-r {rule}: names of topics and services hold letters, digits, '_', '/' and a leading '~'")
    return Remap(node, source, target, kind)


def _parameter(rule: str) -> tuple[str, str, Any]:
    node, name, text = _split(rule, "-p")
    try:
        return f"/**/{node}" if node else "/**", name, value_of_text(text)
    except ValueError as error:
        raise InvalidROSArgsError(f"-p {rule}: {error}") from None


def _rules(sources: Iterable[Arguments], node: str, *kinds: str) -> Iterable[Remap]:
    return (rule for args in sources for rule in args.remaps if rule.kind in kinds and rule.node in (None, node))


def node_identity(name: str, namespace: str | None, sources: Sequence[Arguments]) -> tuple[str, str]:
    """Return a node's name and absolute namespace after ``__node`` and ``__ns`` rules; the node's own ``sources`` stand first.

    Raises:
        InvalidNodeNameException: or InvalidNamespaceException, before or after remapping.
    """
    space = absolute_namespace(namespace)
    validate_node_name(name)
    validate_namespace(space)
    name = next((rule.target for rule in _rules(sources, name, "node")), name)
    space = next((rule.target for rule in _rules(sources, name, "namespace")), space)
    validate_node_name(name)
    validate_namespace(space)
    return name, space


def resolve(name: str, node: str, namespace: str, sources: Sequence[Arguments], *, service: bool = False, only_expand: bool = False) -> str:
    """Return the absolute name of a topic (service) of a node: expanded, then remapped by the first rule that matches.

    Raises:
        InvalidTopicNameException: or InvalidServiceNameException, for a name that ROS does not allow.
    """
    full = expand_topic_name(name, node, namespace, is_service=service)
    if only_expand:
        return full
    for rule in _rules(sources, node, "any", "service" if service else "topic"):
        if expand_topic_name(rule.source, node, namespace, is_service=service) == full:
            return expand_topic_name(rule.target, node, namespace, is_service=service)
    return full


def parameters(name: str, namespace: str, sources: Sequence[Arguments]) -> dict[str, Any]:
    """Return parameter name -> value given to this node on command lines and in files; a node's own ``sources`` stand first and win."""
    full = fully_qualified(name, namespace)
    given: dict[str, Any] = {}
    for args in reversed(sources):
        given.update({key: value for pattern, key, value in args.values if matches(pattern, full)})
    return given
