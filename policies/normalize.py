"""Normalisation of states and actions: an affine map per element, fitted once, stored with the checkpoint.

A field that was not fitted is an error, never a pass-through. Images are not normalised here: encoders map them to
[-1, 1] themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from policies.spec import InputError, Spec, suggest

#: mean_std: zero mean, unit deviation. min_max: [min, max] -> [-1, 1]. quantile: [q01, q99] -> [-1, 1]. identity: x.
#: two_valued: as min_max, and says that there is nothing in between (see :func:`two_valued`).
MODES = ("identity", "mean_std", "min_max", "quantile", "two_valued")
#: What each mode needs of a field's statistics.
_NEEDS = {"identity": (), "mean_std": ("mean", "std"), "min_max": ("min", "max"), "quantile": ("q01", "q99"), "two_valued": ("min", "max")}
#: An element whose scale is below these is shifted, not scaled: dividing by it would turn rounding into signal.
_CONSTANT_ABSOLUTE, _CONSTANT_RELATIVE = 1e-6, 1e-5
#: Rotations given as numbers in [-1, 1] whose joint structure scaling would destroy.
_NEVER_SCALED = ("rotation_6d", "rotation_quaternion")
#: Share of the largest possible variance from which on an element counts as two-valued; even numbers in a row have 1/3.
_TWO_VALUED = 0.98

_PARTS = ("offset", "scale", "mode")

Modes = Mapping[str, str | Sequence[str]]


class Normalizer(torch.nn.Module):
    """Maps field ``name`` by (x - offset) / scale, element by element.

    The buffers are not part of ``state_dict()``: a checkpoint keeps them in a file of their own (:meth:`tensors`).

    Args:
        tensors: What :meth:`tensors` returned; empty for a normaliser that knows no field.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        tensors = dict(tensors or {})
        for key in sorted(k for k in tensors if k.endswith(".offset")):
            name = key.removesuffix(".offset")
            parts = [tensors[f"{name}.{part}"] for part in _PARTS if f"{name}.{part}" in tensors]
            if len(parts) < len(_PARTS) or any(p.shape != parts[0].shape for p in parts):
                raise InputError(f"normaliser: field {name!r} lacks its offset, scale or mode, or their shapes differ")
            self._add(name, *parts)
        stray = [k for k in tensors if k.rpartition(".")[0] not in self.names or k.rpartition(".")[2] not in _PARTS]
        if stray:
            raise InputError(f"normaliser: unexpected tensor {stray[0]!r}")

    @classmethod
    def fit(cls, stats: Mapping[str, Mapping[str, np.ndarray]], modes: Modes) -> Normalizer:
        """Build a normaliser.

        Args:
            stats: field -> statistic -> array of the field's shape, see ``policies.statistics``.
            modes: field -> mode, or one mode per element (flattened).

        Raises:
            InputError: for a field without statistics, an unknown mode, a missing statistic or one that is not finite.
        """
        tensors: dict[str, torch.Tensor] = {}
        for name, mode in modes.items():
            if name not in stats:
                raise InputError(f"normaliser: field {name!r} has no statistics{suggest(name, stats)}")
            offset, scale, codes = _fit_field(name, stats[name], mode)
            tensors[f"{name}.offset"] = torch.from_numpy(offset.astype(np.float32))
            tensors[f"{name}.scale"] = torch.from_numpy(scale.astype(np.float32))
            tensors[f"{name}.mode"] = torch.from_numpy(codes)
        return cls(tensors)

    def normalize(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (..., *shape) normalised, float32. Raises InputError for a field that was not fitted."""
        offset, scale = self._map(name, x)
        return (x.to(offset.dtype) - offset) / scale

    def unnormalize(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` (..., *shape) in robot units; the inverse of :meth:`normalize`."""
        offset, scale = self._map(name, x)
        return x.to(offset.dtype) * scale + offset

    @torch.no_grad()
    def refit(self, name: str, offset: torch.Tensor, scale: torch.Tensor) -> None:
        """Replace offset and scale (*shape) of a field that was fitted: for statistics that go on while a policy learns by trial.

        Raises:
            InputError: for a field that was not fitted, or numbers that cannot be used.
        """
        own, width = self._map(name, offset)
        if not (bool(torch.isfinite(offset).all()) and bool(torch.isfinite(scale).all()) and bool((scale > 0).all())):
            raise InputError(f"normaliser: field {name!r}: a new offset or scale is not finite, or a scale is not positive")
        own.copy_(offset)
        width.copy_(scale)

    def modes(self, name: str) -> tuple[str, ...]:
        """Return the mode of every element (flattened) of a field."""
        self._require(name)
        return tuple(MODES[int(code)] for code in getattr(self, _buffer(name, "mode")).flatten())

    def trained_range(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return where the data of a field lay, (*shape) each in its units: all of it for min_max, most of it for the other modes.

        Deviations stand for three times themselves, 1 % and 99 % quantiles for the middle two thirds; elements that are not
        scaled are unbounded.
        """
        self._require(name)
        offset, scale, mode = (getattr(self, _buffer(name, part)).detach().cpu().numpy() for part in _PARTS)
        widths = np.array([{"min_max": 1.0, "two_valued": 1.0, "mean_std": 3.0, "quantile": 1.5}.get(one, np.inf) for one in MODES])[mode]
        return offset - widths * scale, offset + widths * scale

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return copies of all buffers on the CPU, ready for safetensors: ``FIELD.offset``, ``.scale``, ``.mode``."""
        parts = [(n, part) for n in self.names for part in _PARTS]
        return {f"{n}.{part}": getattr(self, _buffer(n, part)).detach().cpu().clone().contiguous() for n, part in parts}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Normalizer:
        """Build a normaliser from :meth:`tensors`. Raises InputError if it is not such a mapping."""
        return cls(tensors)

    def _add(self, name: str, offset: torch.Tensor, scale: torch.Tensor, mode: torch.Tensor) -> None:
        if not (torch.isfinite(offset).all() and torch.isfinite(scale).all() and (scale > 0).all()):
            raise InputError(f"normaliser: field {name!r} has an offset or scale that is not finite, or a scale that is not positive")
        if ((mode < 0) | (mode >= len(MODES))).any():
            raise InputError(f"normaliser: field {name!r} has an unknown mode")
        self.names += (name,)
        self.register_buffer(_buffer(name, "offset"), offset.clone(), persistent=False)
        self.register_buffer(_buffer(name, "scale"), scale.clone(), persistent=False)
        self.register_buffer(_buffer(name, "mode"), mode.clone(), persistent=False)

    def _require(self, name: str) -> None:
        if name not in self.names:
            raise InputError(f"normaliser: field {name!r} was not fitted{suggest(name, self.names)}")

    def _map(self, name: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._require(name)
        offset, scale = getattr(self, _buffer(name, "offset")), getattr(self, _buffer(name, "scale"))
        if x.shape[x.ndim - offset.ndim :] != offset.shape or x.ndim < offset.ndim:
            raise InputError(f"normaliser: field {name!r}: expected shape (..., {', '.join(map(str, offset.shape))}), found {tuple(x.shape)}")
        return offset, scale


def default_modes(
    spec: Spec,
    state_mode: str = "min_max",
    action_mode: str = "min_max",
    action_kinds: Sequence[str] | None = None,
) -> dict[str, str | tuple[str, ...]]:
    """Return the mode of every field that is not an image, and of ``action`` per element.

    6-D rotations and quaternions stay as they are, since their elements lie in [-1, 1] and belong together. Grippers
    are often open or shut all the time, where quantiles and deviations say nothing, so they use min_max.

    Args:
        spec: What is observed and commanded.
        state_mode: Mode of every observation field.
        action_mode: Mode of the other action elements; ``identity`` holds for all of them.
        action_kinds: Kind per element of the encoded action (``ActionTransform.kinds``); None: as in ``spec``.
    """
    for mode in (state_mode, action_mode):
        _require_mode(mode)
    kinds = action_kinds if action_kinds is not None else [f.kind for f in spec.action.fields.values() for _ in range(f.size)]
    special = {"gripper": "min_max", **dict.fromkeys(_NEVER_SCALED, "identity")}
    action = tuple(action_mode if action_mode == "identity" else special.get(kind, action_mode) for kind in kinds)
    return {**dict.fromkeys(spec.observation.state_names, state_mode), "action": action}


def limits_normalizer(spec: Spec) -> Normalizer:
    """Return a normaliser that leaves states as they are (until ``Normalizer.refit``) and maps the limits of actions to -1 and 1.

    Raises:
        InputError: if an action has no limits.
    """
    low, high = np.asarray(spec.action.low, np.float64), np.asarray(spec.action.high, np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(f"action of {low.size} elements: expected limits for all of them to learn by trial, found {low.tolist()} to {high.tolist()}")
    fields = spec.observation.fields
    stats = {name: {"mean": np.zeros(fields[name].shape), "std": np.ones(fields[name].shape)} for name in spec.observation.state_names}
    modes: dict[str, str] = dict.fromkeys(spec.observation.state_names, "mean_std")
    return Normalizer.fit({**stats, "action": {"min": low, "max": high}}, {**modes, "action": "min_max"})


def two_valued(stats: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which elements of a field have two values and nothing in between, such as a gripper: bool, of the field's shape.

    No data between min and max has a larger variance than (max - mean) (mean - min), and only data that are nowhere
    else than at min and max have that much (Bhatia & Davis 2000): 2 % less is allowed, for a few steps on the way.

    Args:
        stats: The field's statistics, see ``policies.statistics``.
    """
    low, high, mean, std = (np.asarray(stats[s], np.float64) for s in ("min", "max", "mean", "std"))
    varies = high - low >= np.maximum(_CONSTANT_ABSOLUTE, _CONSTANT_RELATIVE * np.abs(high + low))
    return varies & (std**2 >= _TWO_VALUED * (high - mean) * (mean - low))


def _buffer(name: str, part: str) -> str:
    return f"{name.replace('.', '/')}:{part}"  # torch forbids dots in buffer names


def _require_mode(mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"normaliser: mode {mode!r} is unknown{suggest(mode, MODES)}")


def _fit_field(name: str, stats: Mapping[str, np.ndarray], mode: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offset, scale (float64) and mode codes (int8), each of the field's shape."""
    used = {mode} if isinstance(mode, str) else set(mode)
    for one in used:
        _require_mode(one)
        for statistic in _NEEDS[one]:
            if statistic not in stats:
                raise InputError(f"normaliser: field {name!r}: mode {one!r} needs statistic {statistic!r}{suggest(statistic, stats)}")
    shape = np.shape(next(v for k, v in stats.items() if k != "count"))
    size = int(np.prod(shape, dtype=np.int64))
    per_element = [mode] * size if isinstance(mode, str) else list(mode)
    if len(per_element) != size:
        raise InputError(f"normaliser: field {name!r} has {size} elements but {len(per_element)} modes")
    offset, scale = np.zeros(size), np.ones(size)
    for one in used:
        rows = np.array([m == one for m in per_element], bool)
        centre, width = _affine(one, {s: np.asarray(stats[s], np.float64).ravel()[rows] for s in _NEEDS[one]})
        if not (np.isfinite(centre).all() and np.isfinite(width).all() and np.all(width >= 0)):
            raise InputError(f"normaliser: field {name!r}: its statistics for mode {one!r} are not finite or out of order")
        constant = width < np.maximum(_CONSTANT_ABSOLUTE, _CONSTANT_RELATIVE * np.abs(centre))
        offset[rows], scale[rows] = centre, np.where(constant, 1.0, width)
    codes = np.array([MODES.index(m) for m in per_element], np.int8)
    return offset.reshape(shape), scale.reshape(shape), codes.reshape(shape)


def _affine(mode: str, stats: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if mode == "identity":
        return np.array(0.0), np.array(1.0)
    if mode == "mean_std":
        return stats["mean"], stats["std"]
    low, high = (stats[s] for s in _NEEDS[mode])
    return (low + high) / 2, (high - low) / 2
