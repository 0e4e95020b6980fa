"""Where the robot must not be: workspace planes, keep-out spheres, and the robot itself.

Every body shape is a capsule (a segment and a radius); a sphere is one of length zero, other shapes are enclosed by one.
A barrier is a distance h(q) less the margin; its gradient is n . J(x), with x the nearest point and n the direction away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from policies.kinematics import Kinematics
from policies.spec import InputError, suggest
from real.safety.capsules import Capsules, Screws, Segments


class Plane(BaseModel):
    """The robot stays on the side that ``normal`` points to; its base does not count.

    Attributes:
        point: A point on the plane, m, in the world frame of the robot's model.
        normal: Direction of the allowed side, any length.
        name: For logs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    point: tuple[float, float, float]
    normal: tuple[float, float, float]
    name: str = ""

    @field_validator("normal")
    @classmethod
    def _not_zero(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        length = float(np.linalg.norm(value))
        if not (np.isfinite(length) and length > 0):
            raise ValueError("a normal has a direction")
        return (value[0] / length, value[1] / length, value[2] / length)


class Sphere(BaseModel):
    """The robot stays outside; centre and radius in m, in the world frame of the robot's model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    center: tuple[float, float, float]
    radius: float = Field(gt=0)
    name: str = ""


class BarrierConfig(BaseModel):
    """Barriers of a robot.

    Attributes:
        planes, spheres: The workspace.
        self_collision: Whether the robot's own parts keep apart: all pairs of body shapes except those of one body, of
            neighbours, those the model itself excludes, and those closer than the margin at the home pose.
        margin_m: Distance that is always kept.
        reserve_m: Distance beyond the margin at which the filter begins to hold off, so that a stop can be verified
            with few evaluations.
        alpha: Rate at which the distance left, at the place where the robot would stop, may be used up, 1/s.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    planes: tuple[Plane, ...] = ()
    spheres: tuple[Sphere, ...] = ()
    self_collision: bool = False
    margin_m: float = Field(0.01, ge=0)
    reserve_m: float = Field(0.005, ge=0)
    alpha: float = Field(8.0, gt=0)

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> BarrierConfig:
        """Read a mapping. Raises InputError, one line: which key, what is wrong, the nearest valid name."""
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                known = {"planes": Plane, "spheres": Sphere}.get(str(first["loc"][0]), cls).model_fields
                raise InputError(f"barriers: unknown key {where!r}{suggest(str(first['loc'][-1]), known)}") from error
            raise InputError(f"barriers: {where}: {first['msg']}, found {first['input']!r}") from error


class Barriers:
    """Distances of a robot to all its barriers, with gradients.

    Args:
        config: What to keep away from, or the mapping that :meth:`BarrierConfig.parse` reads.
        kinematics: The robot, with the joints that commands are about.

    Attributes:
        names: One per barrier, K of them, e.g. ``plane0:hand`` or ``link3:link7``.
        excluded: Pairs and parts that are not kept apart, with the reason.
        lever_arms: (K, n) bounds of the gradients over all configurations: m per rad, or 1.
        config: As read.
    """

    def __init__(self, config: BarrierConfig | Mapping[str, Any], kinematics: Kinematics) -> None:
        self.config = config if isinstance(config, BarrierConfig) else BarrierConfig.parse(config)
        self._capsules = Capsules(kinematics)
        self._screws = Screws(kinematics, self._capsules.data)
        self.n = kinematics.n
        moved = self._screws.moves  # (bodies, n): which joints move a body
        self.names, self.excluded = (), ()
        self._vectors: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._choose_pairs(kinematics, moved)
        self._drop_what_touches(kinematics.home)
        self.lever_arms = self._lever_arms(moved)

    def _choose_pairs(self, kinematics: Kinematics, moved: np.ndarray) -> None:
        """List planes x parts, spheres x parts and pairs of parts as index arrays."""
        parts = self._capsules
        names: list[str] = []
        moving = [g for g in range(parts.count) if moved[parts.body[g]].any()]
        planes = [(p, g) for p in range(len(self.config.planes)) for g in moving]
        spheres = [(s, g) for s in range(len(self.config.spheres)) for g in moving]
        names += [f"{self.config.planes[p].name or f'plane{p}'}:{parts.names[g]}" for p, g in planes]
        names += [f"{self.config.spheres[s].name or f'sphere{s}'}:{parts.names[g]}" for s, g in spheres]
        pairs = [(a, b) for a, b in parts.separate_pairs() if (moved[parts.body[a]] != moved[parts.body[b]]).any()] if self.config.self_collision else []
        names += [f"{parts.names[a]}:{parts.names[b]}" for a, b in pairs]
        self._plane = np.array([p for p, _ in planes], np.intp)
        self._plane_part = np.array([g for _, g in planes], np.intp)
        # A keep-out sphere is a part of length zero that no joint moves, numbered after the robot's own.
        self._first = np.array([g for _, g in spheres] + [a for a, _ in pairs], np.intp)
        self._second = np.array([parts.count + s for s, _ in spheres] + [b for _, b in pairs], np.intp)
        self.names = tuple(names)
        self._normals = np.array([p.normal for p in self.config.planes], np.float64).reshape(-1, 3)
        self._points = np.array([p.point for p in self.config.planes], np.float64).reshape(-1, 3)
        centers = np.array([s.center for s in self.config.spheres], np.float64).reshape(-1, 3)
        self._centers = centers
        self._radii = np.concatenate([parts.radius, [s.radius for s in self.config.spheres]])
        self._settle(moved)

    def _settle(self, moved: np.ndarray) -> None:
        """Gather per barrier what every evaluation needs."""
        signs = np.concatenate([moved[self._capsules.body], np.zeros((len(self.config.spheres), self.n))])  # (parts, n)
        self._mask = np.concatenate([signs[self._plane_part], signs[self._first] - signs[self._second]])
        self._normal = self._normals[self._plane]
        planes = (self._normal * self._points[self._plane]).sum(axis=1) + self._radii[self._plane_part]
        self._offset = np.concatenate([planes, self._radii[self._first] + self._radii[self._second]]) + self.config.margin_m
        parts, count = self._capsules.count, len(self._radii)
        lengths = np.concatenate([np.linalg.norm(self._capsules.local[..., 1] - self._capsules.local[..., 0], axis=1), np.zeros(count - parts)])
        self._segments = Segments(count, len(self._normals), self._first, self._second, self._plane, self._plane_part, lengths)
        self._vectors.clear()

    def _drop_what_touches(self, home: np.ndarray) -> None:
        """Leave out what is nearer than the margin at the home pose: it could never move."""
        h = self.path(home[None])[0]
        keep = h >= 0
        d = h + self.config.margin_m
        self.excluded = (*self._capsules.neighbours(), *(f"{self.names[k]}: {d[k]:.4f} m apart at the home pose" for k in np.flatnonzero(~keep)))
        planes = len(self._plane)
        self._plane, self._plane_part = self._plane[keep[:planes]], self._plane_part[keep[:planes]]
        self._first, self._second = self._first[keep[planes:]], self._second[keep[planes:]]
        self.names = tuple(name for name, kept in zip(self.names, keep, strict=True) if kept)
        self._settle(self._screws.moves)

    def _lever_arms(self, moved: np.ndarray) -> np.ndarray:
        """Bound |dh/dq| (K, n) by the longest way from a joint to the ends of a part."""
        reach = np.concatenate([self._capsules.reaches(self._screws), np.zeros((len(self.config.spheres), self.n))])  # (parts, n)
        pairs = np.where(np.abs(self._mask[len(self._plane) :]) > 0, np.maximum(reach[self._first], reach[self._second]), 0.0)
        # Turning about an axis that never moves and is normal to the plane leaves the distance alone.
        planes = reach[self._plane_part] * self._screws.inclination(self._normal)
        return np.concatenate([planes, pairs])

    def path(self, q: np.ndarray) -> np.ndarray:
        """Return distances less margin (T, K), m, at configurations ``q`` (T, n)."""
        distance, _, _, height = self._segments.solve(self._placed(q))
        return np.concatenate([height, distance], axis=1) - self._offset

    def distances(self, q: np.ndarray) -> np.ndarray:
        """Return distances less margin (K,), m, at joint positions ``q`` (n,)."""
        return self.path(np.reshape(q, (1, self.n)))[0]

    def rows(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances less margin (K,), m, and their gradients (K, n) at joint positions ``q`` (n,)."""
        vectors = self._placed(np.reshape(q, (1, self.n)))
        distance, s, t, height = self._segments.solve(vectors)
        vectors, count = vectors[0], len(self._radii)
        along = vectors[self._plane_part + count]
        lower = (along * self._normal).sum(axis=1) < 0  # whether the end of a part is nearer to the plane than its start
        on_plane = vectors[self._plane_part] + along * lower[:, None]
        x = vectors[self._first] + s[:, None] * vectors[self._first + count]
        gap = x - vectors[self._second] - t[:, None] * vectors[self._second + count]
        away = gap / np.maximum(distance[0], 1e-12)[:, None]
        gradient = self._screws.along(np.concatenate([on_plane, x]), np.concatenate([self._normal, away]))
        return np.concatenate([height[0], distance[0]]) - self._offset, gradient * self._mask

    def _placed(self, q: np.ndarray) -> np.ndarray:
        """Return starts and directions of all parts and keep-out spheres, and the planes' normals, (T, rows, 3); valid until the next call."""
        count, parts, every = len(q), self._capsules.count, len(self._radii)
        if count not in self._vectors:
            whole = np.zeros((count, 2 * every + len(self._normals), 3))
            whole[:, parts:every], whole[:, 2 * every :] = self._centers, self._normals
            self._vectors[count] = whole, np.empty((count, 2 * parts, 3))
        whole, own = self._vectors[count]
        self._capsules.place(q, own)
        whole[:, :parts], whole[:, every : every + parts] = own[:, :parts], own[:, parts:]
        return whole
