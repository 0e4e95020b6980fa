"""The base of the config models of policies and networks: unknown keys are refused, values are checked when assigned."""

from __future__ import annotations

import pydantic


class Config(pydantic.BaseModel):
    """A section of a recipe. Raises pydantic.ValidationError for an unknown key, a wrong type or a number that is not finite."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)
