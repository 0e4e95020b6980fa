"""Which of the two back ends runs ROS 2 here, and why.

``ROBOPOLICY_ROS=dds`` takes the DDS layer where rclpy would work; ``ROBOPOLICY_ROS=rclpy`` insists on rclpy.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Literal

from policies.spec import InputError

Backend = Literal["rclpy", "dds"]

_HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def choose(environment: Mapping[str, str]) -> tuple[Backend, str]:
    """Return the back end and one line that says why it is this one.

    Args:
        environment: The process's environment: ``ROBOPOLICY_ROS`` (empty, ``dds`` or ``rclpy``) and ``ROS_DISTRO``.

    Raises:
        InputError: for another value of ``ROBOPOLICY_ROS``, or when it insists on an rclpy that cannot be imported.
    """
    asked = environment.get("ROBOPOLICY_ROS", "")
    if asked not in ("", "dds", "rclpy"):
        raise InputError(f"ROBOPOLICY_ROS={asked!r}: dds and rclpy are known; leave it empty to take rclpy where it works")
    if asked == "dds":
        return "dds", "ROBOPOLICY_ROS=dds asks for it"
    reason = why_no_rclpy()
    if reason is None:
        distro = environment.get("ROS_DISTRO")
        return "rclpy", f"rclpy{f' of ROS 2 {distro}' if distro else ''} imports in this Python {_HERE}"
    if asked == "rclpy":
        raise InputError(f"ROBOPOLICY_ROS=rclpy, but {reason}")
    return "dds", reason


def why_no_rclpy() -> str | None:
    """Return one line on why ``import rclpy`` does not work in this Python, or None when it does."""
    try:
        spec = importlib.util.find_spec("rclpy")
    except (ImportError, ValueError) as error:
        return f"rclpy cannot be looked for: {error}"
    if spec is None:
        return f"rclpy is not installed for this Python {_HERE}"
    where = str(spec.origin or next(iter(spec.submodule_search_locations or []), "?"))
    try:
        importlib.import_module("rclpy")
        importlib.import_module("rclpy.node")
    except Exception as error:  # a broken installation may raise anything while it loads its libraries
        return _why_it_fails(where, error)
    return None


def _why_it_fails(where: str, error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    built = [part for part in where.replace("\\", "/").split("/") if part.startswith("python3.")]
    if built and built[-1] != f"python{_HERE}":
        return f"the rclpy in {where} was built for {built[-1].replace('python', 'Python ')}, this is Python {_HERE}: it does not import"
    return f"the rclpy in {where} does not import: {type(error).__name__}: {first}"


BACKEND: Backend
WHY: str
BACKEND, WHY = choose(os.environ)
