"""rclpy's own names, where the back end is rclpy; imported by ``real.ros.api`` alone."""

from __future__ import annotations

from typing import Any

import rclpy
from rclpy import create_node, get_global_executor, ok, shutdown, spin, spin_once, spin_until_future_complete, try_shutdown
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockChange, ClockType, JumpThreshold, ROSClock
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.exceptions import (
    InvalidHandle,
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidParameterException,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidServiceNameException,
    InvalidTopicNameException,
    NotInitializedException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from rclpy.executors import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, ManagedEntity, SimpleManagedEntity, TransitionCallbackReturn
from rclpy.logging import LoggingSeverity, get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSPresetProfiles,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_parameter_events,
    qos_profile_parameters,
    qos_profile_sensor_data,
    qos_profile_services_default,
    qos_profile_system_default,
)
from rclpy.subscription import Subscription
from rclpy.task import Future, Task
from rclpy.time import Time
from rclpy.utilities import get_default_context


def init(args: Any = None, *, context: Any = None, domain_id: int | None = None, interface: str | None = None, **kwargs: Any) -> Any:
    """Open a context with rclpy; ``interface`` is what its middleware's own settings choose, so naming one is said and has no effect."""
    opened = rclpy.init(args=args, context=context, domain_id=domain_id, **kwargs)
    if interface:
        get_logger("robopolicy").warning(f"ros.interface={interface}: with rclpy the middleware's settings (CYCLONEDDS_URI, ...) choose the interface")
    return opened


__all__ = [
    "CallbackGroup", "Clock", "ClockChange", "ClockType", "Context", "DurabilityPolicy", "Duration", "Executor", "ExternalShutdownException",
    "Future", "HistoryPolicy", "InvalidHandle", "InvalidNamespaceException", "InvalidNodeNameException", "InvalidParameterException",
    "InvalidParameterTypeException", "InvalidParameterValueException",
    "InvalidServiceNameException", "InvalidTopicNameException", "JumpThreshold", "LifecycleNode", "LifecyclePublisher", "LifecycleState",
    "LivelinessPolicy", "LoggingSeverity", "ManagedEntity", "MultiThreadedExecutor", "MutuallyExclusiveCallbackGroup", "Node",
    "NotInitializedException", "Parameter", "ParameterAlreadyDeclaredException", "ParameterImmutableException",
    "ParameterNotDeclaredException", "ParameterUninitializedException", "Publisher", "QoSPresetProfiles",
    "QoSProfile", "ROSClock", "ReentrantCallbackGroup", "ReliabilityPolicy", "SimpleManagedEntity", "SingleThreadedExecutor", "Subscription", "Task",
    "Time", "TransitionCallbackReturn", "create_node", "get_default_context", "get_global_executor", "get_logger", "init", "ok",
    "qos_check_compatible", "qos_profile_parameter_events", "qos_profile_parameters", "qos_profile_sensor_data", "qos_profile_services_default",
    "qos_profile_system_default", "shutdown", "spin", "spin_once", "spin_until_future_complete", "try_shutdown",
]  # fmt: skip
