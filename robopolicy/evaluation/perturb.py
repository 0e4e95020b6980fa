"""What can be wrong with a world in which a policy is tried: kinds of perturbation, their sizes, and how they are written.

``noise:0.05`` on a command line, ``{"kind": "noise", "size": 0.05}`` in the key ``perturb`` of an evaluation's ``env``, where the
ledger keeps it. :func:`perturbed` puts the perturbations around or into a batch of worlds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from policies.spec import InputError, suggest
from sim.env import BatchEnv

Side = Literal["sensors", "actions", "world", "pictures"]


@dataclass(frozen=True)
class Kind:
    """One kind of perturbation.

    Attributes:
        name: Of it.
        side: What it acts on: ``sensors`` and ``actions`` are signals and work in every suite; ``world`` and ``pictures`` change a model.
        unit: Of its size.
        neutral: Size at which nothing is changed: 0, or the factor 1.
        low: Least size.
        high: Greatest size.
        ladder: Sizes of a table, from small to large, ``neutral`` among them.
        about: One line for people.
        options: What can be given beside the size.
    """

    name: str
    side: Side
    unit: str
    neutral: float
    low: float
    high: float
    ladder: tuple[float, ...]
    about: str
    options: tuple[str, ...] = ("element",)

    @property
    def factor(self) -> bool:
        """Whether the size is a factor: steps of it are ratios."""
        return self.neutral == 1.0


_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
_TIMES = (0.0, 25.0, 50.0, 100.0, 200.0, 400.0)
_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
_SEEN = ("element", "expert")

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("noise", "sensors", "std of the data", 0, 0, math.inf, (0, 0.02, 0.05, 0.1, 0.2, 0.5), "white noise on measured numbers", ("element", "scale")),
        Kind("pixel_noise", "sensors", "of full scale", 0, 0, 1, (0, 0.02, 0.05, 0.1, 0.2), "white noise on camera pictures"),
        Kind("latency", "sensors", "ms", 0, 0, 10_000, _TIMES, "observations that are late", _SEEN),
        Kind("drops", "sensors", "of frames", 0, 0, 1, _SHARES, "lost frames, the last one repeats", _SEEN),
        Kind("delay", "actions", "ms", 0, 0, 10_000, _TIMES, "actions that are late", ()),
        Kind("lost_commands", "actions", "of commands", 0, 0, 1, _SHARES, "lost actions, the last one repeats", ()),
        Kind("action_noise", "actions", "of half the range", 0, 0, math.inf, (0, 0.05, 0.1, 0.2, 0.5), "white noise on actions", ()),
        Kind("mass", "world", "times", 1, 1e-3, 1e3, _FACTORS, "masses of bodies, with their inertia"),
        Kind("friction", "world", "times", 1, 0, 1e3, _FACTORS, "sliding friction of surfaces, dry friction of joints"),
        Kind("damping", "world", "times", 1, 0, 1e3, _FACTORS, "damping of joints"),
        Kind("gain", "world", "times", 1, 0, 1e3, (0.5, 0.7, 1.0, 1.4, 2.0), "strength of motors and stiffness of servos"),
        Kind("push", "world", "m/s", 0, 0, 1e3, (0, 0.1, 0.2, 0.5, 1.0, 2.0), "pushes at random times and in level directions", ("element", "every")),
        Kind("camera", "pictures", "cm", 0, 0, 1e3, (0, 1, 2, 5, 10), "cameras moved in a random direction"),
        Kind("camera_turn", "pictures", "deg", 0, 0, 180, (0, 1, 2, 5, 10), "cameras turned about a random axis"),
        Kind("light", "pictures", "times", 1, 0, 100, (0.1, 0.3, 0.5, 0.7, 1.0), "brightness of the lights"),
        Kind("texture", "pictures", "of the colours", 0, 0, 1, (0, 0.1, 0.25, 0.5, 1.0), "tints of all surfaces"),
    )
}


class Perturbation(pydantic.BaseModel):
    """One perturbation.

    ``size`` in the unit of :data:`KINDS`. ``element``: pattern of what is meant (fields of the observation; bodies, geoms, joints,
    actuators, cameras, lights, materials of the model), by default all. ``scale`` (noise): field -> standard deviation of its data,
    a number for each element; ``field`` where the size is in the fields' own units; ``data`` until a checkpoint says it. ``every``
    (push): mean seconds between two. ``expert`` (latency, drops): whether a scripted expert, which otherwise reads the true state, acts
    on what is delivered too: it then does what it would have done at that frame.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    size: float
    element: str = ""
    scale: dict[str, list[float]] | Literal["data", "field"] = "data"
    every: float = pydantic.Field(default=1.0, gt=0)
    expert: bool = False

    @pydantic.model_validator(mode="after")
    def _sound(self) -> Perturbation:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} does not exist{suggest(self.kind, KINDS)}")
        about = KINDS[self.kind]
        if not about.low <= self.size <= about.high:
            reach = f"at least {about.low:g}" if about.high == math.inf else f"{about.low:g} to {about.high:g}"
            raise ValueError(f"{self.kind}: size {self.size:g} ({about.unit}): expected {reach}")
        for name in self.model_fields_set - {"kind", "size"}:
            if name not in about.options and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{self.kind} has no option {name!r}; it has {', '.join(about.options) or 'none'}")
        return self

    @property
    def about(self) -> Kind:
        """The kind."""
        return KINDS[self.kind]

    @property
    def neutral(self) -> bool:
        """Whether it changes nothing."""
        return self.size == self.about.neutral

    def to_dict(self) -> dict[str, Any]:
        """Return what ``env["perturb"]`` holds: JSON-ready, defaults left out."""
        return {"kind": self.kind, "size": float(self.size), **self.model_dump(exclude_defaults=True, exclude={"kind", "size"})}

    def __str__(self) -> str:
        more = {k: v for k, v in self.to_dict().items() if k not in ("kind", "size") and not isinstance(v, dict)}
        return f"{self.kind}:{self.size:g}" + "".join(f",{k}={_short(v)}" for k, v in more.items())


