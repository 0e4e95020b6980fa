"""The operator's page: what the robot sees and does, its state in big letters, and a stop button; a process of its own.

It reads telemetry and asks by the operator's channel, so whatever happens to it, to the browser or to the network between
them, the control loop never waits for it. It serves this machine alone, and only who has its key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from real.page_guard import guarded_server
from real.page_operator import Deadman, Requests
from real.page_scene import RobotScene
from real.page_text import STYLE, History, Interventions, facts_html, state_html, told_html
from real.telemetry import Subscription
from real.telemetry_wire import Record

_REFRESH_S = 0.1
_IMAGE_HZ = 10.0
_PALETTE = ("#4dabf7", "#ff922b", "#51cf66", "#ff6b6b", "#cc5de8", "#fcc419", "#20c997", "#f783ac")


class Run(NamedTuple):
    """Where one run is found: addresses of its telemetry and operator channel, its token (empty: safer only), file of its drive's latched stop."""

    telemetry: str
    operator: str
    token: str = ""
    latch: str = ""


class OperatorPage:
    """One page.

    Args:
        run: What is shown.
        port: Of the web page on 127.0.0.1; 0: any free one.
        find: Asked while nothing is heard which run there is now; None: none.

    Attributes:
        url: Where the page is, with the key that opens it.

    Raises:
        InputError: for an address that is not loopback, or without viser.
    """

    def __init__(self, run: Run, port: int = 8080, find: Callable[[], Run | None] = lambda: None) -> None:
        self._run, self._find, self._sought_at = run, find, 0.0
        self._subscription = Subscription(run.telemetry, image_rate_hz=_IMAGE_HZ)
        self._requests = Requests(run.operator, run.token, run.latch)
        self._server, self.url = guarded_server(port)
        self._deadman = Deadman(run.operator, run.token, self._answers, self._released)
        self._tick: dict[str, Any] = {}
        self._info: dict[str, Any] = {}
        self._images: dict[str, np.ndarray] = {}
        self._pictures: dict[str, Any] = {}
        self._plots: dict[str, tuple[Any, list[str]]] = {}
        self._heard_at: float | None = None
        self._joints, self._latency, self._interventions = History(), History(60.0), Interventions()
        self._scene: RobotScene | None = None
        self._speed_asked_at = 0.0
        self._build()
        self._server.on_client_disconnect(lambda client: self._gone(client.client_id))

    def run(self, stopped: Callable[[], bool]) -> None:
        """Show what is said until ``stopped``."""
        due = time.monotonic()
        while not stopped():
            record = self._subscription.poll(max(min(due - time.monotonic(), _REFRESH_S), 0.0))
            if record is not None:
                self._take(record)
            if time.monotonic() >= due:
                due = time.monotonic() + _REFRESH_S
                self._refresh()
                self._seek()

    def close(self) -> None:
        """End the page; the deadman is let go."""
        self._part()
        self._server.stop()

    def _part(self) -> None:
        self._deadman.close()
        self._requests.close()
        self._subscription.close()

    def _seek(self) -> None:
        """Turn to the run that there is now, when nothing has been heard for a while."""
        now = time.monotonic()
        if now - max(self._heard_at or 0.0, self._sought_at) < 2:
            return
        self._sought_at = now
        run = self._find()
        if run is None or run == self._run:
            return
        self._part()  # from here on the old requests say that their run has ended, and a stop goes to the drive's latch
        self._run, self._held.value = run, False
        self._subscription = Subscription(run.telemetry, image_rate_hz=_IMAGE_HZ)
        self._requests = Requests(run.operator, run.token, run.latch)
        self._deadman = Deadman(run.operator, run.token, self._answers, self._released)
        self._resume.disabled = self._held.disabled = not run.token
        self._joints, self._latency, self._interventions = History(), History(60.0), Interventions()

    def _build(self) -> None:
        gui, trusted = self._server.gui, bool(self._run.token)
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="medium")
        gui.main_panel.dock_right()
        gui.set_panel_label("robopolicy")
        gui.add_html(STYLE)
        self._state = gui.add_html(state_html({}, None))
        self._facts = gui.add_html(facts_html({}, {}, 0))
        stop = gui.add_button("STOP", color="red", hint="Emergency stop, latched: robopolicy estop --clear")
        stop.on_click(lambda event: self._say("STOP", self._requests.stop()))
        hold = gui.add_button("Hold", color="yellow", hint="Brake and keep the pose")
        hold.on_click(lambda event: self._say("hold", self._requests.ask("hold")))
        self._resume = gui.add_button("Resume", color="green", disabled=not trusted, hint="Needs the token of the run")
        self._resume.on_click(lambda event: self._say("resume", self._requests.ask("resume")))
        self._speed = gui.add_slider("Speed %", min=0, max=100, step=5, initial_value=100)
        self._speed.on_update(self._speed_asked)
        self._held = gui.add_checkbox("Deadman: I hold it", initial_value=False, disabled=not trusted, hint="Ends when this browser is closed or hangs")
        self._held.on_update(self._deadman_asked)
        self._told = gui.add_html(told_html("", ""))
        with gui.add_folder("Interventions"):
            self._list = gui.add_html(self._interventions.html())
        self._panel = gui.add_panel()
        self._cameras = self._panel.add_tab("Cameras")
        signals = gui.add_panel()
        self._signals = signals.add_tab("Signals")
        self._panel.dock_left()
        self._panel.set_width(360)
        signals.dock_below(self._panel)

    def _take(self, record: Record) -> None:
        self._heard_at = time.monotonic()
        values = record.values
        if record.kind == "info":
            self._info = values
            self._requests.latch = str(values.get("latch", "")) or self._run.latch
            self._draw(values)
        elif record.kind == "tick":
            self._tick = values
            at = record.stamp_ns * 1e-9
            self._joints.take(at, self._joint_values(values))
            self._latency.take(at, {n: float(v) for n, v in values.items() if n.endswith("_ms") and isinstance(v, float | int)})
        elif record.kind == "image":
            self._images[values["name"]] = values["image"]
        elif record.kind == "event":
            self._interventions.take(record)

    def _draw(self, info: dict[str, Any]) -> None:
        """Draw the robot of a run."""
        joints = info.get("joints")
        self._server.scene.reset()
        self._scene = RobotScene(self._server.scene, str(info.get("model", "")), joints if isinstance(joints, list) else None)
        self._server.initial_camera.position, self._server.initial_camera.look_at = self._scene.view
        for client in self._server.get_clients().values():
            client.camera.position, client.camera.look_at = self._scene.view

    def _joint_values(self, values: dict[str, Any]) -> dict[str, float]:
        """Return measured (solid) and commanded (dashed) joints by name."""
        names, out = self._info.get("joints"), {}
        for key in ("measured", "command"):
            array = values.get(key, values.get("reference") if key == "measured" else None)
            if isinstance(array, np.ndarray) and array.ndim == 1:
                labels = names if isinstance(names, list) and len(names) == len(array) else range(len(array))
                out.update({f"{label}{' cmd' if key == 'command' else ''}": float(x) for label, x in zip(labels, array, strict=True)})
        return out

    def _refresh(self) -> None:
        """Bring the page up to date."""
        silent = None if self._heard_at is None else time.monotonic() - self._heard_at
        with self._server.atomic():
            self._change(self._state, "content", state_html(self._tick, silent))
            self._change(self._facts, "content", facts_html(self._tick, self._info, self._subscription.lost))
            self._change(self._list, "content", self._interventions.html())
            self._follow_speed()
            position = self._tick.get("measured", self._tick.get("reference"))
            if self._scene is not None and position is not None:
                self._scene.move(position)
            for name, image in self._images.items():
                self._show(name, image)
            self._images.clear()
            self._plot("joints, rad or m", self._joints)
            self._plot("latency, ms", self._latency)

    def _follow_speed(self) -> None:
        """Show the speed in force, unless a hand has just been at the slider."""
        speed = self._tick.get("speed")
        if isinstance(speed, float | int) and 0 <= speed <= 1 and time.monotonic() - self._speed_asked_at > 3:
            self._change(self._speed, "value", 5 * round(20 * speed))

    def _change(self, handle: Any, name: str, value: Any) -> None:
        if getattr(handle, name) != value:
            setattr(handle, name, value)

    def _show(self, name: str, image: np.ndarray) -> None:
        if image.shape[2] not in (1, 3) or (name not in self._pictures and len(self._pictures) >= 8):
            return
        image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image
        if name in self._pictures:
            self._pictures[name].image = image
        else:
            with self._cameras:
                self._pictures[name] = self._server.gui.add_image(image, label=name.removeprefix("observation.images."), format="jpeg", jpeg_quality=80)

    def _plot(self, title: str, history: History) -> None:
        """Draw a history; anew when there are other series in it."""
        names = list(history.names)
        if not names:
            return
        handle, drawn = self._plots.get(title, (None, []))
        if names == drawn and handle is not None:
            handle.data = history.arrays(names)
            return
        if handle is not None:
            handle.remove()
        series: list[Any] = [{}]
        for name in names:
            plain = name.removesuffix(" cmd")
            colour = _PALETTE[(names.index(plain) if plain in names else 0) % len(_PALETTE)]
            series.append({"label": name, "stroke": colour, "width": 1.5, **({"dash": [5, 4]} if plain != name else {})})
        grid = {"stroke": "#909296", "grid": {"stroke": "#373a40", "width": 1}, "ticks": {"stroke": "#373a40", "width": 1}}
        with self._signals:
            new = self._server.gui.add_uplot(
                history.arrays(names), tuple(series), title=title, axes=(grid, grid), scales={"x": {"time": False}}, legend={"show": False}, height=190
            )
        self._plots[title] = new, names

    def _say(self, what: str, problem: str) -> None:
        """Tell below the buttons what became of the last request; nothing is ever laid over them."""
        self._told.content = told_html(what, problem)

    def _speed_asked(self, event: Any) -> None:
        if event.client_id is not None:  # a hand, not this program
            self._speed_asked_at = time.monotonic()
            self._say(f"speed {self._speed.value} %", self._requests.ask("speed", self._speed.value / 100))

    def _deadman_asked(self, event: Any) -> None:
        if event.client_id is not None:
            self._deadman.hold(event.client_id if self._held.value else None)

    def _gone(self, browser: int) -> None:
        if self._deadman.holder == browser:
            self._deadman.hold(None)
            self._released("the browser that held it was closed")

    def _released(self, cause: str) -> None:
        self._held.value = False
        self._say("deadman let go", cause)

    def _answers(self, browser: int, within_s: float) -> bool:
        """Whether the page in that browser answers a question."""
        client = self._server.get_clients().get(browser)
        if client is None:
            return False
        try:
            client.local_storage.get_item("deadman", timeout=within_s)
        except (TimeoutError, RuntimeError):
            return False
        return True
