"""The policies by name: ``policies/NAME.py`` is a policy if a class in it sets ``Config``. Listing them imports nothing."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.spec import InputError, Spec, suggest

if TYPE_CHECKING:
    from policies.config import Config
    from policies.learnt import LearntPolicy
    from policies.normalize import Normalizer

_FOLDER = Path(__file__).parent


@functools.cache
def scan(folder: Path, what: str = "policies") -> dict[str, tuple[str, str]]:
    """Return name -> (name of the class that sets ``Config``, first line of the docstring) for the files of ``folder``, from their text.

    Raises:
        InputError: if a file has two such classes; ``what`` they are is said.
    """
    found = {}
    for file in sorted(folder.glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef) and any(map(_sets_config, node.body))]
        if len(classes) > 1:
            raise InputError(f"{folder.name}/{file.name} defines {len(classes)} {what} ({', '.join(classes)}), expected one per file")
        if classes:
            found[file.stem] = (classes[0], (ast.get_docstring(tree) or "").partition("\n")[0])
    return found


def _sets_config(node: ast.stmt) -> bool:
    """Whether a statement of a class is ``Config = ...`` (a bare annotation is not)."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) and node.value else []
    return any(isinstance(target, ast.Name) and target.id == "Config" for target in targets)


def policy_names() -> tuple[str, ...]:
    """Return the names of all policies, sorted."""
    return tuple(scan(_FOLDER))


def chunk_policy_names() -> tuple[str, ...]:
    """Return the names of the policies that predict chunks of actions (``policies.chunk.ChunkPolicy``), sorted; imports them."""
    from policies.chunk import ChunkPolicy

    return tuple(name for name in policy_names() if issubclass(policy_class(name), ChunkPolicy))


def description(name: str) -> str:
    """Return one line about a policy. Raises InputError for an unknown name."""
    return _entry(name)[1]


def policy_class(name: str) -> type[LearntPolicy]:
    """Return the class of a policy. Raises InputError for an unknown name."""
    kind = _entry(name)[0]  # first: an unknown name is never imported
    return getattr(importlib.import_module(f"policies.{name}"), kind)


def config_class(name: str) -> type[Config]:
    """Return the config model of a policy. Raises InputError for an unknown name."""
    return policy_class(name).Config


def create(name: str, config: Any, spec: Spec, normalizer: Normalizer) -> LearntPolicy:
    """Build a policy with fresh weights.

    Args:
        name: Of the policy.
        config: An instance of ``config_class(name)``.
        spec: What the world or robot offers.
        normalizer: Fitted to the data.

    Raises:
        InputError: unknown name, a config of another policy, or a spec that the config does not fit.
    """
    kind = policy_class(name)
    if not isinstance(config, kind.Config):
        raise InputError(f"policy {name!r}: expected a {kind.Config.__name__}, found {type(config).__name__}")
    return kind(config, spec, normalizer)


def _entry(name: str) -> tuple[str, str]:
    known = scan(_FOLDER)
    if name not in known:
        raise InputError(f"policy {name!r} is unknown{suggest(name, known)}")
    return known[name]
