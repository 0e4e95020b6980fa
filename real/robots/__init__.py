"""Robot drivers: one file each, found by its name.

A driver is a module of this package with one class that has a ``Config`` (a pydantic model of its connection) and
implements ``real.robot.Robot``; listing the names imports none of them.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from policies.spec import InputError, suggest


def robot_names() -> list[str]:
    """Return the names of the drivers, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def robot_class(name: str) -> type:
    """Return the driver class of ``name``; its ``Config`` is the model of its options. Raises InputError for an unknown name."""
    if name not in robot_names():
        raise InputError(f"robot {name!r} does not exist{suggest(name, robot_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__ and hasattr(c, "Config")]
    if len(found) != 1:
        raise InputError(f"robot {name!r}: {module.__file__} must hold exactly one class with a Config, found {len(found)}")
    return found[0]
