"""Parameters of a node: declared, set through callbacks and descriptors, told on ``/parameter_events``.

The rules are rclpy's: a parameter is declared before it is used, keeps the type it was declared with unless its descriptor says
``dynamic_typing``, and what the command line or a file gives it (an override) stands in place of the default.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from real.ros.dds import parameter_services
from real.ros.dds.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterAlreadyDeclaredException,
    ParameterImmutableException,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
)
from real.ros.dds.names import fully_qualified
from real.ros.dds.parameter import Parameter, ParameterType, names_below, refused_by, result, validate_parameter_name
from real.ros.dds.time_source import TimeSource
from real.ros.messages import message

OnSet = Callable[[list[Parameter]], Any]


class NodeParameters:
    """The part of a node that holds parameters."""

    _parameters: dict[str, Parameter]
    _descriptors: dict[str, Any]

    def _init_parameters(
        self: Any,
        *,
        parameter_overrides: Sequence[Parameter] | None = None,
        allow_undeclared_parameters: bool = False,
        automatically_declare_parameters_from_overrides: bool = False,
        start_parameter_services: bool = True,
        given: dict[str, Any] | None = None,
    ) -> None:
        """Begin: called last by the node's constructor. ``given`` are the values of command line and files."""
        self._parameters, self._descriptors, self._parameter_lock = {}, {}, threading.RLock()
        self._pre_set: list[OnSet] = []
        self._on_set: list[OnSet] = []
        self._post_set: list[OnSet] = []
        self._allow_undeclared = allow_undeclared_parameters
        self._parameter_overrides = {name: Parameter(name, value=value) for name, value in (given or {}).items()}
        self._parameter_overrides.update({one.name: one for one in parameter_overrides or ()})
        kind = message("rcl_interfaces/msg/ParameterEvent")
        self._parameter_events = self.create_publisher(kind, "/parameter_events", _events_qos())
        if automatically_declare_parameters_from_overrides:
            descriptor = message("rcl_interfaces/msg/ParameterDescriptor")
            self.declare_parameters("", [(name, one.value, descriptor()) for name, one in self._parameter_overrides.items()], ignore_override=True)
        self._time_source = TimeSource(self)
        if start_parameter_services:
            parameter_services.start(self)

    def declare_parameter(self: Any, name: str, value: Any = None, descriptor: Any = None, ignore_override: bool = False) -> Parameter:
        """Declare one parameter; see declare_parameters. By its name alone it is without a value and of any type."""
        given = (name,) if value is None and descriptor is None else (name, value, descriptor or message("rcl_interfaces/msg/ParameterDescriptor")())
        return self.declare_parameters("", [given], ignore_override)[0]

    def declare_parameters(self: Any, namespace: str, parameters: Sequence[tuple[Any, ...]], ignore_override: bool = False) -> list[Parameter]:
        """Declare parameters given as (name), (name, default) or (name, default, descriptor).

        Args:
            namespace: Put in front of the names, with a dot.
            parameters: A default that is a ``Parameter.Type`` declares the type alone.
            ignore_override: Whether the defaults stand even where an override is given.

        Returns:
            The parameters as they now are.

        Raises:
            ParameterAlreadyDeclaredException: for names that are declared.
            InvalidParameterException: for a name that is not allowed.
            InvalidParameterTypeException: if an override is of another type.
            InvalidParameterValueException: if a descriptor or a callback refuses the value.
            TypeError: if a tuple is not of that form.
        """
        made, descriptors = [], {}
        for given in parameters:
            parameter, descriptor = self._declared(namespace, given, ignore_override)
            made.append(parameter)
            descriptors[parameter.name] = descriptor
        with self._parameter_lock:
            if known := [one.name for one in made if one.name in self._parameters]:
                raise ParameterAlreadyDeclaredException(known)
            for one in made:
                self._declare(one, descriptors[one.name])
            return [self._parameters[one.name] for one in made]

    def _declared(self: Any, namespace: str, given: Any, ignore_override: bool) -> tuple[Parameter, Any]:
        kind = message("rcl_interfaces/msg/ParameterDescriptor")
        given = list(given) if isinstance(given, tuple) else []
        if len(given) not in (1, 2, 3) or not isinstance(given[0], str):
            raise TypeError(f"a parameter is declared by (name,), (name, value) or (name, value, descriptor), not {given!r}")
        value = given[1] if len(given) > 1 else None
        descriptor = given[2] if len(given) > 2 else kind()
        if not isinstance(descriptor, kind):
            raise TypeError(f"a descriptor is a rcl_interfaces/msg/ParameterDescriptor, not {type(descriptor).__name__}")
        name = f"{namespace}.{given[0]}" if namespace else given[0]
        validate_parameter_name(name)
        descriptor.name = name
        if isinstance(value, ParameterType):
            if value is ParameterType.NOT_SET or descriptor.dynamic_typing:
                raise ValueError(f"parameter {name!r}: declared by type, it needs a type that is set and no dynamic typing")
            descriptor.type, value = int(value), None
        elif len(given) == 1:
            descriptor.dynamic_typing = True
        elif not descriptor.dynamic_typing:
            descriptor.type = int(ParameterType.from_parameter_value(value))
            if value is None:
                raise ValueError(f"parameter {name!r}: without dynamic typing it needs a default value, or a Parameter.Type in its place")
        if not ignore_override and name in self._parameter_overrides:
            value = self._parameter_overrides[name].value
        if value == [] and not descriptor.dynamic_typing and descriptor.type >= ParameterType.BYTE_ARRAY:
            return Parameter(name, ParameterType(descriptor.type), []), descriptor  # an empty list is of the type that was declared
        return Parameter(name, value=value), descriptor

    def _declare(self: Any, parameter: Parameter, descriptor: Any) -> None:
        if parameter.type_ is not ParameterType.NOT_SET:
            if not descriptor.dynamic_typing and descriptor.type != parameter.type_:
                raise InvalidParameterTypeException(parameter, ParameterType(descriptor.type))
            reason = refused_by(descriptor, parameter, check_read_only=False)
            if not reason:
                outcome = self._ask([parameter])
                reason = "" if outcome.successful else outcome.reason or "a callback refused it"
            if reason:
                raise InvalidParameterValueException(parameter.name, parameter.value, reason)
        self._parameters[parameter.name], self._descriptors[parameter.name] = parameter, descriptor
        self._tell(new=[parameter])
        for callback in list(self._post_set):
            callback([parameter])

    def undeclare_parameter(self: Any, name: str) -> None:
        """Forget a parameter; as in rclpy this is not told on ``/parameter_events``.

        Raises:
            ParameterNotDeclaredException: if it was not declared.
            ParameterImmutableException: if it is read-only.
        """
        with self._parameter_lock:
            if name not in self._parameters:
                raise ParameterNotDeclaredException(name)
            if self._descriptors[name].read_only:
                raise ParameterImmutableException(name)
            del self._parameters[name], self._descriptors[name]

    def has_parameter(self, name: str) -> bool:
        """Whether a parameter is declared."""
        return name in self._parameters

    def get_parameters(self, names: list[str]) -> list[Parameter]:
        """Return several parameters; raises as get_parameter."""
        return [self.get_parameter(name) for name in names]

    def get_parameter(self: Any, name: str) -> Parameter:
        """Return a parameter.

        Raises:
            ParameterNotDeclaredException: if it is not declared and undeclared ones are not allowed.
            ParameterUninitializedException: if it was declared by type alone and has no value.
        """
        with self._parameter_lock:
            if name in self._parameters:
                found = self._parameters[name]
                if found.type_ is ParameterType.NOT_SET and not self._descriptors[name].dynamic_typing:
                    raise ParameterUninitializedException(name)
                return found
        if self._allow_undeclared:
            return Parameter(name)
        raise ParameterNotDeclaredException(name)

    def get_parameter_or(self: Any, name: str, alternative_value: Parameter | None = None) -> Parameter:
        """Return a parameter, or the alternative (a parameter without a value if none is given) where it is not set."""
        with self._parameter_lock:
            found = self._parameters.get(name)
        if found is not None and found.type_ is not ParameterType.NOT_SET:
            return found
        return Parameter(name) if alternative_value is None else alternative_value

    def get_parameters_by_prefix(self, prefix: str) -> dict[str, Parameter]:
        """Return the parameters below ``prefix``, by their names without it."""
        head = f"{prefix}." if prefix else ""
        return {name[len(head) :]: one for name, one in self._parameters.items() if name.startswith(head)}

    def get_parameter_types(self, names: list[str]) -> list[ParameterType]:
        """Return the types of parameters; raises as get_parameter_type."""
        return [self.get_parameter_type(name) for name in names]

    def get_parameter_type(self: Any, name: str) -> ParameterType:
        """Return the type of a parameter; raises ParameterNotDeclaredException."""
        if name in self._parameters:
            return self._parameters[name].type_
        if self._allow_undeclared:
            return ParameterType.NOT_SET
        raise ParameterNotDeclaredException(name)

    def set_parameters(self: Any, parameter_list: list[Parameter]) -> list[Any]:
        """Set parameters one by one.

        Returns:
            One ``rcl_interfaces/msg/SetParametersResult`` for each.

        Raises:
            ParameterNotDeclaredException: for one that is not declared; those before it are set.
        """
        results = []
        for one in parameter_list:
            results.append(self.set_parameters_atomically([one]))
        return results

    def set_parameters_atomically(self: Any, parameter_list: list[Parameter]) -> Any:
        """Set all parameters or none.

        Returns:
            One ``rcl_interfaces/msg/SetParametersResult``.

        Raises:
            ParameterNotDeclaredException: if one of them is not declared and undeclared ones are not allowed.
            TypeError: if one is no Parameter.
        """
        wanted = list(parameter_list)
        with self._parameter_lock:
            if self._pre_set:
                wanted = [one for before in list(self._pre_set) for one in before(list(parameter_list))]
                if not wanted:
                    return result("the callbacks before setting left no parameter to set")
            if wrong := [one for one in wanted if not isinstance(one, Parameter)]:
                raise TypeError(f"parameters are Parameter objects, not {type(wrong[0]).__name__}")
            self._must_be_declared([one.name for one in wanted])
            for one in wanted:
                if one.name in self._descriptors and (reason := refused_by(self._descriptors[one.name], one)):
                    return result(reason)
            outcome = self._ask(wanted)
            if not outcome.successful:
                return outcome
            self._apply(wanted)
        for after in list(self._post_set):
            after(wanted)
        return outcome

    def _must_be_declared(self: Any, names: list[str]) -> None:
        if not self._allow_undeclared and (unknown := [name for name in names if name not in self._parameters]):
            raise ParameterNotDeclaredException(unknown)

    def _ask(self, parameters: list[Parameter]) -> Any:
        """Return the first refusal of the callbacks (the newest is asked first), or success."""
        for callback in list(getattr(self, "_on_set", ())):
            outcome = callback(parameters)
            if not outcome.successful:
                return outcome
        return result()

    def _apply(self: Any, parameters: list[Parameter]) -> None:
        new, changed, deleted = [], [], []
        for one in parameters:
            known = one.name in self._parameters
            if one.type_ is ParameterType.NOT_SET:
                if known:
                    deleted.append(self._parameters.pop(one.name))
                    del self._descriptors[one.name]
                continue
            (changed if known else new).append(one)
            self._parameters[one.name] = one
            described = self._descriptors.setdefault(one.name, message("rcl_interfaces/msg/ParameterDescriptor")(name=one.name, dynamic_typing=True))
            described.type = int(one.type_)
        self._tell(new, changed, deleted)

    def _tell(self: Any, new: Sequence[Parameter] = (), changed: Sequence[Parameter] = (), deleted: Sequence[Parameter] = ()) -> None:
        """Publish what changed on ``/parameter_events``."""
        if not (new or changed or deleted):
            return
        event = message("rcl_interfaces/msg/ParameterEvent")(
            stamp=self.get_clock().now().to_msg(),
            node=fully_qualified(self.get_name(), self.get_namespace()),
            new_parameters=[one.to_parameter_msg() for one in new],
            changed_parameters=[one.to_parameter_msg() for one in changed],
            deleted_parameters=[one.to_parameter_msg() for one in deleted],
        )
        self._parameter_events.publish(event)

    def add_pre_set_parameters_callback(self: Any, callback: OnSet) -> None:
        """Have ``callback(parameters) -> parameters`` say what is set in their place; what several say is set together."""
        self._pre_set.insert(0, callback)

    def add_on_set_parameters_callback(self: Any, callback: OnSet) -> None:
        """Have ``callback(parameters) -> SetParametersResult`` asked whether values may be set; the newest is asked first."""
        self._on_set.insert(0, callback)

    def add_post_set_parameters_callback(self: Any, callback: OnSet) -> None:
        """Have ``callback(parameters)`` told what was set."""
        self._post_set.insert(0, callback)

    def remove_pre_set_parameters_callback(self: Any, callback: OnSet) -> None:
        """End add_pre_set_parameters_callback; ValueError if it was not there."""
        self._pre_set.remove(callback)

    def remove_on_set_parameters_callback(self: Any, callback: OnSet) -> None:
        """End add_on_set_parameters_callback; ValueError if it was not there."""
        self._on_set.remove(callback)

    def remove_post_set_parameters_callback(self: Any, callback: OnSet) -> None:
        """End add_post_set_parameters_callback; ValueError if it was not there."""
        self._post_set.remove(callback)

    def describe_parameter(self: Any, name: str) -> Any:
        """Return the ``ParameterDescriptor`` of a parameter; raises ParameterNotDeclaredException."""
        if name in self._descriptors:
            return self._descriptors[name]
        if self._allow_undeclared:
            return message("rcl_interfaces/msg/ParameterDescriptor")()
        raise ParameterNotDeclaredException(name)

    def describe_parameters(self, names: list[str]) -> list[Any]:
        """Return the descriptors of parameters; raises as describe_parameter."""
        return [self.describe_parameter(name) for name in names]

    def set_descriptor(self: Any, name: str, descriptor: Any, alternative_value: Any = None) -> Any:
        """Give a parameter another descriptor, and the alternative where its value does not fit; returns its ``ParameterValue``.

        Raises:
            ParameterNotDeclaredException: if it is not declared.
            ParameterImmutableException: if it is read-only.
            InvalidParameterValueException: if the descriptor refuses its value, and the alternative too.
        """
        with self._parameter_lock:
            self._must_be_declared([name])
            if self._descriptors[name].read_only:
                raise ParameterImmutableException(name)
            descriptor.name = name
            choices = [self._parameters[name]]
            if alternative_value is not None:
                choices.append(Parameter.from_parameter_msg(message("rcl_interfaces/msg/Parameter")(name=name, value=alternative_value)))
            reasons = []
            for one in choices:
                if not (reason := refused_by(descriptor, one, check_read_only=False)):
                    self._descriptors[name], self._parameters[name] = descriptor, one
                    return one.get_parameter_value()
                reasons.append(reason)
            raise InvalidParameterValueException(name, choices[-1].value, reasons[-1])

    def list_parameters(self, prefixes: list[str], depth: int) -> Any:
        """Return a ``ListParametersResult`` of the names below ``prefixes``, at most ``depth`` levels down (0: all).

        Raises:
            TypeError: if ``depth`` is no whole number.
            ValueError: if it is negative.
        """
        if not isinstance(depth, int):
            raise TypeError(f"depth is a whole number, not {depth!r}")
        if depth < 0:
            raise ValueError(f"depth is 0 or more, not {depth}")
        names, heads = names_below(self._parameters, list(prefixes), depth)
        return message("rcl_interfaces/msg/ListParametersResult")(names=names, prefixes=heads)


def _events_qos() -> Any:
    from real.ros.qos import qos_profile_parameter_events

    return qos_profile_parameter_events
