"""The service types known without ROS: fields of request and response, as the interface packages of ROS 2 define them.

The message definitions that ``rosbags`` ships hold no services. ``SERVICES`` maps a type's name to the lines of its two halves.
"""

from __future__ import annotations

_DESCRIPTIONS = "lifecycle_msgs/TransitionDescription[] available_transitions"
_RESULTS = "rcl_interfaces/SetParametersResult"

SERVICES: dict[str, tuple[str, str]] = {
    "std_srvs/srv/Empty": ("", ""),
    "std_srvs/srv/SetBool": ("bool data", "bool success\nstring message"),
    "std_srvs/srv/Trigger": ("", "bool success\nstring message"),
    "rcl_interfaces/srv/DescribeParameters": ("string[] names", "rcl_interfaces/ParameterDescriptor[] descriptors"),
    "rcl_interfaces/srv/GetParameters": ("string[] names", "rcl_interfaces/ParameterValue[] values"),
    "rcl_interfaces/srv/GetParameterTypes": ("string[] names", "uint8[] types"),
    "rcl_interfaces/srv/ListParameters": ("uint64 DEPTH_RECURSIVE=0\nstring[] prefixes\nuint64 depth", "rcl_interfaces/ListParametersResult result"),
    "rcl_interfaces/srv/SetParameters": ("rcl_interfaces/Parameter[] parameters", f"{_RESULTS}[] results"),
    "rcl_interfaces/srv/SetParametersAtomically": ("rcl_interfaces/Parameter[] parameters", f"{_RESULTS} result"),
    "lifecycle_msgs/srv/ChangeState": ("lifecycle_msgs/Transition transition", "bool success"),
    "lifecycle_msgs/srv/GetState": ("", "lifecycle_msgs/State current_state"),
    "lifecycle_msgs/srv/GetAvailableStates": ("", "lifecycle_msgs/State[] available_states"),
    "lifecycle_msgs/srv/GetAvailableTransitions": ("", _DESCRIPTIONS),
}
