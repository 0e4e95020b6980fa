"""A recipe's section ``randomize`` from a file, and the draws that a data set's episodes were recorded with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policies.spec import InputError
from robopolicy.config import find_recipe, read_yaml
from sim.randomize_config import read_config

#: Column of ``meta/episodes`` that holds what an episode drew, as JSON.
COLUMN = "randomized"


def read_section(name: str) -> dict[str, Any]:
    """Return the section ``randomize`` of a YAML file: below ``env:``, at the top, or the whole file; checked.

    Args:
        name: Path, or an installed recipe such as ``randomization/cartpole``.

    Raises:
        InputError: one line: the file, the key, what was expected.
    """
    path = find_recipe(name)
    values = read_yaml(path)
    inner = values.get("env", values)
    section = inner.get("randomize", inner) if isinstance(inner, Mapping) else inner
    if not isinstance(section, Mapping) or ("env" in values and section is inner):
        raise InputError(f"{path}: expected a section env: randomize:, found none")
    read_config(section, f"{path}: randomize")
    return dict(section)


def whole_ranges(section: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a section ``randomize`` without its curriculum: a policy is tried in all that it may meet, not at a level of its training."""
    return {name: part for name, part in (section or {}).items() if name != "curriculum"} or None


def read_drawn(path: str | Path, episode: int) -> dict[str, Any] | None:
    """Return what one recorded episode drew, name -> values of one world, or None where nothing was drawn.

    With a leading axis put before every value it is what ``sim.randomize.Randomizer.impose`` takes.

    Raises:
        InputError: if there is no such data set or episode.
    """
    from robopolicy.data import layout
    from robopolicy.data.episodes import read_episodes

    root = Path(path)
    rows = read_episodes(root, layout.read_info(root)).rows
    if not 0 <= episode < len(rows):
        raise InputError(f"data set {root} has episodes 0 to {len(rows) - 1}, not {episode}")
    text = rows[episode].get(COLUMN)
    return None if text is None else json.loads(text)
