"""The base of the config models of policies and networks: unknown keys are refused, values are checked when assigned."""

from __future__ import annotations

from collections.abc import Iterable

import pydantic


class Config(pydantic.BaseModel):
    """A section of a recipe. Raises pydantic.ValidationError for an unknown key, a wrong type or a number that is not finite."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    def refuse(self, unused: Iterable[str], told: str) -> None:
        """Refuse values of keys that say nothing where ``told`` is: accepted, they would be ignored. Raises ValueError."""
        for name in unused:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}={getattr(self, name)} says nothing with {told}")
