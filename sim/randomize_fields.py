"""Model fields by name: ``mass:pole`` is the mass of body ``pole``, ``friction:foot*`` the sliding friction of all geoms of such names.

A field is one of :data:`NAMED` or any floating-point field of ``MjModel`` by its own name (``geom_solref``, ``opt.wind``), with
``.x``, ``.y``, ``.z``, ``.r``, ``.g``, ``.b`` or a column number behind it for one component. The element is a name or a pattern with
``*``, ``?`` and ``[...]``; ``#3`` is the fourth element of its kind where it has no name.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.spec import InputError, suggest


@dataclass(frozen=True)
class Named:
    """One quantity.

    Attributes:
        field: The ``MjModel`` field that holds it.
        kind: What it belongs to: ``body``, ``joint``, ``geom``, ...; ``option`` for what the world has once.
        columns: Of the field, None for all.
        low: What it cannot fall below.
        high: What it cannot rise above.
        positive: Whether ``low`` itself is impossible too.
        also: How what is written goes on: see ``sim.randomize_physics``.
        unit: For people.
    """

    field: str
    kind: str
    columns: tuple[int, ...] | None = None
    low: float = -math.inf
    high: float = math.inf
    positive: bool = False
    also: str = ""
    unit: str = "1"


NAMED: dict[str, Named] = {
    "mass": Named("body_mass", "body", low=0.0, positive=True, also="mass", unit="kg"),
    "inertia": Named("body_inertia", "body", low=0.0, positive=True, also="inertia", unit="kg m2"),
    "center_of_mass": Named("body_ipos", "body", also="center_of_mass", unit="m"),
    "body_position": Named("body_pos", "body", unit="m"),
    "body_orientation": Named("body_quat", "body", also="rotation", unit="rad"),
    "friction": Named("geom_friction", "geom", (0,), low=0.0),
    "friction_spin": Named("geom_friction", "geom", (1,), low=0.0, unit="m"),
    "friction_roll": Named("geom_friction", "geom", (2,), low=0.0, unit="m"),
    "size": Named("geom_size", "geom", low=0.0, positive=True, also="size", unit="m"),
    "geom_position": Named("geom_pos", "geom", unit="m"),
    "geom_orientation": Named("geom_quat", "geom", also="rotation", unit="rad"),
    "damping": Named("dof_damping", "joint", low=0.0, unit="N s/m or N m s/rad"),
    "armature": Named("dof_armature", "joint", low=0.0, unit="kg or kg m2"),
    "frictionloss": Named("dof_frictionloss", "joint", low=0.0, unit="N or N m"),
    "stiffness": Named("jnt_stiffness", "joint", low=0.0, unit="N/m or N m/rad"),
    "kp": Named("actuator_gainprm", "actuator", (0,), low=0.0, also="kp"),
    "kd": Named("actuator_biasprm", "actuator", (2,), low=0.0, also="kd"),
    "gain": Named("actuator_gainprm", "actuator", (0,), also="gain"),
    "gear": Named("actuator_gear", "actuator", (0,)),
    "force_limit": Named("actuator_forcerange", "actuator", also="force_limit", unit="N or N m"),
    "gravity": Named("opt.gravity", "option", unit="m/s2"),
    "wind": Named("opt.wind", "option", unit="m/s"),
    "density": Named("opt.density", "option", low=0.0, unit="kg/m3"),
    "viscosity": Named("opt.viscosity", "option", low=0.0, unit="Pa s"),
    "camera_position": Named("cam_pos", "camera", unit="m"),
    "camera_orientation": Named("cam_quat", "camera", also="rotation", unit="rad"),
    "field_of_view": Named("cam_fovy", "camera", low=0.0, high=180.0, positive=True, unit="degrees"),
    "light_position": Named("light_pos", "light", unit="m"),
    "light_direction": Named("light_dir", "light", also="direction"),
    "light_color": Named("light_diffuse", "light", low=0.0, high=1.0),
    "light_ambient": Named("light_ambient", "light", low=0.0, high=1.0),
    "light_specular": Named("light_specular", "light", low=0.0, high=1.0),
    "color": Named("geom_rgba", "geom", (0, 1, 2), low=0.0, high=1.0),
    "material": Named("geom_matid", "geom", low=0.0, also="material"),
    "material_color": Named("mat_rgba", "material", (0, 1, 2), low=0.0, high=1.0),
    "site_position": Named("site_pos", "site", unit="m"),
}

#: Beginning of a field of ``MjModel`` -> (kind, accessor of the names, attribute that counts them).
_KINDS = {
    "body": ("body", "nbody"),
    "jnt": ("joint", "njnt"),
    "dof": ("joint", "njnt"),
    "geom": ("geom", "ngeom"),
    "site": ("site", "nsite"),
    "cam": ("camera", "ncam"),
    "light": ("light", "nlight"),
    "mat": ("material", "nmat"),
    "actuator": ("actuator", "nu"),
    "tendon": ("tendon", "ntendon"),
    "pair": ("pair", "npair"),
    "eq": ("equality", "neq"),
    "sensor": ("sensor", "nsensor"),
}
_COUNTS = dict(_KINDS.values())
_COMPONENTS = {"x": 0, "y": 1, "z": 2, "r": 0, "g": 1, "b": 2}
#: Fields that follow from others: written, they would be overwritten or contradict them (the time step: the rate of the task).
_DERIVED = ("rbound", "aabb", "subtreemass", "invweight0", "_M0", "acc0", "length0", "pos0", "poscom0", "mat0", "dir0", "user", "timestep")


@dataclass(frozen=True)
class Selection:
    """Which numbers of one field are meant: E elements with R rows of the field between them, C columns of each.

    Attributes:
        key: As it was given, e.g. ``mass:pole``.
        named: The quantity.
        elements: Names of the elements (E).
        rows: (R,) int64, first index into the field.
        element: (R,) int64 in [0, E), whose row it is (a free joint has six).
        columns: (C,) int64, second index.
        base: (R, C) float64, the model's own values.
    """

    key: str
    named: Named
    elements: tuple[str, ...]
    rows: np.ndarray
    element: np.ndarray
    columns: np.ndarray
    base: np.ndarray


def split_key(key: str) -> tuple[str, str]:
    """Return (field, pattern) of ``mass:pole``; the pattern is empty where there is none."""
    field, _, pattern = key.partition(":")
    return field.strip(), pattern.strip()


def select(key: str, model: Any, source: str = "randomize.model") -> Selection:
    """Find what ``key`` means in ``model`` (``mujoco.MjModel``).

    Raises:
        InputError: one line, if there is no such field or element; names the nearest.
    """
    name, pattern = split_key(key)
    named = _quantity(name, model, f"{source}: {key!r}")
    if named.kind == "option":
        if pattern:
            raise InputError(f"{source}: {key!r}: {name} belongs to the whole world; write {name!r}")
        elements, rows, element = ("world",), np.zeros(1, np.int64), np.zeros(1, np.int64)
    else:
        ids, elements = _elements(pattern, named, model, f"{source}: {key!r}")
        rows, element = _rows(named, ids, model)
    values = field_rows(named.field, model)
    columns = np.arange(values.shape[1]) if named.columns is None else np.array(named.columns)
    sign = -1.0 if named.also == "kd" else 1.0
    return Selection(key, named, elements, rows, element, columns.astype(np.int64), sign * values[rows][:, columns].astype(np.float64))


def field_rows(field: str, model: Any) -> np.ndarray:
    """Return the values of a field of ``model`` as (rows, columns), a copy; what the world has once has one row."""
    if field.startswith("opt."):
        return np.array(getattr(model.opt, field[4:]), np.float64).reshape(1, -1)
    values = np.array(getattr(model, field))
    return values.reshape(len(values), math.prod(values.shape[1:]))  # also when there are no rows


def _quantity(name: str, model: Any, where: str) -> Named:
    """Return the quantity ``name`` with the component behind it, if any."""
    whole, _, part = name.rpartition(".")
    if name in NAMED:
        return NAMED[name]
    if whole and whole != "opt":
        named = _quantity(whole, model, where)
        width = field_rows(named.field, model).shape[1] if named.columns is None else len(named.columns)
        index = _COMPONENTS.get(part, int(part) if part.isdigit() else -1)
        if named.also == "rotation" or not 0 <= index < width:
            what = "is drawn as a whole: small turns about x, y and z" if named.also == "rotation" else f"has {width} components (.x, .y, .z or a number)"
            raise InputError(f"{where}: {whole} {what}, found {part!r}")
        column = index if named.columns is None else named.columns[index]
        return Named(named.field, named.kind, (column,), named.low, named.high, named.positive, named.also, named.unit)
    same = [known for known in NAMED.values() if known.field == name and known.columns is None]
    if same:
        return same[0]
    prefix = name.partition("_")[0]
    owner = model.opt if name.startswith("opt.") else model
    values = getattr(owner, name.removeprefix("opt."), None)
    known = prefix in _KINDS or name.startswith("opt.")
    if not known or values is None or callable(values) or np.asarray(values).dtype.kind != "f" or any(name.endswith(end) for end in _DERIVED):
        raise InputError(f"{where}: there is no field {name!r} to vary{suggest(name, [*NAMED, *_own_fields(model)])}")
    also = "center_of_mass" if name == "body_iquat" else ""  # the same bodies have one
    return Named(name, "option" if name.startswith("opt.") else _KINDS[prefix][0], also=also)


def _own_fields(model: Any) -> list[str]:
    found = [n for n in dir(model) if n.partition("_")[0] in _KINDS and n.partition("_")[2] and not any(n.endswith(end) for end in _DERIVED)]
    return [n for n in found if getattr(getattr(model, n), "dtype", np.dtype(int)).kind == "f"]


def names_of(kind: str, model: Any) -> list[str]:
    """Return the names of all elements of a kind, ``#index`` for those without one."""
    return [getattr(model, kind)(i).name or f"#{i}" for i in range(getattr(model, _COUNTS[kind]))]


