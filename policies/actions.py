"""What a policy predicts instead of absolute targets: differences, offsets from the present, other rotations.

An action window (B, T, Da) begins at time t - To + 1, so the current step t is row c = To - 1. ``r_i`` is the reference
(the measured quantity that an action field commands) at the time of row i, known for rows 0 ... c.

- ``absolute``: the targets themselves.
- ``chunk_relative``: every row minus the reference at the current step, a_i - r_c (UMI, Chi et al. 2024, calls them
  relative trajectories). Rotations are composed: R_c^T R_i, the target as seen from the present frame.
- ``delta``: rows up to the current step minus the reference of their own time, a_i - r_i; later rows minus the row
  before, a_i - a_(i-1); rotations R_(i-1)^T R_i. So what is executed (rows c and later) decodes from the observation at
  the current step alone.

Grippers stay absolute; fields that are increments or rates already (kinds ``delta`` and ``velocity``) stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from policies.rotations import SIZES, convert, from_matrix, to_matrix
from policies.spec import Field, InputError, Spec, suggest

MODES = ("absolute", "delta", "chunk_relative")
_NEEDS_REFERENCE = ("position", *SIZES)
_REFERENCE = re.compile(r"(?P<field>[A-Za-z_][\w.]*)(?:\[(?P<start>\d+)(?::(?P<stop>\d+))?\])?(?: as (?P<kind>rotation_\w+))?")


@dataclass(frozen=True)
class Reference:
    """Where in the observation the quantity that an action field commands is measured: elements [start, stop)."""

    field: str
    start: int
    stop: int
    kind: str  # the action field's kind, or another rotation representation

    def read(self, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return (B, To, stop - start) from field -> (B, To, *shape)."""
        if self.field not in observation:
            raise InputError(f"action reference {self.field!r} is not among the observations{suggest(self.field, observation)}")
        return observation[self.field].flatten(2)[..., self.start : self.stop]


def parse_reference(text: str, action_name: str, spec: Spec) -> Reference:
    """Parse ``FIELD``, ``FIELD[i]`` or ``FIELD[i:j]``, optionally followed by `` as rotation_quaternion`` and the like.

    Raises:
        InputError: if the text is not of that form, names no field, leaves the field, or has another size than the action.
    """
    where = f"reference of action field {action_name!r}"
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise InputError(f"{where}: {text!r} is not of the form observation.state[0:3]")
    name, action = match["field"], spec.action.fields[action_name]
    if name not in spec.observation.fields:
        raise InputError(f"{where}: no observation field {name!r}{suggest(name, spec.observation.fields)}")
    field = spec.observation.fields[name]
    if field.is_image:
        raise InputError(f"{where}: {name!r} is an image, expected a state")
    start = 0 if match["start"] is None else int(match["start"])
    stop = field.size if match["start"] is None else int(match["stop"]) if match["stop"] else start + 1
    if not start < stop <= field.size:
        raise InputError(f"{where}: {text!r} leaves {name!r}, which has {field.size} elements")
    kind = match["kind"] or action.kind
    if kind != action.kind and (kind not in SIZES or action.kind not in SIZES):
        raise InputError(f"{where}: {kind!r} is not a rotation representation of a rotation field{suggest(kind, SIZES)}")
    wanted = SIZES.get(kind, action.size)
    if stop - start != wanted:
        raise InputError(f"{where}: expected {wanted} elements ({kind}), {text!r} has {stop - start}")
    return Reference(name, start, stop, kind)


@dataclass(frozen=True)
class _Part:
    """One action field: where it lies in both vectors, and how it is encoded."""

    name: str
    field: Field
    outside: slice
    inside: slice
    kind: str  # in the encoded vector
    reference: Reference | None  # None: absolute

    @property
    def is_rotation(self) -> bool:
        return self.field.kind in SIZES


