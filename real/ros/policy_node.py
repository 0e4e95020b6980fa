"""The policy node: a run of the control runtime as a ROS 2 node with a life cycle.

The node starts, watches and ends a run in a process of its own, so that nothing that ROS does can delay the control loop; every
command of that run goes through its levels and its safety filter, to which the node has no other way than anyone.

Whoever is on the network may make the robot safer: the topics ``~/hold`` and ``~/stop`` (``std_msgs/Empty``), the services
``~/hold`` (``SetBool`` true), ``~/stop`` and ``~/end`` (``Trigger``). What lets it move needs the parameter ``control``, which is
off unless the launch says otherwise: ``~/start``, ``~/hold`` false (to go on), choosing a checkpoint (the parameter
``checkpoint``: a name, from the one folder ``checkpoints``), and the transition to active. ``/diagnostics`` is told once a second.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from policies.spec import InputError, suggest
from real.ros import api
from real.ros.api import message
from real.ros.diagnostics import diagnostics
from real.ros.run_link import RunLink

_SUCCESS, _FAILURE = api.TransitionCallbackReturn.SUCCESS, api.TransitionCallbackReturn.FAILURE
_LOOK_S, _TELL_S, _PATIENCE_S = 0.05, 1.0, 15.0

#: name -> default, what it is. All but ``checkpoint`` are fixed once the node is there.
PARAMETERS: dict[str, tuple[Any, str]] = {
    "control": (False, "whether ROS may start and resume the robot and choose the checkpoint; hold and stop are always allowed"),
    "checkpoints": ("", "folder whose checkpoints may be chosen by name"),
    "checkpoint": ("", "name of the checkpoint to run, in the folder `checkpoints`; empty: what `policy` says"),
    "policy": ("", "address of a server, or a checkpoint, where no name is chosen"),
    "recipe": ("runtime/ros2", "recipe of the run"),
    "overrides": ([""], "key=value of the run, e.g. robot.namespace=/left"),
    "state_dir": ("", "state folder of the runs; empty: the user's own"),
    "log": ("", "file for what the run says; empty: the node's own output"),
    "autostart": (False, "start the run as soon as the node is configured"),
}

#: recipe, policy, overrides -> the command line of a run.
Command = Callable[[str, str, Sequence[str]], Sequence[str]]


class _Managed(api.LifecycleNode):
    """The ROS side of a policy node: it only passes transitions on, so that no name of ours meets one of the node's."""

    def __init__(self, policy_node: PolicyNode, name: str, **options: Any) -> None:
        self.policy_node = policy_node
        self.stage = "unconfigured"
        super().__init__(name, **options)

    def on_configure(self, state: Any) -> Any:
        """Check that there is a policy to run."""
        if not self.policy_node.configured():
            return _FAILURE
        self.stage = "configured"
        return super().on_configure(state)

    def on_cleanup(self, state: Any) -> Any:
        """Begin anew; there is no run in the state that this is called from."""
        self.stage = "unconfigured"
        return super().on_cleanup(state)

    def on_activate(self, state: Any) -> Any:
        """Start the run, where that is allowed."""
        return super().on_activate(state) if self.policy_node.activated() else _FAILURE

    def on_deactivate(self, state: Any) -> Any:
        """End the run: the robot brakes and holds."""
        self.policy_node.finish()
        return super().on_deactivate(state)

    def on_error(self, state: Any) -> Any:
        """A transition has raised: begin anew, without a run."""
        self.stage = "unconfigured"
        self.policy_node.finish()
        return super().on_error(state)

    def on_shutdown(self, state: Any) -> Any:
        """End the run."""
        self.stage = "shut down"
        self.policy_node.finish()
        return super().on_shutdown(state)