def _elements(pattern: str, named: Named, model: Any, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    names = names_of(named.kind, model)
    if not pattern:
        raise InputError(f"{where}: say of which {named.kind}, e.g. {where.rpartition(' ')[2][1:-1]}:{names[-1] if names else 'NAME'}, or :* for all")
    able = able_elements(named, model)
    if pattern in names:
        found = [names.index(pattern)]
        if not able[found[0]]:
            raise InputError(f"{where}: {_UNABLE.get(named.also, '{} has no such property').format(f'{named.kind} {pattern!r}')}")
    else:
        found = [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern) and able[i]]
    if not found:
        raise InputError(f"{where}: no {named.kind} {pattern!r}{suggest(pattern, [n for n, a in zip(names, able, strict=True) if a])}")
    return np.array(found, np.int64), tuple(names[i] for i in found)


_UNABLE = {
    "mass": "{} has no mass of its own",
    "inertia": "{} has no inertia of its own",
    "kp": "{} is no position servo: it has gain and gear, but no kp",
    "kd": "{} is no position or velocity servo: it has no kd",
    "gain": "{} is a servo: vary its kp or kd",
    "force_limit": "{} has no force limit: write a forcerange into its MJCF",
    "center_of_mass": "{} is compiled as simple (its centre of mass is its frame's origin); write simple='false' into its MJCF body",
    "size": "{} has no size that could vary (a mesh or a height field)",
}


