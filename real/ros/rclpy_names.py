"""rclpy's own names, where the back end is rclpy; read by ``real.ros.api`` alone."""

from __future__ import annotations

import importlib
from typing import Any

#: rclpy's module -> the names that are taken from it.
NAMES: dict[str, tuple[str, ...]] = {
    "rclpy": ("create_node", "get_global_executor", "ok", "shutdown", "spin", "spin_once", "spin_until_future_complete", "try_shutdown",),
    "rclpy.callback_groups": ("CallbackGroup", "MutuallyExclusiveCallbackGroup", "ReentrantCallbackGroup",),
    "rclpy.clock": ("Clock", "ClockChange", "ClockType", "JumpThreshold", "ROSClock",),
    "rclpy.context": ("Context",),
    "rclpy.duration": ("Duration",),
    "rclpy.exceptions": (
        "InvalidHandle", "InvalidNamespaceException", "InvalidNodeNameException", "InvalidParameterException", "InvalidParameterTypeException",
        "InvalidParameterValueException", "InvalidServiceNameException", "InvalidTopicNameException", "NotInitializedException",
        "ParameterAlreadyDeclaredException", "ParameterImmutableException", "ParameterNotDeclaredException", "ParameterUninitializedException",
    ),
    "rclpy.executors": ("Executor", "ExternalShutdownException", "MultiThreadedExecutor", "SingleThreadedExecutor",),
    "rclpy.lifecycle": ("LifecycleNode", "LifecyclePublisher", "LifecycleState", "ManagedEntity", "SimpleManagedEntity", "TransitionCallbackReturn",),
    "rclpy.logging": ("LoggingSeverity", "get_logger",),
    "rclpy.node": ("Node",),
    "rclpy.parameter": ("Parameter",),
    "rclpy.publisher": ("Publisher",),
    "rclpy.qos": (
        "DurabilityPolicy", "HistoryPolicy", "LivelinessPolicy", "QoSPresetProfiles", "QoSProfile", "ReliabilityPolicy", "qos_check_compatible",
        "qos_profile_parameter_events", "qos_profile_parameters", "qos_profile_sensor_data", "qos_profile_services_default",
        "qos_profile_system_default",
    ),
    "rclpy.subscription": ("Subscription",),
    "rclpy.task": ("Future", "Task",),
    "rclpy.time": ("Time",),
    "rclpy.utilities": ("get_default_context",),
}  # fmt: skip


def names() -> dict[str, Any]:
    """Return all names of ``real.ros.api`` that rclpy has, and ``init`` with the interface as an argument.

    Raises:
        ImportError: if rclpy is not there, or lacks one of them.
    """
    found: dict[str, Any] = {}
    for module, wanted in NAMES.items():
        there = importlib.import_module(module)
        for name in wanted:
            if not hasattr(there, name):
                raise ImportError(f"{module} has no {name}: this rclpy is older than Humble", name=module)
            found[name] = getattr(there, name)
    return found | {"init": init}


def init(args: Any = None, *, context: Any = None, domain_id: int | None = None, interface: str | None = None, **kwargs: Any) -> Any:
    """Open a context with rclpy; ``interface`` is what its middleware's own settings choose, so naming one is said and has no effect."""
    rclpy = importlib.import_module("rclpy")
    opened = rclpy.init(args=args, context=context, domain_id=domain_id, **kwargs)
    if interface:
        said = f"ros.interface={interface}: with rclpy the middleware's settings (CYCLONEDDS_URI, ...) choose the interface"
        importlib.import_module("rclpy.logging").get_logger("robopolicy").warning(said)
    return opened
