"""Looking at a data set in the browser: an episode's pictures, joints and actions against time, and who acted.

One slider goes through the frames of an episode; everything else follows it. Served to this machine alone, opened by key.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import numpy as np

from policies.motion import joint_columns
from policies.spec import InputError
from robopolicy.data import layout
from robopolicy.data.dataset import Dataset

TAKEOVER, SUCCESS = "takeover", "next.success"
_PALETTE = ("#4dabf7", "#ff922b", "#51cf66", "#ff6b6b", "#cc5de8", "#ffd43b", "#20c997", "#f783ac")
_GRID = {"stroke": "#909296", "grid": {"stroke": "#373a40", "width": 1}, "ticks": {"stroke": "#373a40", "width": 1}}
_PLOTTED = 8  # series of a plot; further elements of a field are in the table of numbers


def spans(marked: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of True in ``marked`` (T,) bool as (first, behind the last)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(marked, bool).astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def strip(taken: np.ndarray, success: np.ndarray | None, at: int) -> str:
    """Return the bar of an episode as HTML: who acted (taken over in orange), where success was, and where the slider stands.

    Args:
        taken: (T,) bool.
        success: (T,) bool, None: not recorded.
        at: Frame.
    """
    frames = max(len(taken), 1)
    parts = [(a, b, "#ff922b", "a person") for a, b in spans(taken)]
    parts += [] if success is None else [(a, b, "#51cf66", "success") for a, b in spans(success)]
    bars = "".join(
        f'<div title="{name}: {a} to {b - 1}" style="position:absolute;left:{100 * a / frames:.2f}%;width:{100 * (b - a) / frames:.2f}%;'
        f'top:{0 if name == "a person" else 8}px;height:8px;background:{colour}"></div>'
        for a, b, colour, name in parts
    )
    here = f'<div style="position:absolute;left:{100 * at / frames:.2f}%;width:2px;top:0;height:16px;background:#fff"></div>'
    return f'<div style="position:relative;height:16px;margin:0 1em 0.5em;background:#1c7ed6">{bars}{here}</div>'


def series_of(episode: Mapping[str, np.ndarray], dataset: Dataset) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return what is plotted: name -> (names of the elements, (T, n) float64); the action, then what was observed, then the rest."""
    fields, out = dataset.spec.observation.fields, {"action": (list(dataset.spec.action.names), np.asarray(episode["action"], np.float64))}
    for name, array in episode.items():
        spec = fields.get(name)
        if name in ("action", "task_index", TAKEOVER) or name.startswith(layout.CAPTURE) or (spec is not None and spec.is_image):
            continue
        values = np.asarray(array, np.float64).reshape(len(array), -1)
        labels = list(spec.names) if spec is not None and spec.names else [str(i) for i in range(values.shape[1])]
        out[name] = labels if len(labels) > 1 else [name], values
    return out