def _short(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def parse(text: str) -> Perturbation:
    """Read ``KIND:SIZE[,OPTION=VALUE...]``. Raises InputError: one line, what was expected."""
    kind, colon, rest = text.partition(":")
    size, *options = rest.split(",")
    pairs = [item.partition("=") for item in options]
    if not colon or any(not mark for _, mark, _ in pairs):
        raise InputError(f"perturbation {text!r}: expected KIND:SIZE or KIND:SIZE,OPTION=VALUE, e.g. noise:0.05 or push:0.5,every=2")
    names = ["kind", "size", *(name.strip() for name, _, _ in pairs)]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"perturbation {text!r}: {name} is given twice")
    return one({"kind": kind.strip(), "size": size.strip(), **{name.strip(): value.strip() for name, _, value in pairs}}, f"perturbation {text!r}")


def one(values: Mapping[str, Any] | Perturbation, source: str = "perturb") -> Perturbation:
    """Return one perturbation from a mapping. Raises InputError naming ``source`` and what is wrong."""
    if isinstance(values, Perturbation):
        return values
    if not isinstance(values, Mapping):
        raise InputError(f"{source}: expected a text such as noise:0.05 or a mapping, found {values!r}")
    try:
        return Perturbation.model_validate(dict(values))
    except pydantic.ValidationError as error:
        first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise InputError(f"{source}: unknown key {key!r}{suggest(key, Perturbation.model_fields)}") from None
        told = str(first.get("ctx", {}).get("error")) if first["type"] == "value_error" else f"{key}: {first['msg'].lower()}, found {first['input']!r}"
        raise InputError(f"{source}: {told}") from None


def read(value: Any, source: str = "env.perturb") -> tuple[Perturbation, ...]:
    """Return the perturbations that ``env["perturb"]`` holds: one or a list of texts or mappings, or None for none.

    Raises:
        InputError: one line, for what is none, and for one kind of the same element twice.
    """
    items = [] if value is None else list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    out = tuple(parse(item) if isinstance(item, str) else one(item, source) for item in items)
    seen = [(p.kind, p.element) for p in out]
    for kind, element in seen:
        if seen.count((kind, element)) > 1:
            raise InputError(f"{source}: {kind} is given twice" + (f" for {element!r}" if element else ""))
    return out


def with_scale(perturbations: Sequence[Perturbation], checkpoints: Sequence[str | Path]) -> tuple[Perturbation, ...]:
    """Return the same with the data's standard deviations written into noise that needs them: of the first checkpoint that has a field.

    Raises:
        InputError: if there is noise in shares of the data and no checkpoint that says how large they are.
    """
    if not any(p.kind == "noise" and p.scale == "data" for p in perturbations):
        return tuple(perturbations)
    scale: dict[str, list[float]] = {}
    for checkpoint in checkpoints:
        scale = {**data_scale(checkpoint), **scale}
    if not scale:
        found = f": {checkpoints[0]} keeps none (its states were not normalised by data)" if checkpoints else " needs a checkpoint"
        raise InputError(f"noise in shares of the data's deviation{found}; write noise:SIZE,scale=field for the fields' own units")
    return tuple(p.model_copy(update={"scale": scale}) if p.kind == "noise" and p.scale == "data" else p for p in perturbations)


def data_scale(checkpoint: str | Path) -> dict[str, list[float]]:
    """Return field -> standard deviation of each element in the data that a checkpoint was trained on, from its normaliser.

    Where the normaliser keeps a range instead, the deviation of a uniform distribution over it; 0 for constant elements. A field of which
    it scales nothing is left out: its data are not known.

    Raises:
        InputError: if there is no readable checkpoint.
    """
    from safetensors.numpy import load_file

    from policies.checkpoint import read_spec

    spec = read_spec(checkpoint)
    tensors = load_file(Path(checkpoint) / "normalizer.safetensors")
    out = {}
    for name in spec.observation.state_names:
        if f"{name}.scale" not in tensors:
            continue
        width, mode = tensors[f"{name}.scale"].astype(np.float64).ravel(), tensors[f"{name}.mode"].ravel()
        if (width == 1.0).all():
            continue
        share = np.where(mode == _MEAN_STD, 1.0, 1.0 / math.sqrt(3.0))
        out[name] = np.where(width == 1.0, 0.0, width * share).tolist()  # constant elements are kept with a scale of exactly 1
    return out


_MEAN_STD = 1  # index of ``mean_std`` in ``policies.normalize.MODES``, which would load torch


def perturbed(world: BatchEnv, perturbations: Sequence[Perturbation]) -> BatchEnv:
    """Return ``world`` with the perturbations; itself where all of them are neutral.

    Raises:
        InputError: one line, for a kind that this task, its observations or its engine cannot have.
    """
    active = [p for p in perturbations if not p.neutral]
    if not active:
        return world
    from robopolicy.evaluation.perturb_env import PerturbedWorlds

    return PerturbedWorlds(world, active)
