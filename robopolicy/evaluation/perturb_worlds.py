"""What is changed inside the worlds: masses, friction, gains, cameras, lights and colours, and pushes.

Changed fields are sections of ``sim.randomize`` with fixed values (a camera's direction and a surface's tint are drawn from the
episode's seed). Worlds on an engine of ``sim.engine`` get a randomizer; suites whose rows each have a MuJoCo model of their own offer
:class:`MujocoRows` and get one a row.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from policies.spec import InputError, suggest
from robopolicy.evaluation.perturb import KINDS, Perturbation
from robopolicy.evaluation.perturb_signals import key
from sim.env import BatchEnv
from sim.randomize import Randomizer
from sim.randomize_config import FieldDraw, RandomizeConfig
from sim.randomize_fields import NAMED, able_elements, names_of
from sim.randomize_signals import step_uniform

_ANGLE = 13  # stream of the directions of pushes
_DRAWN_GROUPS = 3  # geoms of groups 0, 1 and 2 are drawn by default


@runtime_checkable
class MujocoRows(Protocol):
    """Worlds of which each has a MuJoCo model of its own."""

    def mujoco_row(self, row: int) -> tuple[Any, Any]:
        """Return the live ``MjModel`` and ``MjData`` that world ``row``'s present episode is stepped and drawn with."""
        ...


def on_engine(world: BatchEnv) -> bool:
    """Whether worlds are on an engine of ``sim.engine`` and take a randomizer."""
    return hasattr(world, "engine") and hasattr(world, "randomizer")


def require(world: BatchEnv, perturbations: Sequence[Perturbation]) -> None:
    """Refuse what these worlds cannot have.

    Raises:
        InputError: one line: the kind, the task, why not, and what it can have.
    """
    for p in perturbations:
        if p.about.side not in ("world", "pictures"):
            continue
        if not on_engine(world) and not isinstance(world, MujocoRows):
            everywhere = ", ".join(name for name, kind in KINDS.items() if kind.side in ("sensors", "actions"))
            raise InputError(f"perturbation {p}: the worlds of task {world.task!r} offer no model to change; every task can have {everywhere}")
        if p.about.side == "pictures" and not world.spec.observation.image_names:
            raise InputError(f"perturbation {p}: nothing is seen in these worlds of task {world.task!r}: it acts on camera pictures (observations=image)")
        if p.kind == "push" and on_engine(world) and world.engine.name == "bullet":
            raise InputError(f"perturbation {p}: engine 'bullet' takes no forces on bodies; use engine mujoco")


def section(p: Perturbation, model: Any, task: str, cameras: Sequence[str] = ()) -> dict[str, FieldDraw]:
    """Return the draws of model fields that one perturbation of a ``MjModel`` is.

    Args:
        p: The perturbation.
        model: ``mujoco.MjModel``.
        task: Registered name.
        cameras: Whose pictures are observed.

    Raises:
        InputError: if the model has nothing of the kind.
    """
    makers: dict[str, Callable[[Perturbation, Any], dict[str, Any]]] = {
        "mass": lambda p, m: _all(p, m, "mass", scale=p.size),
        "friction": _friction,
        "damping": lambda p, m: _all(p, m, "damping", scale=p.size),
        "gain": lambda p, m: {**_all(p, m, "kp", scale=p.size), **_all(p, m, "gain", scale=p.size)},
        "camera": lambda p, m: _cameras(p, m, cameras, "camera_position", p.size / 100),
        "camera_turn": lambda p, m: _cameras(p, m, cameras, "camera_orientation", math.radians(p.size)),
        "light": _light,
        "texture": _texture,
    }
    found = makers[p.kind](p, model)
    if not found:
        named = f" {p.element!r}" if p.element else ""
        raise InputError(f"perturbation {p}: task {task!r} has no {_MEANT[p.kind]}{named}{_near(p, model)}")
    return {name: FieldDraw.model_validate(draw) for name, draw in found.items()}


_MEANT = {
    "mass": "body with a mass",
    "friction": "surface or joint",
    "damping": "joint",
    "gain": "motor or servo",
    "camera": "observed camera that its model holds",
    "camera_turn": "observed camera that its model holds",
    "light": "light",
    "texture": "coloured surface",
    "push": "body",
}
_OWNERS = {"mass": "body", "friction": "geom", "damping": "joint", "gain": "actuator", "camera": "camera", "camera_turn": "camera", "light": "light"}


