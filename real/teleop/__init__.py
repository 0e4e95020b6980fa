"""Teleoperation: devices that a person moves a robot with, and what becomes of their motion.

``source`` says what a device tells, one file each is a device, ``jog`` makes actions of it, ``takeover`` decides when they stand in
the policy's place. What they do passes the level and the safety filter of the run like the policy's.
"""

from __future__ import annotations

import importlib
import inspect

from policies.spec import InputError, suggest

#: Device -> the module of this package with its source, which is imported when it is asked for.
DEVICES = ("gamepad", "keyboard", "leader", "page", "scripted", "spacemouse")


def device_class(name: str) -> type:
    """Return the source class of the device ``name``; its ``Config`` is the model of its options. Raises InputError for an unknown name."""
    if name not in DEVICES:
        raise InputError(f"device {name!r} does not exist{suggest(name, DEVICES)}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__ and hasattr(c, "Config")]
    if len(found) != 1:
        raise InputError(f"device {name!r}: {module.__file__} must hold exactly one class with a Config, found {len(found)}")
    return found[0]
