"""The six services through which other nodes, and ``ros2 param``, see and set a node's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from real.ros.dds.exceptions import ParameterNotDeclaredException, ParameterUninitializedException
from real.ros.dds.parameter import Parameter, ParameterType, result
from real.ros.messages import message


def start(node: Any) -> None:
    """Offer the services below the node's name."""
    from real.ros.qos import qos_profile_parameters

    for short, name, answer in (
        ("describe_parameters", "DescribeParameters", _describe),
        ("get_parameters", "GetParameters", _get),
        ("get_parameter_types", "GetParameterTypes", _types),
        ("list_parameters", "ListParameters", _list),
        ("set_parameters", "SetParameters", _set),
        ("set_parameters_atomically", "SetParametersAtomically", _set_atomically),
    ):
        kind = message(f"rcl_interfaces/srv/{name}")
        node.create_service(kind, f"~/{short}", lambda request, response, f=answer: f(node, request, response), qos_profile=qos_profile_parameters)


def _describe(node: Any, request: Any, response: Any) -> Any:
    response.descriptors = _all_or_none(node.describe_parameter, request.names)
    return response


def _get(node: Any, request: Any, response: Any) -> Any:
    response.values = _all_or_none(lambda name: node.get_parameter(name).get_parameter_value(), request.names)
    return response


def _types(node: Any, request: Any, response: Any) -> Any:
    response.types = _all_or_none(lambda name: int(node.get_parameter_type(name)), request.names)
    return response


def _all_or_none(answer: Callable[[str], Any], names: Sequence[str]) -> list[Any]:
    """Return what is asked of every name; as in rclpy, one unknown name and the answer is empty."""
    try:
        return [answer(name) for name in names]
    except (ParameterNotDeclaredException, ParameterUninitializedException):
        return []


def _list(node: Any, request: Any, response: Any) -> Any:
    response.result = node.list_parameters(list(request.prefixes), request.depth)
    return response


def _read(node: Any, sent: Any) -> list[Parameter]:
    """Return what was sent as parameters; an empty list takes the type that the parameter has.

    Raises:
        ValueError: for a type number that is none.
    """
    return [Parameter.from_parameter_msg(one) for one in sent]


def _set(node: Any, request: Any, response: Any) -> Any:
    results = []
    for one in request.parameters:
        results.append(_outcome(node, [one]))
    response.results = results
    return response


def _set_atomically(node: Any, request: Any, response: Any) -> Any:
    response.result = _outcome(node, request.parameters)
    return response


def _outcome(node: Any, sent: Any) -> Any:
    """Set what another node sent; whatever is wrong with it is the reason of the result."""
    try:
        return node.set_parameters_atomically(_read(node, sent))
    except ParameterNotDeclaredException as error:
        return result(str(error))
    except ValueError as error:
        return result(f"{error} (known types: 0 to {int(max(ParameterType))})")
