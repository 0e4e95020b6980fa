"""What lets Gymnasium-Robotics 1.4.2 run unchanged on MuJoCo 3.17, and how one of its environments becomes many.

Since about MuJoCo 3.11 ``enum == numpy.int32`` is false where the suite compares joint and constraint types that way (Fetch, kitchen,
hand); the package's helper module gets plain integers for those. Compiling a model anew for every world would take seconds: one
environment is constructed, the others are copies of it with a model and data of their own.
"""

# pyright: reportAttributeAccessIssue=false
# (the functions of mujoco are compiled and come without stubs)
from __future__ import annotations

import contextlib
import copy
import functools
import importlib
import io
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sim import render

#: Raised when what this file changes changes; part of the suite version in the evaluation ledger.
SHIM_VERSION = 1

_ENUMS = ("mjtJoint", "mjtEq")
_COPIED = (np.ndarray, list, dict, set)  # what an environment may change in place


class _PlainIntegers(types.ModuleType):
    """The module ``mujoco`` with the members of some enumerations as integers."""

    def __init__(self, module: Any) -> None:
        super().__init__(module.__name__)
        self._module = module
        for name in _ENUMS:
            members = getattr(module, name).__members__
            setattr(self, name, types.SimpleNamespace(**{key: int(value.value) for key, value in members.items()}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@functools.cache
def load() -> Any:
    """Import gymnasium_robotics with a rendering backend chosen and the comparison above mended; returns the package."""
    render.configure()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import gymnasium_robotics  # says that environments which are not ours here have changed
        import mujoco
        from gymnasium_robotics.utils import mujoco_utils

    mujoco_utils.mujoco = _PlainIntegers(mujoco)
    return gymnasium_robotics


def construct(environment: str, arguments: dict[str, Any]) -> Any:
    """Return an environment of the package, without the wrappers of ``gymnasium.make``.

    Args:
        environment: ``module:Class`` below ``gymnasium_robotics.envs``.
        arguments: Of the class; ``maze_map`` is a name in the package's ``maps``.
    """
    package = load()
    module, name = environment.split(":")
    arguments = dict(arguments)
    if "maze_map" in arguments:
        arguments["maze_map"] = getattr(package.maps, arguments["maze_map"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = getattr(importlib.import_module(f"gymnasium_robotics.envs.{module}"), name)(**arguments)
    if written := getattr(env, "tmp_xml_file_path", None):
        Path(written).unlink(missing_ok=True)  # the maze's model, which the suite leaves among the temporary files
    return env


def copied(env: Any) -> Any:
    """Return a copy of an environment that was never stepped: a model and data of its own, the rest as constructed."""
    import mujoco

    model = copy.copy(env.model)
    known = {id(env.model): model, id(env.data): mujoco.MjData(model)}
    return _copied(env, known)


def _copied(env: Any, known: dict[int, Any]) -> Any:
    out = object.__new__(type(env))  # copy.copy would construct it again from its arguments (EzPickle)
    for name, value in vars(env).items():
        if id(value) in known:
            out.__dict__[name] = known[id(value)]
        elif name.endswith("_env"):  # the robot inside a maze or a kitchen
            out.__dict__[name] = _copied(value, known)
        else:
            out.__dict__[name] = copy.deepcopy(value) if isinstance(value, _COPIED) else value
    return out
