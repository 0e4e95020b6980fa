"""``isaacgym.gymutil``: the command line that examples share, and settings of a simulation from a mapping."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from policies.spec import InputError, suggest
from sim.isaacgym.constants import SimType
from sim.isaacgym.parameters import Parameters, SimParams
from sim.isaacgym.refusal import refuse
from sim.isaacgym.structures import Vec3


def parse_device_str(device_str: str) -> tuple[str, int]:
    """Return kind and number of a device: ``cuda:1`` is (``cuda``, 1), ``cpu`` is (``cpu``, 0).

    Raises:
        InputError: for anything else.
    """
    kind, _, number = device_str.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise InputError(f"device {device_str!r} is neither 'cpu' nor 'cuda' nor 'cuda:NUMBER'")
    return kind, int(number or 0)


def parse_arguments(
    description: str = "Isaac Gym Example",
    headless: bool = False,
    no_graphics: bool = False,
    custom_parameters: Sequence[Mapping[str, Any]] = (),
) -> argparse.Namespace:
    """Read the command line of an example.

    Args:
        description: For ``--help``.
        headless: Whether ``--headless`` is known.
        no_graphics: Whether ``--nographics`` is known.
        custom_parameters: More arguments, each with ``name`` and any of ``type``, ``default``, ``action``, ``choices``, ``help``.

    Returns:
        What was given; ``sim_device`` and ``pipeline`` are ``cpu`` by default, where the other package has a GPU. Beside it
        ``sim_device_type``, ``compute_device_id``, ``use_gpu``, ``use_gpu_pipeline`` and ``physics_engine`` that follow from it.

    Raises:
        InputError: for a parameter without a name, a device that is none, or ``--flex``.
    """
    parser = argparse.ArgumentParser(description=description)
    for wanted, flag, text in ((headless, "--headless", "open no window"), (no_graphics, "--nographics", "make no graphics context")):
        if wanted:
            parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument("--sim_device", default="cpu", help="device of the physics")
    parser.add_argument("--pipeline", default="cpu", help="where tensors are: cpu or gpu")
    parser.add_argument("--graphics_device_id", type=int, default=0, help="has no effect")
    engine = parser.add_mutually_exclusive_group()
    engine.add_argument("--flex", action="store_true", help="not covered")
    engine.add_argument("--physx", action="store_true", help="MuJoCo, which stands in for PhysX")
    parser.add_argument("--num_threads", type=int, default=0, help="threads of the physics; results do not depend on it")
    parser.add_argument("--subscenes", type=int, default=0, help="has no effect")
    parser.add_argument("--slices", type=int, default=None, help="has no effect")
    for parameter in custom_parameters:
        if "name" not in parameter:
            raise InputError(f"parse_arguments: a custom parameter has no name: {dict(parameter)}")
        parser.add_argument(parameter["name"], **{key: value for key, value in parameter.items() if key != "name"})
    args = parser.parse_args()
    if args.flex:
        raise InputError("--flex is not covered: MuJoCo stands in for PhysX only")
    args.sim_device_type, args.compute_device_id = parse_device_str(args.sim_device)
    args.use_gpu = args.sim_device_type == "cuda"
    args.use_gpu_pipeline = args.use_gpu and args.pipeline.lower() in ("gpu", "cuda")
    args.physics_engine = SimType.SIM_PHYSX
    args.slices = args.subscenes if args.slices is None else args.slices
    return args


def parse_sim_config(sim_cfg: Mapping[str, Any], sim_params: SimParams) -> None:
    """Write a mapping, such as a recipe's ``sim`` part, into ``sim_params``: ``gravity`` as three numbers, ``physx`` as a mapping.

    Raises:
        InputError: for a name that the parameters do not have.
    """
    for name, value in sim_cfg.items():
        present = getattr(sim_params, name, None)
        if isinstance(present, Vec3):
            setattr(sim_params, name, Vec3(*value))
        elif isinstance(present, Parameters) and isinstance(value, Mapping):
            for key, inner in value.items():
                setattr(present, key, inner)
        elif name == "flex":
            raise InputError(f"sim config: flex is not covered{suggest('physx', ['physx'])}")
        else:
            setattr(sim_params, name, value)


def draw_lines(*unused: Any) -> None:
    """Do nothing: there is no window to draw lines in."""


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise refuse("gymutil", name, ["parse_device_str", "parse_arguments", "parse_sim_config", "draw_lines"])
