"""What transfer is measured on: tasks, how they are learnt, how their robots may differ, and how the robot of the test does.

A bed names two files of ``configs/transfer``: ranges that a trainer draws from, and the robot, PyBullet worlds with parameters that
no trainer is told. Identification sees the robot's recorded motion alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from policies.spec import InputError, suggest

NOMINAL, RANDOMIZED, IDENTIFIED, BOTH = "nominal", "randomised", "identified", "identified and randomised"
VARIANTS = (NOMINAL, RANDOMIZED, IDENTIFIED, BOTH)
#: Where policies are tried. The last is the robot; the two between it and the training worlds say how much is the engine's and how much the parameters'.
MUJOCO, BULLET, PARAMETERS, ROBOT = "MuJoCo", "PyBullet", "MuJoCo as robot", "robot"
WORLDS = (MUJOCO, BULLET, PARAMETERS, ROBOT)


@dataclass(frozen=True)
class Bed:
    """One task.

    Attributes:
        name: Of its folder and cells.
        task: Registered name.
        recipe: What policies are trained with.
        ranges: Section ``randomize`` of the randomised variants, or the file that holds it.
        robot: Section ``randomize`` that makes the worlds the robot, constants, or its file.
        fits: What is identified, see ``sim.identify_parameters``.
        demonstrations: Of the expert in the training worlds; 0: the recipe learns by trial.
        overrides: Of the recipe.
        score: ``info`` whose value at the end of an episode is compared besides success; empty: none.
        shake: Multisine on the expert's actions that excites the robot, as a share of half the action's range.
        episodes: Recorded for identification.
        seconds: Of each.
        window_s: Of identification, see ``sim.identify.Settings``.
        windows: Likewise.
        starts: Likewise.
        iterations: Likewise.
    """

    name: str
    task: str
    recipe: str
    ranges: str | Mapping[str, Any]
    robot: str | Mapping[str, Any]
    fits: tuple[str, ...]
    demonstrations: int = 0
    overrides: tuple[str, ...] = ()
    score: str = ""
    shake: float = 0.1
    episodes: int = 8
    seconds: float = 4.0
    window_s: float = 0.5
    windows: int = 60
    starts: int = 2
    iterations: int = 15

    @property
    def learns(self) -> Literal["imitation", "trial"]:
        """How its policies are made."""
        return "imitation" if self.demonstrations else "trial"

    def settings(self) -> dict[str, Any]:
        """Return all fields as plain values, with the sections in place of their files' names: what figures depend on."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**plain, "ranges": section(self.ranges), "robot": section(self.robot)}

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Bed:
        """Build a bed from :meth:`settings`, also as JSON gives them back."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
        return cls(**plain)


_ARM = ("kp:joint*", "damping:joint*", "delay")
_PUSHED = ("mass:puck", "frictionloss:puck.?", "damping:puck.?", *_ARM)
_RUNNER = ("gear:*", "delay")
_TRIAL = ("training.steps=1_000_000",)
_CAREFUL = ("policy.initial_std=0.6", "training.target_kl=0.01")  # what docs/transfer.md was measured with

#: What arms record for identification is fitted whole (``window_s`` 0): their tasks keep references beside the physics.
BEDS = (
    Bed("arm-reach", "arm/reach", "arm_reach", "transfer/arm-reach", "transfer/arm-reach-robot", ("mass:link7", *_ARM), 100,
        shake=0.03, episodes=6, seconds=1.5, window_s=0.0, starts=1, iterations=8),
    Bed("arm-push", "arm/push", "arm_push", "transfer/arm-push", "transfer/arm-push-robot", _PUSHED, 100, ("training.steps=4000",),
        shake=0.02, episodes=6, seconds=3.0, window_s=0.0, starts=1, iterations=8),
    Bed("hopper", "locomotion/hopper", "rl/hopper", "transfer/hopper", "transfer/hopper-robot", ("mass:torso", "damping:[hka]*", *_RUNNER),
        overrides=("task=locomotion/hopper", *_TRIAL, *_CAREFUL), score="distance", shake=0.3, episodes=16, seconds=3.0, window_s=0.2),
    Bed("cheetah", "locomotion/cheetah", "rl/half-cheetah", "transfer/cheetah", "transfer/cheetah-robot", ("mass:trunk", "damping:*_*", *_RUNNER),
        overrides=("task=locomotion/cheetah", *_TRIAL), score="distance", shake=0.3, seconds=3.0, window_s=0.2),
)  # fmt: skip


def section(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a section ``randomize``: as it is, or that of a file. Raises InputError as ``robopolicy.randomization.read_section``."""
    from robopolicy.randomization import read_section

    return read_section(given) if isinstance(given, str) else dict(given)


def world_env(world: str, robot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``sim.registry.make`` of one of :data:`WORLDS`; ``robot`` is the section that makes the robot. Raises InputError."""
    if world not in WORLDS:
        raise InputError(f"world {world!r}: expected one of {', '.join(WORLDS)}{suggest(world, WORLDS)}")
    env: dict[str, Any] = {"engine": "bullet"} if world in (BULLET, ROBOT) else {}
    return {**env, "randomize": dict(robot)} if world in (PARAMETERS, ROBOT) else env


def training_section(variant: str, ranges: Mapping[str, Any], identified: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the section ``randomize`` of a variant's training worlds; None: the model as it is.

    Args:
        variant: One of :data:`VARIANTS`.
        ranges: Section of the randomised variants.
        identified: Section of the identified model, see ``sim.identify.Fit.section``.

    Raises:
        InputError: if the variant is unknown, or needs an identified model and there is none.
    """
    if variant not in VARIANTS:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(VARIANTS)}")
    if variant in (IDENTIFIED, BOTH) and identified is None:
        raise InputError(f"variant {variant!r} needs a model that was identified before")
    if variant == NOMINAL:
        return None
    if variant == RANDOMIZED:
        return dict(ranges)
    return dict(identified or {}) if variant == IDENTIFIED else centred(ranges, identified or {})


def centred(ranges: Mapping[str, Any], identified: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``ranges`` around identified values in place of the model's own, as wide in ratio; delays as wide in seconds.

    What was identified and has no range stays as identified; what has a range and was not identified keeps it.

    Raises:
        InputError: if a range is not one of factors, so that there is nothing to centre.
    """
    model = {**identified.get("model", {})}
    for key, draw in ranges.get("model", {}).items():
        found = model.get(key)
        if found is None:
            model[key] = draw
            continue
        ((operation, value),) = found.items()
        if "scale" not in draw:
            raise InputError(f"range of {key!r}: expected a scale, whose factors can be taken of what was identified")
        rest = {name: part for name, part in draw.items() if name != "scale"}
        model[key] = {**({"per": "group"} if operation == "set" else {}), **rest, operation: _times(draw["scale"], float(value))}
    out: dict[str, Any] = {"model": model}
    late, wide = identified.get("actions", {}).get("delay"), ranges.get("actions", {}).get("delay")
    if wide is not None or late is not None:
        low, high = wide or (0.0, 0.0)
        half = (high - low) / 2
        out["actions"] = {"delay": [low, high] if late is None else [max(0.0, late - half), late + half]}
    return out


def _times(distribution: Any, factor: float) -> Any:
    """Return a distribution of factors times ``factor``."""
    if isinstance(distribution, Mapping):
        return {kind: _times(pair, factor) for kind, pair in distribution.items()}
    return [factor * float(end) for end in distribution] if isinstance(distribution, (list, tuple)) else factor * float(distribution)
