"""A compiled MuJoCo model in Bullet's terms: trees of links, shapes, who collides with whom, and with what friction.

Numbers only; ``sim/bullet_world.py`` builds from them. Left out, since Bullet has no counterpart: the softness of contacts
(``solref``, ``solimp``), margins, torsional and rolling friction. Refused: what would make it another robot.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.spec import InputError

_NO_FRICTION = 1e-6  # stands for none where logarithms are taken
_PRIMITIVES, _HULLS = ("sphere", "capsule", "cylinder", "box"), ("ellipsoid", "mesh")
_ELLIPSOID = 200  # points of its hull, which lies up to 1 % inside


@dataclass
class Link:
    """One link of a tree, in the order of Bullet's arrays.

    Attributes:
        body: MuJoCo body that it belongs to.
        joint: MuJoCo joint that moves it against its parent; -1: fixed.
        parent: Index of the parent link; -1: the base.
        position: (3,) of its frame in that of the parent, m.
        orientation: (4,) wxyz, likewise.
        offset: (3,) of the body's frame in that of the link, m (a link's frame lies on its joint).
        heavy: Whether it has the body's mass; otherwise it has next to none.
        shape: Index into :attr:`Translation.shapes`; -1: none.
    """

    body: int
    joint: int
    parent: int
    position: np.ndarray
    orientation: np.ndarray
    offset: np.ndarray
    heavy: bool = True
    shape: int = -1


@dataclass
class Tree:
    """Bodies that hang together; ``base`` is the body that floats freely, or -1 where the tree stands on the world."""

    base: int
    base_shape: int = -1
    links: list[Link] = field(default_factory=list)


@dataclass
class Translation:
    """What Bullet is told.

    Attributes:
        trees: Everything with joints.
        shapes: Geoms of one body that collide with the same others and have the same friction: tuples of geom ids.
        fixed: Indices of shapes (one geom each) that stand on the world or on a mocap body.
        places: Shape -> (tree, link), of the shapes that move with a joint.
        meets: (S, S) bool, which shapes collide.
    """

    trees: list[Tree]
    shapes: list[tuple[int, ...]]
    fixed: list[int]
    places: dict[int, tuple[int, int]]
    meets: np.ndarray


def translate(model: Any) -> Translation:
    """Translate ``model`` (``mujoco.MjModel``). Raises InputError naming the first thing that Bullet cannot do."""
    _require_known(model)
    geoms = collisions(model)
    shapes = _shapes(model, geoms)
    of_body: dict[int, list[int]] = {}
    fixed: list[int] = []
    for index, shape in enumerate(shapes):
        body = int(model.geom_bodyid[shape[0]])
        if model.body_treeid[body] < 0:
            fixed.append(index)
        else:
            of_body.setdefault(body, []).append(index)
    trees = _trees(model, of_body)
    places = {link.shape: (t, k) for t, tree in enumerate(trees) for k, link in enumerate(tree.links) if link.shape >= 0}
    places |= {tree.base_shape: (t, -1) for t, tree in enumerate(trees) if tree.base_shape >= 0}
    first = [shape[0] for shape in shapes]
    meets = geoms[np.ix_(first, first)] if shapes else np.zeros((0, 0), bool)
    return Translation(trees, shapes, fixed, places, meets)


def collisions(model: Any) -> np.ndarray:
    """Return (ngeom, ngeom) bool: which geoms MuJoCo lets collide (bit masks, welded and neighbouring bodies, excluded and listed pairs)."""
    import mujoco

    flags = mujoco.mjtDisableBit
    if model.opt.disableflags & int(flags.mjDSBL_CONTACT | flags.mjDSBL_CONSTRAINT):
        return np.zeros((model.ngeom, model.ngeom), bool)
    body, weld = model.geom_bodyid, model.body_weldid[model.geom_bodyid]
    masks = (model.geom_contype[:, None] & model.geom_conaffinity[None, :]) != 0
    stands = model.body_treeid[body] < 0
    out = (masks | masks.T) & (weld[:, None] != weld[None, :]) & ~(stands[:, None] & stands[None, :])
    if not model.opt.disableflags & int(flags.mjDSBL_FILTERPARENT):
        above = model.body_weldid[model.body_parentid[weld]]
        child = (above[:, None] == weld[None, :]) & (weld[:, None] != 0) & (weld[None, :] != 0)
        out &= ~(child | child.T)
    for signature in model.exclude_signature:
        pair = np.isin(body, [signature >> 16]), np.isin(body, [signature & 0xFFFF])
        out &= ~(pair[0][:, None] & pair[1][None, :] | pair[1][:, None] & pair[0][None, :])
    for one, two in zip(model.pair_geom1, model.pair_geom2, strict=True):
        out[one, two] = out[two, one] = True
    return out


def friction_factors(model: Any, translation: Translation, friction: np.ndarray) -> np.ndarray:
    """Return (S,) friction coefficients whose products (Bullet) come nearest to the pairwise maxima (MuJoCo).

    Exact where all that moves has one coefficient and all that stands another; otherwise a least-squares fit of logarithms.

    Args:
        model: ``mujoco.MjModel``.
        translation: Of it.
        friction: (ngeom, 3), sliding friction first.
    """
    first = [shape[0] for shape in translation.shapes]
    slide, condim = np.maximum(friction[first, 0], _NO_FRICTION), model.geom_condim[first]
    one, two = np.nonzero(np.triu(translation.meets))
    if not one.size:
        return np.sqrt(slide)
    wanted = np.where(np.maximum(condim[one], condim[two]) > 1, np.maximum(slide[one], slide[two]), _NO_FRICTION)
    rows = np.zeros((one.size, len(first)))
    rows[np.arange(one.size), one] += 1
    rows[np.arange(one.size), two] += 1
    return np.exp(np.linalg.lstsq(rows, np.log(wanted), rcond=None)[0])


def _shapes(model: Any, geoms: np.ndarray) -> list[tuple[int, ...]]:
    """Group the geoms that collide: those that stand and hulls alone, the others of a body where they collide and rub alike."""
    groups: dict[Any, list[int]] = {}
    for geom in np.flatnonzero(geoms.any(axis=1)).tolist():
        body, kind = int(model.geom_bodyid[geom]), geom_kind(model, geom)
        stands = model.body_treeid[body] < 0
        if kind not in (*_PRIMITIVES, *_HULLS, *(("plane",) if stands else ()), *(("hfield",) if stands and not carrier(model, geom) else ())):
            where = "standing" if stands else "moving"
            raise InputError(f"engine 'bullet' has no {kind} on this {where} body: geom {model.geom(geom).name or geom!r}; make it of boxes, capsules, spheres")
        alike = (body, geoms[geom].tobytes(), model.geom_friction[geom].tobytes(), int(model.geom_condim[geom]))
        groups.setdefault((geom,) if stands or kind in _HULLS else alike, []).append(geom)
    return [tuple(group) for group in groups.values()]


def geom_kind(model: Any, geom: int) -> str:
    """Return e.g. ``capsule``."""
    import mujoco

    return mujoco.mjtGeom(int(model.geom_type[geom])).name.removeprefix("mjGEOM_").lower()


def hull(model: Any, geom: int) -> np.ndarray:
    """Return points (n, 3), m, in the geom's frame, whose convex hull is the mesh's, or nearly an ellipsoid."""
    if geom_kind(model, geom) == "ellipsoid":
        k = np.arange(_ELLIPSOID) + 0.5
        polar, around = np.arccos(1 - 2 * k / _ELLIPSOID), np.pi * (1 + np.sqrt(5)) * k  # spread evenly along a spiral
        ball = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=1)
        return ball * model.geom_size[geom]
    mesh = int(model.geom_dataid[geom])
    points = model.mesh_vert[model.mesh_vertadr[mesh] : model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh]]
    graph = int(model.mesh_graphadr[mesh])
    if graph < 0:
        return points
    count = int(model.mesh_graph[graph])
    return points[model.mesh_graph[graph + 2 + count : graph + 2 + 2 * count]]


def terrain(model: Any, geom: int) -> tuple[np.ndarray, np.ndarray]:
    """Return heights (rows, columns), m, of a height field, rows along y, and its spacing (2,), m, along x and y."""
    field = int(model.geom_dataid[geom])
    rows, columns, start = int(model.hfield_nrow[field]), int(model.hfield_ncol[field]), int(model.hfield_adr[field])
    heights = model.hfield_data[start : start + rows * columns].reshape(rows, columns) * model.hfield_size[field, 2]
    return heights, 2 * model.hfield_size[field, :2] / [columns - 1, rows - 1]


def _trees(model: Any, shapes: dict[int, list[int]]) -> list[Tree]:
    """Lay the bodies with joints out as links; ``shapes``: those of every body."""
    import mujoco

    world = mujoco.MjData(model)
    mujoco.mj_kinematics(model, world)
    free, trees = int(mujoco.mjtJoint.mjJNT_FREE), []
    place: dict[int, tuple[int, int, np.ndarray, np.ndarray]] = {}  # body -> tree, link, pose of the body in the link's frame
    for body in np.flatnonzero(model.body_treeid >= 0).tolist():
        parent = int(model.body_parentid[body])
        own, joints = shapes.get(body, []), list(range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]))
        if joints and model.jnt_type[joints[0]] == free:
            trees.append(Tree(body, own[0] if own else -1))
            place[body] = len(trees) - 1, -1, np.zeros(3), np.array([1.0, 0, 0, 0])
            _add_shapes(trees[-1], -1, body, np.zeros(3), own[1:])
            continue
        if model.body_treeid[parent] < 0:
            trees.append(Tree(-1))
            place[parent] = len(trees) - 1, -1, world.xpos[parent].copy(), world.xquat[parent].copy()
        index, link, position, orientation = place[parent]
        position, orientation = position + rotated(orientation, model.body_pos[body]), product(orientation, model.body_quat[body])
        tree, anchor = trees[index], np.zeros(3)
        if not joints and not own and model.body_mass[body] == 0:
            place[body] = index, link, position, orientation
            continue
        for joint in joints or [-1]:
            new = model.jnt_pos[joint] if joint >= 0 else np.zeros(3)
            at = position + rotated(orientation, new - anchor)
            tree.links.append(Link(body, joint, link, at, orientation, -new, heavy=joint == (joints or [-1])[-1]))
            link, anchor, position, orientation = len(tree.links) - 1, new, np.zeros(3), np.array([1.0, 0, 0, 0])
        tree.links[-1].shape = own[0] if own else -1
        place[body] = index, link, -anchor, np.array([1.0, 0, 0, 0])
        _add_shapes(tree, link, body, -anchor, own[1:])
    return trees


def _add_shapes(tree: Tree, link: int, body: int, offset: np.ndarray, shapes: list[int]) -> None:
    """Give a body further shapes, each on a fixed link without mass, since Bullet filters and rubs by link."""
    still = np.array([1.0, 0, 0, 0])
    tree.links += [Link(body, -1, link, np.zeros(3), still, offset, heavy=False, shape=shape) for shape in shapes]


def _require_known(model: Any) -> None:
    import mujoco

    def named(kind: str, index: Any) -> str:
        return repr(getattr(model, kind)(int(index)).name or int(index))

    def refuse(what: str) -> None:
        raise InputError(f"engine 'bullet' cannot do {what}; use engine=mujoco")

    balls = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_BALL))
    if balls.size:
        refuse(f"the ball joint {named('joint', balls[0])}: make it of three hinges")
    if np.any(model.eq_active0):
        refuse(f"equality constraints: {named('equality', np.flatnonzero(model.eq_active0)[0])}")
    bad = np.flatnonzero(model.tendon_limited | (model.tendon_frictionloss > 0) | (model.tendon_armature > 0)) if model.ntendon else np.zeros(0)
    if bad.size:
        refuse(f"limit, friction or inertia of tendon {named('tendon', bad[0])}")
    if model.nflex or model.nplugin:
        refuse("flexible bodies or plugins")
    for body in np.flatnonzero(model.body_mocapid >= 0):
        below = [b for b in range(body + 1, model.nbody) if body in _ancestors(model, b) and model.body_treeid[b] >= 0]
        if below:
            refuse(f"a jointed body {named('body', below[0])} on the mocap body {named('body', body)}")


def _ancestors(model: Any, body: int) -> list[int]:
    out = []
    while body:
        body = int(model.body_parentid[body])
        out.append(body)
    return out


def carrier(model: Any, geom: int) -> int:
    """Return the mocap body that carries a standing geom, or 0 where none does."""
    body = int(model.geom_bodyid[geom])
    return next((b for b in [body, *_ancestors(model, body)] if model.body_mocapid[b] >= 0), 0)


def rotated(quat: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return ``vector`` (..., 3) turned by ``quat`` (..., 4) wxyz."""
    w, u = quat[..., :1], quat[..., 1:]
    return vector + 2 * np.cross(u, np.cross(u, vector) + w * vector)


def product(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the quaternion (..., 4) wxyz of the rotation ``two`` followed by ``one``."""
    w, u, s, v = one[..., :1], one[..., 1:], two[..., :1], two[..., 1:]
    return np.concatenate([w * s - (u * v).sum(-1, keepdims=True), w * v + s * u + np.cross(u, v)], axis=-1)


def inverse(quat: np.ndarray) -> np.ndarray:
    """Return the conjugate of ``quat`` (..., 4) wxyz."""
    return quat * np.array([1.0, -1, -1, -1])