class PolicyNode:
    """The node; :meth:`close` ends its run.

    Args:
        command: Gives the command line of a run.
        name: Of the node.
        options: Of ``rclpy``'s node: ``context``, ``namespace``, ``parameter_overrides``, ``cli_args``.

    Attributes:
        node: The ROS node, for an executor.
        link: The way to the run.
    """

    def __init__(self, command: Command, name: str = "robopolicy", **options: Any) -> None:
        self._command = command
        self._run: subprocess.Popen[bytes] | None = None
        self._out: BinaryIO | None = None
        self._ended = ""  # how the last run ended
        self._asked_by_owner = False
        self.node: Any = _Managed(self, name, **options)
        for key, (default, what) in PARAMETERS.items():
            described = message("rcl_interfaces/msg/ParameterDescriptor")(description=what, read_only=key != "checkpoint")
            self.node.declare_parameter(key, default, described)
        self.link = RunLink(self._text("state_dir"), f"ROS node {self.node.get_fully_qualified_name()}")
        self.node.add_on_set_parameters_callback(self._may_set)
        empty, trigger = message("std_msgs/msg/Empty"), api.service("std_srvs/srv/Trigger")
        self.node.create_subscription(empty, "~/hold", lambda msg: self._say("hold", self._calm("hold")), 10)
        self.node.create_subscription(empty, "~/stop", lambda msg: self._say("stop", self._calm("stop")), 10)
        self.node.create_service(api.service("std_srvs/srv/SetBool"), "~/hold", self._hold)
        for what, act in (("stop", lambda: self._calm("stop")), ("start", self._start_for_anyone), ("end", self.end_run)):
            self.node.create_service(trigger, f"~/{what}", lambda request, response, what=what, act=act: self._answer(response, what, act()))
        self._diagnostics = self.node.create_publisher(message("diagnostic_msgs/msg/DiagnosticArray"), "/diagnostics", 10)
        steady = api.Clock(clock_type=api.ClockType.STEADY_TIME)  # the node's own is the wall's or a simulation's: either may stand still
        self.node.create_timer(_LOOK_S, self._look, clock=steady)
        self.node.create_timer(_TELL_S, self._tell, clock=steady)

    # The life cycle ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Configure, and start the run if ``autostart`` says so: what the node's own process may do."""
        if self.node.trigger_configure() == _SUCCESS and self.node.get_parameter("autostart").value:
            self._asked_by_owner = True
            self.node.trigger_activate()
            self._asked_by_owner = False

    def configured(self) -> bool:
        """Whether there is a policy to run; the log says what is wrong."""
        try:
            self._policy()
        except InputError as error:
            self.node.get_logger().error(str(error))
            return False
        return True

    def activated(self) -> bool:
        """Start the run, where that is allowed; returns whether it was started."""
        refused = "" if self._asked_by_owner else self._needs_control("start")
        refused = refused or self._start()
        if refused:
            self.node.get_logger().error(refused)
        return not refused

    def close(self) -> None:
        """End the run and leave; may be called twice."""
        self.finish()
        self.link.close()

    # What may be asked -------------------------------------------------------------------------------------------

    def end_run(self) -> str:
        """End the run, if there is one; returns an empty text."""
        if self._run is not None:
            self.node.trigger_deactivate()
        return ""

    def _calm(self, what: str) -> str:
        """Hold or stop the robot; a run of ours that does not answer, or is not ready to, is ended. Returns what did not work."""
        refused = self.link.stop() if what == "stop" else self.link.ask("hold")
        if self._run is not None and (refused or not self.link.connected):
            self.node.get_logger().warning(f"{what}: {refused or 'the latch is set'}; the run is ended")
            refused = self.end_run()
        return refused

    def _start_for_anyone(self) -> str:
        if refused := self._needs_control("start"):
            return refused
        if self._run is not None:
            return "start: a run is there already"
        if self.node.stage == "unconfigured":
            self.node.trigger_configure()
        if self.node.stage != "configured":  # a transition that there is not would end the node
            return f"start: the node is {self.node.stage}; see its log"
        outcome = self.node.trigger_activate()
        return "" if outcome == _SUCCESS else "start: see the node's log"

    def _hold(self, request: Any, response: Any) -> Any:
        if request.data:
            return self._answer(response, "hold", self._calm("hold"))
        return self._answer(response, "resume", self._needs_control("resume") or self.link.ask("resume"))

    def _answer(self, response: Any, what: str, refused: str) -> Any:
        self._say(what, refused)
        response.success, response.message = not refused, refused
        return response

    def _say(self, what: str, refused: str) -> None:
        if refused:
            self.node.get_logger().error(f"{what} asked over ROS: {refused}")
        else:
            self.node.get_logger().warning(f"{what} asked over ROS: done")

    def _needs_control(self, what: str) -> str:
        return "" if self.node.get_parameter("control").value else f"{what}: ROS may not let this robot move; start the node with control:=true"

    def _may_set(self, parameters: Sequence[Any]) -> Any:
        """Refuse a change of the checkpoint that is not allowed, is no name, or comes while a run is there."""
        result = message("rcl_interfaces/msg/SetParametersResult")(successful=True)
        for parameter in parameters:
            if parameter.name != "checkpoint":
                continue
            reason = self._needs_control("load") or ("load: a run is there; end it first" if self._run is not None else "")
            try:
                if not reason and parameter.value:
                    self._named(str(parameter.value))
            except InputError as error:
                reason = str(error)
            if reason:
                result.successful, result.reason = False, reason
        return result

    # The run -----------------------------------------------------------------------------------------------------

    def _text(self, name: str) -> str:
        return str(self.node.get_parameter(name).value)

    def _policy(self) -> str:
        """Return the chosen checkpoint's folder, or the policy of the launch. Raises InputError."""
        if chosen := self._text("checkpoint"):
            return str(self._named(chosen))
        if policy := self._text("policy"):
            return policy
        raise InputError("no policy: set the parameter `policy`, or `checkpoints` and `checkpoint`")

    def _named(self, name: str) -> Path:
        """Return the checkpoint of that name in the one folder. Raises InputError: a name is never a way out of it."""
        folder = self._text("checkpoints")
        if not folder or not Path(folder).is_dir():
            raise InputError(f"checkpoint {name!r}: the folder `checkpoints` ({folder or 'empty'}) does not exist")
        names = sorted(entry.name for entry in Path(folder).iterdir() if not entry.name.startswith("."))
        if name not in names:
            raise InputError(f"checkpoint {name!r} is none of {folder}{suggest(name, names)}")
        return Path(folder) / name

    def _start(self) -> str:
        """Start the run; returns an empty text, or why not."""
        if self._run is not None:
            return "start: a run is there already"
        try:
            policy = self._policy()
        except InputError as error:
            return str(error)
        overrides = [text for text in self.node.get_parameter("overrides").value if text]
        if state_dir := self._text("state_dir"):
            overrides.append(f"drive_options.state_dir={state_dir}")
        words = list(self._command(self._text("recipe"), policy, overrides))
        try:
            self._out = Path(self._text("log")).open("ab") if self._text("log") else None  # noqa: SIM115 (closed when the run ends)
            self._run = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self._out, stderr=subprocess.STDOUT if self._out else None)
        except OSError as error:
            self.finish()
            return f"start: {error}"
        self._ended = ""
        self.node.get_logger().info(f"run started: {policy}")
        return ""

    def finish(self) -> None:
        """Ask the run to end: it brakes and holds the robot. One that does not is killed; its drive then brakes by itself."""
        run, self._run = self._run, None
        if run is not None:
            run.terminate()
            try:
                run.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait()
            self._ended = f"ended with code {run.returncode}"
        if self._out is not None:
            self._out.close()
            self._out = None

    def _look(self) -> None:
        self.link.look()
        if self._run is not None and self._run.poll() is not None:
            self.node.get_logger().warning(f"the run has ended with code {self._run.returncode}")
            self.node.trigger_deactivate()

    def _tell(self) -> None:
        now = self.node.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics(self.link.view, self.link.connected, self.node.get_fully_qualified_name(), self._ended, now))