def able_elements(named: Named, model: Any) -> np.ndarray:
    """Return (count,) bool: which elements have the quantity at all; patterns match those alone."""
    able = np.ones(getattr(model, _COUNTS[named.kind]), bool)
    if named.also in ("mass", "inertia"):
        return np.asarray(model.body_mass) > 0
    if named.also == "center_of_mass":
        return np.asarray(model.body_simple) == 0
    if named.also in ("kp", "kd", "gain"):
        gain, bias = np.asarray(model.actuator_gainprm), np.asarray(model.actuator_biasprm)
        position = (bias[:, 1] != 0) & (bias[:, 1] == -gain[:, 0])
        velocity = (bias[:, 1] == 0) & (bias[:, 2] != 0) & (bias[:, 2] == -gain[:, 0])
        return {"kp": position, "kd": position | velocity, "gain": ~(position | velocity)}[named.also]
    if named.also == "force_limit":
        return np.asarray(model.actuator_forcelimited) != 0
    if named.also == "size":
        return np.isin(model.geom_type, _SIZED)
    return able


#: ``mjtGeom`` of spheres, capsules, ellipsoids, cylinders and boxes: what has sizes (a plane's is only drawn).
_SIZED = (2, 3, 4, 5, 6)


def _rows(named: Named, ids: np.ndarray, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the field that belong to elements ``ids``, and for each whose it is."""
    if not named.field.startswith("dof_"):
        return ids, np.arange(len(ids))
    owner = np.asarray(model.dof_jntid)
    rows = np.concatenate([np.flatnonzero(owner == joint) for joint in ids])
    return rows.astype(np.int64), np.searchsorted(ids, owner[rows])


def material_ids(model: Any) -> Mapping[str, int]:
    """Return name -> id of the materials."""
    return {name: i for i, name in enumerate(names_of("material", model))}
