"""A context: one DDS participant in one domain, from ``init`` to ``shutdown``."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from cyclonedds.core import DDSException
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.qos import Policy, Qos

from policies.spec import InputError
from real.ros.dds.arguments import Arguments
from real.ros.dds.binding import POLICIES
from real.ros.dds.endpoints import close
from real.ros.dds.exceptions import NotInitializedException
from real.ros.dds.graph import Graph
from real.ros.settings import Settings, settings

#: The DDS standard's port numbers end here.
MAX_DOMAIN_ID = 232

_domains: dict[int, tuple[Domain | None, int, str | None]] = {}
_domains_lock = threading.Lock()


def _open_domain(domain_id: int, chosen: Settings) -> None:
    """Set a DDS domain of this process up, or join its users; its settings hold for all of them."""
    with _domains_lock:
        if domain_id in _domains:
            domain, users, xml = _domains[domain_id]
            if xml != chosen.xml:
                raise InputError(f"domain {domain_id} is already open in this process with other DDS settings; one process, one interface")
        else:
            domain, users = (Domain(domain_id, chosen.xml) if chosen.xml is not None else None), 0
        _domains[domain_id] = domain, users + 1, chosen.xml


def _close_domain(domain_id: int) -> None:
    with _domains_lock:
        domain, users, xml = _domains[domain_id]
        if users > 1:
            _domains[domain_id] = domain, users - 1, xml
            return
        del _domains[domain_id]
        close(domain)


class Context:
    """What nodes share; ``init`` opens it.

    Attributes:
        settings: The DDS settings in use, None before ``init``.
        arguments: What the command line says to ROS.
        graph: Who else is there.
    """

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.arguments = Arguments()
        self.graph: Any = None
        self._participant: Any = None
        self._domain_id: int | None = None
        self._lock = threading.RLock()
        self._ended: list[Callable[[], None]] = []
        self._nodes: list[Any] = []

    @property
    def participant(self) -> Any:
        """The DDS participant.

        Raises:
            NotInitializedException: before ``init`` and after ``shutdown``.
        """
        if self._participant is None:
            raise NotInitializedException("the context is not initialised: call init() first")
        return self._participant

    def init(self, args: Sequence[str] | None = None, *, initialize_logging: bool = True, domain_id: int | None = None, interface: str | None = None) -> None:
        """Open the context.

        Args:
            args: Command line; None is this process's own.
            initialize_logging: Accepted as rclpy does; logging needs none.
            domain_id: DDS domain; None is ``ROS_DOMAIN_ID``, or 0.
            interface: Network interface by name or IPv4 address; empty is loopback, None is ``ROBOPOLICY_ROS_INTERFACE`` or loopback.

        Raises:
            RuntimeError: if it is already open.
            InputError: for a domain or an interface that is none.
        """
        with self._lock:
            if self._participant is not None:
                raise RuntimeError("Context.init() must only be called once")
            self.arguments = Arguments.parse(sys.argv if args is None else args)
            number = _domain_of_environment() if domain_id is None else domain_id
            if not 0 <= number <= MAX_DOMAIN_ID:
                raise InputError(f"DDS domain {number}: expected 0 to {MAX_DOMAIN_ID}")
            chosen = settings(os.environ.get("ROBOPOLICY_ROS_INTERFACE", "") if interface is None else interface)
            try:
                _open_domain(number, chosen)
            except DDSException as error:
                raise InputError(f"DDS does not start in domain {number}: {error}; {chosen.said}") from None
            try:
                with POLICIES:
                    self._participant = DomainParticipant(number, Qos(Policy.Userdata(b"enclave=/;")))
                self.graph = Graph(self)
            except DDSException as error:
                self._participant = None
                _close_domain(number)
                raise InputError(f"DDS does not start in domain {number}: {error}; {chosen.said}") from None
            self._domain_id, self.settings = number, chosen

    def ok(self) -> bool:
        """Whether it is open."""
        return self._participant is not None

    def get_domain_id(self) -> int:
        """Return its DDS domain."""
        if self._domain_id is None or not self.ok():
            raise NotInitializedException("the context is not initialised: call init() first")
        return self._domain_id

    def on_shutdown(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called when it is shut down."""
        with self._lock:
            self._ended.append(callback)

    def _forget(self, callback: Callable[[], None]) -> None:
        """Do not call ``callback`` when it is shut down."""
        with self._lock:
            self._ended = [kept for kept in self._ended if kept is not callback]

    def shutdown(self) -> None:
        """Close it: its nodes hear and say nothing any more.

        Raises:
            RuntimeError: if it is not open.
        """
        with self._lock:
            if self._participant is None:
                raise RuntimeError("Context must be initialized before it can be shutdown")
            participant, self._participant = self._participant, None
            ended, self._ended = self._ended, []
            nodes, self._nodes = self._nodes, []
        for callback in ended:
            with contextlib.suppress(Exception):  # one that fails must not keep the others from being told
                callback()
        self.graph.close()
        for node in nodes:
            node._context_ended()
        close(participant)
        if self._domain_id is not None:
            _close_domain(self._domain_id)

    def try_shutdown(self) -> None:
        """Close it if it is open."""
        with self._lock:
            if self.ok():
                self.shutdown()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *ended: object) -> None:
        self.try_shutdown()


def _domain_of_environment() -> int:
    text = os.environ.get("ROS_DOMAIN_ID", "").strip()
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise InputError(f"ROS_DOMAIN_ID={text!r}: expected a whole number from 0 to {MAX_DOMAIN_ID}")
    return int(text)


_default = Context()
_default_lock = threading.Lock()


def get_default_context(*, shutting_down: bool = False) -> Context:
    """Return the context that is used where none is named."""
    return _default


def init(
    args: Sequence[str] | None = None,
    *,
    context: Context | None = None,
    domain_id: int | None = None,
    interface: str | None = None,
    signal_handler_options: Any = None,
) -> Context:
    """Open a context (the default one); arguments are those of ``Context.init``. Signals are left to Python."""
    chosen = context or _default
    chosen.init(args, domain_id=domain_id, interface=interface)
    return chosen


def shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Close a context (the default one)."""
    (context or _default).shutdown()


def try_shutdown(*, context: Context | None = None, uninstall_handlers: bool | None = None) -> None:
    """Close a context (the default one) if it is open."""
    (context or _default).try_shutdown()


def ok(*, context: Context | None = None) -> bool:
    """Whether a context (the default one) is open."""
    return (context or _default).ok()