class DatasetViewer:
    """The page.

    Args:
        dataset: What is shown.
        port: Of the page on 127.0.0.1; 0: any free one.
        episode: Shown first.
        model: MJCF or URDF text of the robot; empty: pictures and plots alone.
        joints: Its joints as the data set names them, in the model's order.

    Attributes:
        url: Where the page is, with the key that opens it.
        episode, frame: What is shown.

    Raises:
        InputError: without viser, or for an episode that is not there.
    """

    def __init__(self, dataset: Dataset, port: int = 8091, episode: int = 0, model: str = "", joints: tuple[str, ...] = ()) -> None:
        from real.page_guard import guarded_server
        from real.page_scene import RobotScene

        dataset.episode(episode)
        self.dataset, self.episode, self.frame = dataset, episode, 0
        self._columns = joint_columns(dataset.spec.observation, joints) if joints else None
        self._server, self.url = guarded_server(port)
        self._scene = RobotScene(self._server.scene, model, joints or None) if model else None
        self._plots: dict[str, tuple[Any, np.ndarray]] = {}
        self._build()
        self.show(episode)

    def _build(self) -> None:
        gui, dataset = self._server.gui, self.dataset
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="large")
        gui.set_panel_label(f"robopolicy data view {dataset.path.name}")
        self._told = gui.add_html("")
        self._chosen = gui.add_slider(
            "Episode", min=0, max=max(dataset.num_episodes - 1, 1), step=1, initial_value=self.episode, disabled=dataset.num_episodes < 2
        )
        self._at = gui.add_slider("Frame", min=0, max=1, step=1, initial_value=0)
        self._strip = gui.add_html("")
        self._playing = gui.add_checkbox("Play", initial_value=False)
        self._pace = gui.add_slider("Speed", min=0.1, max=4.0, step=0.1, initial_value=1.0)
        cameras, first = dataset.spec.observation.image_names, int(dataset.episode_starts[self.episode])
        self._pictures = {n: gui.add_image(_picture(dataset.arrays[n][first]), label=n.removeprefix("observation.images."), format="jpeg") for n in cameras}
        self._numbers = gui.add_markdown("")
        self._signals = gui.add_folder("Signals")
        if self._scene is not None:
            self._server.initial_camera.position, self._server.initial_camera.look_at = self._scene.view

    def run(self, stopped: Callable[[], bool]) -> None:
        """Follow the sliders, and play, until ``stopped``."""
        due = time.monotonic()
        while not stopped():
            if int(self._chosen.value) != self.episode and self._chosen.value < self.dataset.num_episodes:
                self.show(int(self._chosen.value))
            if int(self._at.value) != self.frame:
                self.seek(int(self._at.value))
            elif self._playing.value:
                self.seek((self.frame + 1) % self.length)
            pause = 1.0 / (self.dataset.fps * self._pace.value) if self._playing.value else 0.05
            due = max(due + pause, time.monotonic() - 0.5)
            time.sleep(max(due - time.monotonic(), 0.001))

    def show(self, episode: int) -> None:
        """Show another episode from its beginning. Raises InputError for one that is not there."""
        self._rows = self.dataset.episode(episode)
        self.episode, self.length = episode, len(self._rows["action"])
        self._taken = np.asarray(self._rows.get(TAKEOVER, np.zeros(self.length))).reshape(-1).astype(bool)
        self._success = np.asarray(self._rows[SUCCESS]).reshape(-1).astype(bool) if SUCCESS in self._rows else None
        self._series = series_of(self._rows, self.dataset)
        with self._server.atomic():
            if int(self._chosen.value) != episode:
                self._chosen.value = episode
            self._at.max = max(self.length - 1, 1)
            for handle, _ in self._plots.values():
                handle.remove()
            self._plots = {name: self._plot(name, labels, values) for name, (labels, values) in self._series.items()}
        self.seek(0)

    def seek(self, frame: int) -> None:
        """Show frame ``frame``, 0 to T - 1, of the episode; beyond them the nearest."""
        self.frame = at = int(np.clip(frame, 0, self.length - 1))
        with self._server.atomic():
            if int(self._at.value) != at:
                self._at.value = at
            self._told.content = self._head(at)
            self._strip.content = strip(self._taken, self._success, at)
            self._numbers.content = self._table(at)
            for name, handle in self._pictures.items():
                handle.image = _picture(self._rows[name][at])
            for handle, values in self._plots.values():
                handle.data = _until(values, at, self.dataset.fps)
            if self._scene is not None and self._columns is not None:
                field, columns = self._columns
                self._scene.move(np.asarray(self._rows[field][at], np.float64)[columns])

    def close(self) -> None:
        """End the page."""
        self._server.stop()

    def _head(self, at: int) -> str:
        data, known = self.dataset, {1: "success", 0: "failure"}
        task = data.tasks[int(np.asarray(self._rows["task_index"][at]).reshape(-1)[0])]
        acts = " · <b style='color:#ff922b'>a person acts</b>" if self._taken[at] else ""
        share = f" · {self._taken.mean():.0%} taken over" if self._taken.any() else ""
        end = known.get(int(data.success[self.episode]), "outcome not known")
        what = f"episode {self.episode} of {data.num_episodes} · {escape(task)} · {end}{share}"
        return f"<div style='padding:0 1em'>{what}<br>frame {at} · {at / data.fps:.2f} s{acts}</div>"

    def _table(self, at: int) -> str:
        rows = [f"| {name} | {', '.join(f'{v:.4g}' for v in values[at])} |" for name, (_, values) in self._series.items()]
        return "\n".join(["| | |", "|---|---|", *rows])

    def _plot(self, name: str, labels: list[str], values: np.ndarray) -> tuple[Any, np.ndarray]:
        """Draw a field over the whole episode; what lies behind the slider is bright, what lies ahead dim."""
        shown, values = labels[:_PLOTTED], values[:, :_PLOTTED]
        series: list[Any] = [{}]
        for k, label in enumerate(shown):
            colour = _PALETTE[k % len(_PALETTE)]
            series += [{"label": label, "stroke": colour + "55", "width": 1}, {"label": f"{label} so far", "stroke": colour, "width": 2}]
        data = _until(values, 0, self.dataset.fps)
        with self._signals:
            more = f", first {_PLOTTED} of {len(labels)}" if len(labels) > _PLOTTED else ""
            handle = self._server.gui.add_uplot(
                data, tuple(series), title=name + more, axes=(_GRID, _GRID), scales={"x": {"time": False}}, legend={"show": False}, height=170
            )
        return handle, values


def _until(values: np.ndarray, at: int, fps: float) -> tuple[np.ndarray, ...]:
    """Return time, s, and for each column of ``values`` (T, n) itself and itself up to frame ``at``; later it stays where it is."""
    seconds = np.arange(len(values)) / fps
    held = np.minimum(np.arange(len(values)), at)
    return seconds, *(part for column in values.T for part in (column.copy(), column[held]))


def _picture(image: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 of a picture with one channel or three."""
    image = np.asarray(image)
    return np.repeat(image, 3, 2) if image.shape[2] == 1 else image


def robot_of(dataset: Dataset, model: str | None) -> tuple[str, tuple[str, ...]]:
    """Return a robot's model and the names of its joints: of file ``model``, or of the task that the data set was collected in.

    Raises:
        InputError: if the file cannot be read, or its joints are none of the data set's.
    """
    from pathlib import Path

    from policies.kinematics import Kinematics

    if model is not None:
        try:
            text = Path(model).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--model {model}: cannot be read: {error}") from error
        joints = Kinematics(text).names
        joint_columns(dataset.spec.observation, tuple(joints))
        return text, tuple(joints)
    from sim.env import JointDriven
    from sim.registry import make, names

    name = str(layout.read_info(dataset.path).get("robot_type") or "")
    if name not in names():
        return "", ()
    try:
        world = make(name, 1)
    except InputError:  # its suite is not installed here
        return "", ()
    try:
        return (world.robot_model, world.motion.names) if isinstance(world, JointDriven) else ("", ())
    finally:
        world.close()
