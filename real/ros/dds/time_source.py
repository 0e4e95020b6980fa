"""``use_sim_time``: whether a node's clock follows ``/clock``."""

from __future__ import annotations

import weakref
from typing import Any

from real.ros.dds.callback_groups import ReentrantCallbackGroup
from real.ros.dds.clock import ROSClock, Time
from real.ros.dds.parameter import Parameter, ParameterType, result
from real.ros.messages import message

USE_SIM_TIME = "use_sim_time"


class TimeSource:
    """Declares ``use_sim_time`` on a node and feeds the node's clock from ``/clock`` while it is true."""

    def __init__(self, node: Any) -> None:
        self._node = weakref.ref(node)
        self._subscription: Any = None
        if not node.has_parameter(USE_SIM_TIME):
            node.declare_parameter(USE_SIM_TIME, False)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._changed)
        self._switch(node.get_parameter(USE_SIM_TIME).value)

    def _check(self, parameters: list[Parameter]) -> Any:
        for one in parameters:
            if one.name == USE_SIM_TIME and one.type_ is not ParameterType.BOOL:
                return result(f"{USE_SIM_TIME} is true or false")
        return result()

    def _changed(self, parameters: list[Parameter]) -> None:
        for one in parameters:
            if one.name == USE_SIM_TIME:
                self._switch(one.value)

    def _switch(self, simulated: bool) -> None:
        node = self._node()
        if node is None:
            return
        clock: ROSClock = node.get_clock()
        if simulated and self._subscription is None:
            group = ReentrantCallbackGroup()  # a callback that waits for time must not hold time up
            self._subscription = node.create_subscription(message("rosgraph_msgs/msg/Clock"), "/clock", self._heard, _clock_qos(), callback_group=group)
        elif not simulated and self._subscription is not None:
            node.destroy_subscription(self._subscription)
            self._subscription = None
        clock._set_ros_time_is_active(simulated)

    def _heard(self, news: Any) -> None:
        node = self._node()
        if node is not None and self._subscription is not None:
            node.get_clock().set_ros_time_override(Time.from_msg(news.clock))


def _clock_qos() -> Any:
    from real.ros.qos import QoSProfile, ReliabilityPolicy

    return QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
