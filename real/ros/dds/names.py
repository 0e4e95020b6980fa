"""Names of ROS: what a node, a namespace, a topic and a service may be called, and how a name is made absolute."""

from __future__ import annotations

import re

from real.ros.dds.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidServiceNameException,
    InvalidTopicNameException,
    NameValidationException,
)

#: Longest node name and longest absolute namespace, in characters, as in ``rmw``.
LONGEST_NODE_NAME, LONGEST_NAMESPACE = 255, 245
_SUBSTITUTION = re.compile(r"\{([A-Za-z_]\w*)\}")


def _fault(name: str, pattern: str) -> tuple[str, int] | None:
    """Return (what is wrong, at which character) of a name made of ``pattern`` characters and tokens that start with no digit."""
    for index, letter in enumerate(name):
        if not re.fullmatch(pattern, letter):
            return f"{letter!r} is not allowed", index
        before = name[index - 1] if index else "/"
        if before == "/" and letter.isdigit():
            return "a part must not start with a digit", index
        if letter == "/" and before == "/" and index:
            return "there must be no empty part", index
    return None


def validate_node_name(name: str) -> bool:
    """Return True for a valid node name; raises InvalidNodeNameException."""
    if not name:
        raise InvalidNodeNameException(name, "it must not be empty", 0)
    if fault := _fault(name, r"[A-Za-z0-9_]"):
        raise InvalidNodeNameException(name, *fault)
    if len(name) > LONGEST_NODE_NAME:
        raise InvalidNodeNameException(name, f"it is longer than {LONGEST_NODE_NAME} characters", LONGEST_NODE_NAME)
    return True


def validate_namespace(namespace: str) -> bool:
    """Return True for a valid absolute namespace (``/`` or ``/a/b``); raises InvalidNamespaceException."""
    if not namespace.startswith("/"):
        raise InvalidNamespaceException(namespace, "it must start with '/'", 0)
    if namespace == "/":
        return True
    if namespace.endswith("/"):
        raise InvalidNamespaceException(namespace, "it must not end with '/'", len(namespace) - 1)
    if fault := _fault(namespace, r"[A-Za-z0-9_/]"):
        raise InvalidNamespaceException(namespace, *fault)
    if len(namespace) > LONGEST_NAMESPACE:
        raise InvalidNamespaceException(namespace, f"it is longer than {LONGEST_NAMESPACE} characters", LONGEST_NAMESPACE)
    return True


def _validate(name: str, kind: type[InvalidTopicNameException] | type[InvalidServiceNameException]) -> bool:
    bare = _SUBSTITUTION.sub("x", name)
    if not name:
        raise kind(name, "it must not be empty", 0)
    if name.endswith("/"):
        raise kind(name, "it must not end with '/'", len(name) - 1)
    if "~" in name[1:]:
        raise kind(name, "'~' stands only at the front", name.index("~", 1))
    if name.startswith("~") and len(name) > 1 and name[1] != "/":
        raise kind(name, "'/' must follow '~'", 1)
    if fault := _fault(bare.removeprefix("~"), r"[A-Za-z0-9_/]"):
        raise kind(name, *fault)
    return True


def validate_topic_name(name: str, *, is_service: bool = False) -> bool:
    """Return True for a name that may be given to a topic (a service): relative, private (``~/x``) or absolute.

    Raises:
        InvalidTopicNameException: or InvalidServiceNameException, if ROS does not allow it.
    """
    return _validate(name, InvalidServiceNameException if is_service else InvalidTopicNameException)


def validate_full_topic_name(name: str, *, is_service: bool = False) -> bool:
    """Return True for an absolute name; raises as validate_topic_name."""
    kind = InvalidServiceNameException if is_service else InvalidTopicNameException
    if not name.startswith("/"):
        raise kind(name, "it must be absolute", 0)
    if "{" in name or "~" in name:
        raise kind(name, "it must not hold '~' or '{'", min(i for i in (name.find("{"), name.find("~")) if i >= 0))
    return _validate(name, kind)


def fully_qualified(name: str, namespace: str) -> str:
    """Return ``/ns/name`` of a node."""
    return f"/{name}" if namespace == "/" else f"{namespace}/{name}"


def absolute_namespace(namespace: str | None) -> str:
    """Return the namespace with its leading ``/`` (``/`` for none)."""
    if not namespace:
        return "/"
    return namespace if namespace.startswith("/") else f"/{namespace}"


def expand_topic_name(name: str, node_name: str, namespace: str, *, is_service: bool = False) -> str:
    """Return the absolute name: ``~`` is the node, ``{node}``, ``{ns}`` and ``{namespace}`` are replaced, the rest is relative.

    Raises:
        InvalidTopicNameException: or InvalidServiceNameException, if ROS does not allow it.
        NameValidationException: for another substitution.
    """
    validate_topic_name(name, is_service=is_service)
    known = {"node": node_name, "ns": namespace, "namespace": namespace}
    for found in _SUBSTITUTION.finditer(name):
        if found[1] not in known:
            raise NameValidationException("substitution", name, f"{{{found[1]}}} is none of {{node}}, {{ns}}, {{namespace}}", found.start())
    if name.startswith("~"):
        name = fully_qualified(node_name, namespace) + name[1:]
    name = _SUBSTITUTION.sub(lambda found: known[found[1]], name)
    if not name.startswith("/"):
        name = fully_qualified(name, namespace)
    name = re.sub(r"/+", "/", name)
    validate_full_topic_name(name, is_service=is_service)
    return name