class ActionTransform:
    """Encodes action windows into what a policy predicts, and decodes predictions; both are pure functions of tensors.

    Attributes:
        mode: One of ``MODES``.
        dim: De, the number of encoded elements.
        kinds: Kind of each encoded element, for ``policies.normalize.default_modes``.
    """

    def __init__(self, mode: str, parts: tuple[_Part, ...], outside_dim: int) -> None:
        self.mode = mode
        self.dim = sum(p.inside.stop - p.inside.start for p in parts)
        self.kinds = tuple(p.kind for p in parts for _ in range(p.inside.stop - p.inside.start))
        self._parts = parts
        self._outside_dim = outside_dim

    @classmethod
    def from_config(cls, mode: str, spec: Spec, reference: Mapping[str, str] | None = None, rotation: str | None = None) -> ActionTransform:
        """Build the transform.

        Args:
            mode: ``absolute``, ``delta`` or ``chunk_relative``.
            spec: What is observed and commanded.
            reference: Action field -> where the observation measures it, e.g. ``{"position": "observation.state[0:3]"}``,
                with `` as rotation_quaternion`` behind it when the state has another rotation representation.
            rotation: Representation in which rotation fields are predicted, e.g. ``rotation_6d``; None: their own.

        Raises:
            InputError: unknown mode, field or representation, or a field that needs a reference and has none.
        """
        reference = dict(reference or {})
        if mode not in MODES:
            raise InputError(f"action mode {mode!r} is unknown{suggest(mode, MODES)}")
        if rotation is not None and rotation not in SIZES:
            raise InputError(f"rotation representation {rotation!r} is unknown{suggest(rotation, SIZES)}")
        for name in reference:
            if name not in spec.action.fields:
                raise InputError(f"action reference for {name!r}: no such action field{suggest(name, spec.action.fields)}")
        parts, start = [], 0
        for name, where in spec.action.slices.items():
            field = spec.action.fields[name]
            if field.kind in SIZES and field.size != SIZES[field.kind]:
                raise InputError(f"action field {name!r}: {field.kind} has {SIZES[field.kind]} elements, the spec says {field.size}")
            relative = mode != "absolute" and field.kind in _NEEDS_REFERENCE
            if relative and name not in reference:
                raise InputError(f"action field {name!r}: mode {mode!r} needs a reference, e.g. {name}: observation.state[0:{field.size}]")
            parsed = parse_reference(reference[name], name, spec) if name in reference else None
            kind = rotation if rotation and field.kind in SIZES else field.kind
            size = SIZES.get(kind, field.size)
            parts.append(_Part(name, field, where, slice(start, start + size), kind, parsed if relative else None))
            start += size
        return cls(mode, tuple(parts), spec.action.dim)

    @property
    def observation_fields(self) -> tuple[str, ...]:
        """Observation fields that encoding and decoding read."""
        return tuple(dict.fromkeys(p.reference.field for p in self._parts if p.reference is not None))

    def encode(self, actions: torch.Tensor, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return (B, T, De) from ``actions`` (B, T, Da), robot units, and observation field -> (B, To, *shape), T >= To."""
        return self._apply(actions, observation, self._outside_dim, encoding=True)

    def decode(self, encoded: torch.Tensor, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return (B, T, Da), robot units, from ``encoded`` (B, T, De); the inverse of :meth:`encode`.

        Rotations come back as the same rotation: quaternions with w >= 0, axis-angles at most pi long.
        """
        return self._apply(encoded, observation, self.dim, encoding=False)

    def _apply(self, window: torch.Tensor, observation: Mapping[str, torch.Tensor], dim: int, encoding: bool) -> torch.Tensor:
        if window.ndim != 3 or window.shape[-1] != dim:
            raise InputError(f"action window: expected shape (B, T, {dim}), found {tuple(window.shape)}")
        out = []
        for part in self._parts:
            piece = window[..., part.outside if encoding else part.inside]
            out.append(self._encode(part, piece, observation) if encoding else self._decode(part, piece, observation))
        return torch.cat(out, -1)

    def _reference(self, part: _Part, observation: Mapping[str, torch.Tensor], length: int) -> torch.Tensor:
        """Return the reference at rows 0 ... c, (B, To, n), as matrices (B, To, 3, 3) for rotations."""
        assert part.reference is not None
        rows = part.reference.read(observation)
        if rows.shape[1] > length:
            raise InputError(f"action window of {length} steps ends before the current step of {rows.shape[1]} observations")
        return to_matrix(rows, part.reference.kind) if part.is_rotation else rows

    def _encode(self, part: _Part, actions: torch.Tensor, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if part.reference is None:
            return convert(actions, part.field.kind, part.kind) if part.kind != part.field.kind else actions
        reference = self._reference(part, observation, actions.shape[1])
        targets = to_matrix(actions, part.field.kind) if part.is_rotation else actions
        if self.mode == "chunk_relative":
            base = reference[:, -1:].expand_as(targets)
        else:
            base = torch.cat([reference, targets[:, reference.shape[1] - 1 : -1]], 1)
        return from_matrix(base.mT @ targets, part.kind) if part.is_rotation else targets - base

    def _decode(self, part: _Part, encoded: torch.Tensor, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if part.reference is None:
            return convert(encoded, part.kind, part.field.kind) if part.kind != part.field.kind else encoded
        reference = self._reference(part, observation, encoded.shape[1])
        steps = to_matrix(encoded, part.kind) if part.is_rotation else encoded
        if self.mode == "chunk_relative":
            base = reference[:, -1:].expand_as(steps)
            return from_matrix(base @ steps, part.field.kind) if part.is_rotation else base + steps
        known = reference.shape[1]
        if not part.is_rotation:
            past = reference + steps[:, :known]
            return torch.cat([past, past[:, -1:] + steps[:, known:].cumsum(1)], 1)
        rows = [reference[:, i] @ steps[:, i] for i in range(known)]
        for i in range(known, steps.shape[1]):
            rows.append(rows[-1] @ steps[:, i])
        return from_matrix(torch.stack(rows, 1), part.field.kind)
