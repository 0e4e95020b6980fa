"""Learning by trial: from a recipe to the loop that its rule plugs into."""

from __future__ import annotations

import importlib
from typing import Any, Literal

from robopolicy.recipe import Note, print_note
from robopolicy.recipe_trial import TrialRecipe


def train(recipe: TrialRecipe, progress: bool = True, resume: Literal["auto", "never"] = "auto", note: Note = print_note) -> Any:
    """Train the recipe's policy by trial in ``robopolicy.training.on_policy`` or ``off_policy``; arguments and errors as there."""
    loop = importlib.import_module(f"robopolicy.training.{recipe.loop}")
    return loop.train(recipe, progress=progress, resume=resume, note=note)
