"""The one place to import ROS 2 from: rclpy's names, from rclpy where it works and from the layer over DDS otherwise.

    from real.ros import api as ros

    ros.init()
    node = ros.create_node("listener")
    JointState = ros.message("sensor_msgs/msg/JointState")
    node.create_subscription(JointState, "joint_states", lambda m: print(m.position), 10)
    ros.spin(node)

``BACKEND`` is ``rclpy`` or ``dds``, ``WHY`` says in one line why, ``said()`` what a program should tell at its start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policies.spec import InputError
from real.ros.backend import BACKEND, WHY
from real.ros.messages import MessageError, define, deserialize, distro, message, serialize, type_name

if TYPE_CHECKING or BACKEND == "dds":
    from real.ros.dds.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
    from real.ros.dds.clock import Clock, ClockChange, ClockType, Duration, JumpThreshold, ROSClock, Time
    from real.ros.dds.context import Context, get_default_context, init, ok, shutdown, try_shutdown
    from real.ros.dds.exceptions import (
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
    from real.ros.dds.executor import Executor, ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
    from real.ros.dds.future import Future, Task
    from real.ros.dds.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, ManagedEntity, SimpleManagedEntity, TransitionCallbackReturn
    from real.ros.dds.logging import LoggingSeverity, get_logger
    from real.ros.dds.node import Node
    from real.ros.dds.parameter import Parameter
    from real.ros.dds.publisher import Publisher
    from real.ros.dds.spinning import create_node, get_global_executor, spin, spin_once, spin_until_future_complete
    from real.ros.dds.subscription import Subscription
    from real.ros.qos import (
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
else:
    from real.ros.rclpy_names import names as _names

    globals().update(_names())

#: What comes late gets the last message: robot descriptions, static transforms, the state of an episode.
qos_profile_latched = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

#: A stream that must arrive whole: joint states.
qos_profile_reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)


def service(name: str) -> Any:
    """Return the class of a service, e.g. ``service("std_srvs/srv/Trigger")``, with ``.Request`` and ``.Response``.

    Raises:
        InputError: if there is no such type, with the nearest known name.
    """
    found = message(name)
    if not hasattr(found, "Request"):
        raise InputError(f"{name!r} is not a service type; expected package/srv/Name, e.g. std_srvs/srv/Trigger")
    return found


def said(context: Any = None) -> str:
    """Return one line on the back end, why it is this one, the message definitions, and how far DDS reaches."""
    if BACKEND == "rclpy":
        return f"ROS 2 over rclpy: {WHY}"
    chosen = (context or get_default_context()).settings
    reach = f"; {chosen.said}" if chosen is not None else ""
    return f"ROS 2 over the DDS layer ({WHY}), messages of {distro()}{reach}"


__all__ = [  # noqa: RUF022
    "BACKEND", "CallbackGroup", "Clock", "ClockChange", "ClockType", "Context", "DurabilityPolicy", "Duration", "Executor",
    "ExternalShutdownException", "Future", "HistoryPolicy", "InputError", "InvalidHandle", "InvalidNamespaceException", "InvalidNodeNameException",
    "InvalidParameterException", "InvalidParameterTypeException", "InvalidParameterValueException", "InvalidServiceNameException",
    "InvalidTopicNameException", "JumpThreshold", "LifecycleNode",
    "LifecyclePublisher", "LifecycleState", "LivelinessPolicy", "LoggingSeverity", "ManagedEntity", "MessageError", "MultiThreadedExecutor",
    "MutuallyExclusiveCallbackGroup", "Node", "NotInitializedException", "Parameter", "ParameterAlreadyDeclaredException",
    "ParameterImmutableException", "ParameterNotDeclaredException", "ParameterUninitializedException", "Publisher", "QoSPresetProfiles",
    "QoSProfile", "ROSClock", "ReentrantCallbackGroup", "ReliabilityPolicy",
    "SimpleManagedEntity", "SingleThreadedExecutor", "Subscription", "Task", "Time", "TransitionCallbackReturn", "WHY", "create_node", "define",
    "deserialize", "distro", "get_default_context", "get_global_executor", "get_logger", "init", "message", "ok", "qos_check_compatible",
    "qos_profile_latched", "qos_profile_parameter_events", "qos_profile_parameters", "qos_profile_reliable", "qos_profile_sensor_data",
    "qos_profile_services_default", "qos_profile_system_default", "said", "serialize", "service", "shutdown", "spin", "spin_once",
    "spin_until_future_complete", "try_shutdown", "type_name",
]  # fmt: skip