def _near(p: Perturbation, model: Any) -> str:
    return suggest(p.element, names_of(_OWNERS.get(p.kind, "body"), model)) if p.element else ""


def _matching(p: Perturbation, names: Sequence[str], able: np.ndarray | None = None) -> list[str]:
    return [n for i, n in enumerate(names) if (able is None or able[i]) and fnmatch.fnmatchcase(n, p.element or "*")]


def _all(p: Perturbation, model: Any, field: str, **draw: Any) -> dict[str, Any]:
    """Return one draw for all elements that have ``field`` and are meant; empty where there are none."""
    named = NAMED[field]
    matching = _matching(p, names_of(named.kind, model), able_elements(named, model))
    return {f"{field}:{p.element or '*'}": draw} if matching else {}


def _cameras(p: Perturbation, model: Any, observed: Sequence[str], field: str, size: float) -> dict[str, Any]:
    """Move or turn what is observed from; a suite that looks through a camera outside its model has nothing to move."""
    held = names_of("camera", model)
    return {f"{field}:{name}": {"add": {"direction": size}} for name in _matching(p, observed) if name in held}


def _friction(p: Perturbation, model: Any) -> dict[str, Any]:
    out = {**_all(p, model, "friction", scale=p.size), **_all(p, model, "frictionloss", scale=p.size)}
    if not p.element and model.npair:  # contacts that are written out have a friction of their own
        out |= {f"pair_friction.{column}:*": {"scale": p.size} for column in (0, 1)}
    return out


def _light(p: Perturbation, model: Any) -> dict[str, Any]:
    """Scale every light; one that would be more than fully on stays fully on."""
    out: dict[str, Any] = {}
    names = names_of("light", model)
    for name in _matching(p, names):
        for field in ("light_color", "light_ambient", "light_specular"):
            most = float(getattr(model, NAMED[field].field)[names.index(name)].max())
            if most > 0:
                out[f"{field}:{name}"] = {"scale": min(p.size, max(1.0, 1.0 / most))}
    return out


