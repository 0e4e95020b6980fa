"""The Isaac Gym interface on these worlds: vectorised task code written for the closed package imports and steps on MuJoCo.

One call makes ``import isaacgym`` find it::

    import sim.isaacgym

    sim.isaacgym.install()

    from isaacgym import gymapi, gymtorch

What is covered, and how the physics differ, is in ``docs/isaacgym.md``; everything else raises an error that names the call. Only
``gymtorch`` and ``torch_utils`` import torch.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from policies.spec import InputError
from sim.isaacgym.refusal import refuse

_ALIAS = "isaacgym"
_MODULES = ("gymapi", "gymtorch", "gymutil", "torch_utils", "terrain_utils")


class _Loader(importlib.abc.Loader):
    """Puts the module of this package where the import system put an empty one."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(__name__ + module.__name__.removeprefix(_ALIAS))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ``isaacgym`` and its modules here."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        package, _, module = fullname.partition(".")
        if package != _ALIAS:
            return None
        if module and module not in _MODULES:
            raise refuse(_ALIAS, module, _MODULES)
        return importlib.machinery.ModuleSpec(fullname, _Loader(), is_package=not module)


_finder = _Finder()


def install() -> None:
    """Make ``import isaacgym`` find this package, from now on in this process; may be called twice.

    Raises:
        InputError: if another ``isaacgym`` was imported before.
    """
    present = sys.modules.get(_ALIAS)
    if present is not None and present is not sys.modules[__name__]:
        raise InputError(f"install: another isaacgym is imported already, from {getattr(present, '__file__', '?')}: call sim.isaacgym.install() before it")
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undo :func:`install`."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    for name in [name for name in sys.modules if name == _ALIAS or name.startswith(f"{_ALIAS}.")]:
        del sys.modules[name]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name.startswith("__"):
        raise AttributeError(name)
    raise refuse(_ALIAS, name, _MODULES)
