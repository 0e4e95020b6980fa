"""Environments and actors while they are being made, and what all environments have to have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from policies.spec import InputError
from sim.isaacgym.asset import Asset
from sim.isaacgym.layout import ActorKind
from sim.isaacgym.parameters import RigidBodyProperties, RigidShapeProperties
from sim.isaacgym.structures import Transform, Vec3

if TYPE_CHECKING:
    from sim.isaacgym.world import Sim


@dataclass
class Actor:
    """One actor of one environment, with what was set on it before the worlds were made."""

    asset: Asset
    pose: Transform
    name: str
    group: int
    mask: int
    dofs: np.ndarray | None = None
    bodies: list[tuple[list[RigidBodyProperties], bool]] = field(default_factory=list)
    shapes: list[RigidShapeProperties] = field(default_factory=list)  # those of the asset when the actor was made, until set

    def __post_init__(self) -> None:
        self.shapes = self.shapes or self.asset.shape_properties

    def kind(self, group: int) -> ActorKind:
        """Return what has to be the same in every environment; ``group`` stands for the collision group."""
        return ActorKind(self.asset, self.name, group, tuple(shape.filter or max(self.mask, 0) for shape in self.shapes))


@dataclass(eq=False)
class Env:
    """One environment: where it lies and its actors, whose handles are their indices."""

    sim: Sim
    index: int
    origin: Vec3
    actors: list[Actor] = field(default_factory=list)


def _kinds(env: Env) -> list[ActorKind]:
    """Return what has to agree between environments: groups by who shares them, not by their numbers."""
    groups: dict[int, int] = {-1: -1}
    return [replace(actor.kind(groups.setdefault(actor.group, len(groups))), name="") for actor in env.actors]


def agreed_kinds(envs: Sequence[Env]) -> list[ActorKind]:
    """Return the actors that every environment has, with the names of environment 0.

    Raises:
        InputError: if there are none, or environments differ in assets, collision groups or filters; names the first that does.
    """
    if not envs or not envs[0].actors:
        raise InputError("prepare_sim: there is no environment with an actor in it")
    first = _kinds(envs[0])
    for env in envs[1:]:
        kinds = _kinds(env)
        if kinds != first:
            what = next((k for k, (a, b) in enumerate(zip(first, kinds, strict=False)) if a != b), min(len(first), len(kinds)))
            raise InputError(
                f"prepare_sim: environment {env.index} differs from environment 0 at actor {what}: all environments must have the same assets, "
                "collision groups and filters in the same order; poses and properties may differ"
            )
    return [replace(kind, name=actor.name) for kind, actor in zip(first, envs[0].actors, strict=True)]