def _dim(model: Any, factor: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Scale the light that goes with the camera; returns its live values with copies of what they were."""
    headlight = model.vis.headlight
    parts = [headlight.ambient, headlight.diffuse, headlight.specular]
    kept = [(part, part.copy()) for part in parts]
    for part in parts:
        part *= min(factor, max(1.0, 1.0 / max(float(part.max()), 1e-6)))
    return kept


def _texture(p: Perturbation, model: Any) -> dict[str, Any]:
    """Tint every material, and every visible geom that has a colour of its own: each channel by a factor from 1 - size to 1."""
    tint = {"scale": {"uniform": [1.0 - p.size, 1.0]}, "per": "component"}
    out: dict[str, Any] = {f"material_color:{p.element or '*'}": tint} if _matching(p, names_of("material", model)) else {}
    plain = (np.asarray(model.geom_matid) < 0) | (np.asarray(model.geom_rgba) != _UNSET).any(axis=1)
    plain &= (np.asarray(model.geom_group) < _DRAWN_GROUPS) & (np.asarray(model.geom_rgba)[:, 3] > 0)
    return out | {f"color:{name}": tint for name in _matching(p, names_of("geom", model), plain)}


_UNSET = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # a geom of this colour shows that of its material


def joined(own: RandomizeConfig | None, draws: dict[str, FieldDraw]) -> RandomizeConfig:
    """Return what a world draws already with ``draws`` behind it: both act where they meet."""
    out = dict(own.model) if own is not None else {}
    for name, draw in draws.items():
        while name in out:  # another pattern that means the same
            field, _, pattern = name.partition(":")
            name = f"{field}:{pattern}*" if pattern.endswith("*") or not pattern else f"{field}:[{pattern[0]}]{pattern[1:]}"
        out[name] = draw
    return RandomizeConfig(model=out) if own is None else own.model_copy(update={"model": out, "curriculum": None})


class ChangedModels:
    """The model fields that perturbations change, in every world of a batch.

    Args:
        world: On an engine, or :class:`MujocoRows`.
        perturbations: Of model fields.
    """

    def __init__(self, world: BatchEnv, perturbations: Sequence[Perturbation]) -> None:
        self._world, self._perturbations = world, perturbations
        self._kept: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
        if perturbations and isinstance(world, MujocoRows) and not on_engine(world):
            self._draws(world.mujoco_row(0)[0])  # what the model does not have is refused now
        if perturbations and on_engine(world):
            own = world.randomizer
            config = joined(None if own is None else own.config, self._draws(world.engine.model))
            world.randomizer = Randomizer(config, world.engine, world.spec, world.num_worlds)
            for p in (p for p in perturbations if p.kind == "light" and not p.element):
                _dim(world.engine.scene(0)[0], p.size)  # the same model for all pictures from now on

    def _draws(self, model: Any) -> dict[str, FieldDraw]:
        cameras = [name.rpartition(".")[2] for name in self._world.spec.observation.image_names]
        return {name: draw for p in self._perturbations for name, draw in section(p, model, self._world.task, cameras).items()}

    @property
    def by_row(self) -> bool:
        """Whether rows have models of their own, to be changed after every reset."""
        return bool(self._perturbations) and not on_engine(self._world)

    def before_reset(self, rows: np.ndarray) -> None:
        """Give the models of worlds ``rows`` (K,) back what they had."""
        for row in rows:
            for live, before in reversed(self._kept.pop(int(row), [])):
                live[...] = before

    def after_reset(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        """Change the models of worlds ``rows`` (K,), whose episodes ``seeds`` (K,) have begun."""
        import mujoco

        assert isinstance(self._world, MujocoRows)
        for row, seed in zip(rows, seeds, strict=True):
            model, data = self._world.mujoco_row(int(row))
            engine: Any = _OneModel(model)
            Randomizer(RandomizeConfig(model=self._draws(model)), engine, self._world.spec, 1).begin(np.zeros(1, np.int64), np.array([seed], np.int64))
            self._kept[int(row)] = engine.kept
            for p in (p for p in self._perturbations if p.kind == "light" and not p.element):
                engine.kept += _dim(model, p.size)
            mujoco.mj_forward(model, data)


#: What ``mj_setConst`` computes of a model, besides what is asked of it: all is put back before the next reset.
_DERIVED = (
    *(f"actuator_{what}" for what in ("acc0", "length0")),
    *(f"body_{what}" for what in ("invweight0", "subtreemass")),
    *(f"cam_{what}" for what in ("mat0", "pos0", "poscom0")),
    *(f"dof_{what}" for what in ("M0", "invweight0")),
    *(f"light_{what}" for what in ("dir0", "pos0", "poscom0")),
    *(f"tendon_{what}" for what in ("invweight0", "length0", "lengthspring")),
    "bvh_aabb",
)


class _OneModel:
    """A live model as an engine of one world, as far as a randomizer needs it."""

    name, num_worlds = "mujoco", 1

    def __init__(self, model: Any) -> None:
        self.model: Any = model
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []

    def expand(self, field: str) -> np.ndarray:
        owner = self.model.opt if field.startswith("opt.") else self.model
        live = getattr(owner, field.removeprefix("opt."))
        self.kept.append((live, live.copy()))
        return live[None]

    def refresh(self, rows: np.ndarray | None = None) -> None:
        import mujoco

        for field in _DERIVED:
            self.expand(field)  # the next reset may simulate: not with constants of the masses that were
        welds = self.model.eq_data.copy()
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))
        self.model.eq_data[:] = welds  # suites set the welds of their mocap bodies; computed anew they would pull elsewhere


class Pushes:
    """Pushes of bodies at random times: for one control step a force whose impulse would give the body, free, a change of ``size`` m/s.

    The impulse is the size times the mass of the body and of what hangs on it; the force acts at the body's centre of mass, level, in a
    random direction. In every control step a push begins with probability step / ``every``.

    Args:
        world: On an engine, or :class:`MujocoRows`.
        push: The perturbation.

    Attributes:
        count: (N,) int64, pushes in the present episodes.
    """

    def __init__(self, world: BatchEnv, push: Perturbation) -> None:
        self._push, self._task, self._rate = push, world.task, world.spec.action.rate_hz
        self._chance = min(1.0, 1.0 / (push.every * self._rate))
        self._time, self._seeds, self.count = (np.zeros(world.num_worlds, np.int64) for _ in range(3))
        self._row: Callable[[int], tuple[Any, Any, np.ndarray]]  # model that says which bodies, masses (nbody,) of their subtrees, forces (nbody, 6)
        if on_engine(world):
            forces, model = world.engine.bind("xfrc_applied"), world.engine.model
            pushed_bodies(push, model, self._task)  # refused now if there is none
            self._row = lambda row: (model, world.engine.scene(row)[0].body_subtreemass, forces[row])  # a world may have masses of its own
        else:
            assert isinstance(world, MujocoRows)
            self._row = lambda row: _model_and_forces(world, row)
        self._pushed: list[np.ndarray] = []

    def begin(self, rows: np.ndarray, seeds: np.ndarray) -> None:
        """Begin episodes ``seeds`` (K,) in worlds ``rows`` (K,)."""
        self._seeds[rows], self._time[rows], self.count[rows] = seeds, 0, 0

    def apply(self, rows: np.ndarray) -> None:
        """Write the forces of the coming control step of worlds ``rows`` (K,)."""
        time, keys = self._time[rows], key(self._seeds[rows], "push")
        due = step_uniform(keys, time) < self._chance
        angle = 2 * np.pi * step_uniform(keys, time, _ANGLE)
        for k in np.flatnonzero(due):  # a few worlds a second
            model, masses, forces = self._row(int(rows[k]))
            for body in pushed_bodies(self._push, model, self._task):
                force = float(masses[body]) * self._push.size * self._rate
                forces[body, :2] += force * np.cos(angle[k]), force * np.sin(angle[k])  # patterns of two pushes may meet
                self._pushed.append(forces[body])
        self.count[rows] += due
        self._time[rows] += 1

    def release(self) -> None:
        """Take the forces away after the control step."""
        for force in self._pushed:
            force[:2] = 0.0
        self._pushed.clear()


def _model_and_forces(world: MujocoRows, row: int) -> tuple[Any, Any, np.ndarray]:
    model, data = world.mujoco_row(row)
    return model, model.body_subtreemass, data.xfrc_applied


def pushed_bodies(p: Perturbation, model: Any, task: str) -> list[int]:
    """Return which bodies of a ``MjModel`` are pushed: those that match, else every loose object, else the robot.

    A loose object is a body that can move along two axes at least, on which nothing acts; of a robot that stands on the ground its
    trunk is pushed, of one that is fixed its outermost link that has at least 5 % of its moving mass.

    Raises:
        InputError: if there is none; names the nearest.
    """
    names = names_of("body", model)
    moving = np.flatnonzero(np.asarray(model.body_weldid) != 0)  # not fixed to the world
    if p.element:
        found = [int(b) for b in moving if fnmatch.fnmatchcase(names[b], p.element)]
        if not found:
            raise InputError(f"perturbation {p}: task {task!r} has no moving body {p.element!r}{suggest(p.element, [names[b] for b in moving])}")
        return found
    roots = [int(b) for b in moving if model.body_weldid[b] == b and model.body_weldid[model.body_parentid[b]] == 0]
    roots = [b for b in roots if model.body_dofnum[b] > 0]
    joints = [int(joint) for joint, kind in zip(model.actuator_trnid[:, 0], model.actuator_trntype, strict=True) if kind in (0, 1)]
    driven = {int(model.body_rootid[model.jnt_bodyid[joint]]) for joint in joints}
    loose = [b for b in roots if _translations(model, b) >= 2]
    objects = [b for b in loose if int(model.body_rootid[b]) not in driven]
    if objects or loose:
        return objects or loose
    if not len(moving):
        raise InputError(f"perturbation {p}: nothing moves in the worlds of task {task!r}")
    jointed = [int(b) for b in moving if model.body_dofnum[b] > 0]
    most = max(float(model.body_subtreemass[b]) for b in jointed)
    return [max((b for b in jointed if model.body_subtreemass[b] >= _LINK * most), key=lambda b: _depth(model, b))]


_LINK = 0.05  # share of the robot's moving mass below which a link is a part of its tool


def _translations(model: Any, body: int) -> int:
    """Return along how many axes a body's own joints let it move (``mjtJoint``: 0 free, 2 slide)."""
    first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
    return sum({0: 3, 2: 1}.get(int(kind), 0) for kind in model.jnt_type[first : first + count])


def _depth(model: Any, body: int) -> int:
    depth = 0
    while body:
        body, depth = int(model.body_parentid[body]), depth + 1
    return depth
