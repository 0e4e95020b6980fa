"""Recorded motion for identification, and what becomes of its result: a recipe's section, an MJCF file, a plot."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import InputError, Spec, suggest
from robopolicy.config import dump_yaml
from robopolicy.data import layout
from robopolicy.data.atomic import TEMPORARY, publish, temporary, write_bytes
from sim.identify import Fit
from sim.identify_parameters import DELAY, LATENCY
from sim.identify_rollout import Trajectory

_SHOWN = 6  # windows in a plot


def read_trajectories(path: Path, spec: Spec, episodes: int | None = None) -> list[Trajectory]:
    """Read recorded episodes: a data set of ours, or an ``.npz`` file.

    The file holds ``actions`` (T, Da) and ``observations`` (T, D) or (T + 1, D), or fields by their names in the task's spec
    (``observation.state``); ``time`` (T,) in s if they are not sampled at the task's rate, ``episode`` (T,) if there are several.

    Args:
        path: Folder or file.
        spec: Of the task that is to follow them.
        episodes: The first so many; None: all.

    Raises:
        InputError: one line, if it cannot be read or does not fit the task.
    """
    if path.suffix == ".npz":
        found = _read_npz(path, spec)
    elif path.is_file():
        raise InputError(f"{path}: expected a data set (a folder) or an .npz file")
    else:
        found = _read_dataset(path, spec)
    return found if episodes is None else found[:episodes]


def _read_dataset(path: Path, spec: Spec) -> list[Trajectory]:
    from robopolicy.data.dataset import Dataset

    dataset = Dataset.open(path)
    noise = ((layout.read_own(path) or {}).get("provenance", {}).get("collect") or {}).get("noise", 0.0)
    if noise:
        raise InputError(f"{path} was collected with --noise {noise:g}: its actions are the expert's, not those that were carried out; collect without noise")
    if dataset.spec.action.dim != spec.action.dim:
        raise InputError(f"{path}: actions have {dataset.spec.action.dim} numbers, the task's have {spec.action.dim}")
    if abs(dataset.fps - spec.action.rate_hz) > 0.01 * spec.action.rate_hz:
        raise InputError(f"{path}: {dataset.fps:g} frames a second, the task has {spec.action.rate_hz:g} actions a second")
    out = []
    for index in range(dataset.num_episodes):
        arrays = dataset.episode(index)
        fields = {n: np.asarray(arrays[n], np.float64) for n, f in spec.observation.fields.items() if n in arrays and not f.is_image}
        out.append(_checked(np.asarray(arrays["action"], np.float64), fields, spec, f"{path} episode {index}"))
    return out


def _read_npz(path: Path, spec: Spec) -> list[Trajectory]:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a readable .npz file of plain arrays: {error}") from error
    known = {"time", "actions", "observations", "episode", *spec.observation.fields}
    for name in arrays:
        if name not in known:
            raise InputError(f"{path}: unknown array {name!r}{suggest(name, known)}")
    for name, array in arrays.items():
        columns = array.ndim == 1 if name in ("time", "episode") else array.ndim > 0
        if not columns or array.dtype.kind not in "fiub":
            raise InputError(f"{path}: {name}: expected numbers, one row a frame, found {array.dtype} of shape {array.shape}")
    if "actions" not in arrays:
        raise InputError(f"{path}: there is no array 'actions'; found {', '.join(arrays) or 'none'}")
    fields = {n: np.asarray(arrays[n], np.float64) for n in spec.observation.fields if n in arrays}
    if "observations" in arrays:
        fields.setdefault("observation.state", np.asarray(arrays["observations"], np.float64))
    actions = np.asarray(arrays["actions"], np.float64)
    time, count = arrays.get("time"), len(actions)
    for name, values in [*fields.items(), *(() if time is None else (("time", time),))]:
        if len(values) not in (count, count + 1):
            raise InputError(f"{path}: {name} has {len(values)} rows, actions have {count}")
    episode = np.zeros(count, np.int64) if "episode" not in arrays else np.asarray(arrays["episode"])
    if len(episode) != count:
        raise InputError(f"{path}: episode has {len(episode)} rows, actions have {count}")
    out = []
    for label in dict.fromkeys(episode.tolist()):
        rows = np.flatnonzero(episode == label)
        more = [*rows, rows[-1] + 1] if all(len(v) > count for v in fields.values()) and rows[-1] == count - 1 else rows
        own = {n: v[more] for n, v in fields.items()}
        sent = actions[rows] if len(more) == len(rows) else np.concatenate([actions[rows], actions[rows[-1:]]])
        where = f"{path} episode {label}" if "episode" in arrays else str(path)
        if time is not None:
            sent, own = _resampled(np.asarray(time, np.float64)[more if len(time) > count else rows], sent, own, 1.0 / spec.action.rate_hz, where)
        out.append(_checked(sent, own, spec, where))
    return out


def _resampled(time: np.ndarray, actions: np.ndarray, fields: dict[str, np.ndarray], dt: float, where: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return actions and fields at multiples of ``dt``: readings between two in proportion, commands as they held."""
    time = time[: len(actions)]
    if len(time) < 2 or not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise InputError(f"{where}: time must rise from row to row")
    if np.abs(np.diff(time) - dt).max() < 0.01 * dt:
        return actions, fields
    grid = time[0] + dt * np.arange(int((time[-1] - time[0]) / dt + 1e-9) + 1)
    held = actions[np.clip(np.searchsorted(time, grid + 1e-9, side="right") - 1, 0, len(actions) - 1)]
    read = {n: np.stack([np.interp(grid, time, column) for column in v[: len(time)].reshape(len(time), -1).T], axis=1) for n, v in fields.items()}
    return held, read


def _checked(actions: np.ndarray, fields: dict[str, np.ndarray], spec: Spec, where: str) -> Trajectory:
    if not fields:
        raise InputError(f"{where}: none of the observation fields of the task is recorded: {', '.join(spec.observation.state_names)}")
    if actions.ndim != 2 or actions.shape[1] != spec.action.dim:
        raise InputError(f"{where}: actions: expected shape (T, {spec.action.dim}), found {actions.shape}")
    if not np.isfinite(actions).all():
        raise InputError(f"{where}: an action is not finite")
    for name, values in fields.items():
        size = spec.observation.fields[name].size if name in spec.observation.fields else 0
        if values.reshape(len(values), -1).shape[1] != size:
            raise InputError(f"{where}: {name}: expected {size} numbers a frame, found {values.reshape(len(values), -1).shape[1]}")
        if not np.isfinite(values).all():
            raise InputError(f"{where}: {name} is not finite")
    length = min(len(actions), *(len(v) for v in fields.values()))
    return Trajectory(actions[:length], {n: v[:length] for n, v in fields.items()}, where)


def write_section(fit: Fit, path: Path) -> None:
    """Write the fitted values as a recipe's section ``env: randomize:``."""
    lines = [f"# {one.key}: {one.value:.6g} +- {one.standard_error:.2g} {one.unit}, from {one.start:.6g}" for one in fit.estimates]
    lines = [f"# {fit.task}, fitted to {fit.windows} windows of {fit.steps} steps", *lines, ""]
    write_bytes(path, ("\n".join(lines) + dump_yaml({"env": {"randomize": fit.section()}})).encode())


def write_mjcf(fit: Fit, model_file: Path, path: Path) -> None:
    """Write the task's model file with the fitted fields.

    Args:
        fit: What was found.
        model_file: The MJCF file that the task loads.
        path: What is written.

    Raises:
        InputError: if MJCF has no place for a fitted value (delays; what the compiler derives anew).
    """
    import mujoco

    from sim.randomize_fields import select

    loose = [one.key for one in fit.estimates if one.key in (DELAY, LATENCY)]
    if loose:
        raise InputError(f"{path}: MJCF has no place for {' and '.join(loose)}; write a .yaml section instead")
    mj: Any = mujoco
    model = mj.MjModel.from_xml_path(str(model_file))
    wanted = {}
    for one in fit.estimates:
        selection = select(one.key, model, "--out")
        new = selection.base * one.value if one.unit == "x" else selection.base + one.value if one.is_factor else np.full(selection.base.shape, one.value)
        wanted[one.key] = new
        _set(model, selection, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    mj.mj_saveLastXML(str(temporary(path)), model)
    again = mj.MjModel.from_xml_string(temporary(path).read_text(), {f.name: f.read_bytes() for f in model_file.parent.iterdir() if f.is_file()})
    for key, new in wanted.items():
        if not np.allclose(select(key, again, "--out").base, new, rtol=1e-4, atol=1e-9):
            temporary(path).unlink()
            raise InputError(f"{path}: {key} does not survive in MJCF (the compiler derives it from other values); write a .yaml section instead")
    publish(path)


def _set(model: Any, selection: Any, new: np.ndarray) -> None:
    """Write ``new`` (R, C) into the model, with what goes with it."""
    named = selection.named
    if named.field.startswith("opt."):
        name = named.field[4:]
        values = np.array(getattr(model.opt, name), np.float64)  # a copy: density and viscosity are plain numbers
        values.reshape(-1)[selection.columns] = new[0]
        setattr(model.opt, name, values if values.ndim else float(values))
        return
    values = getattr(model, named.field)
    flat = values.reshape(len(values), -1)
    flat[np.ix_(selection.rows, selection.columns)] = -new if named.also == "kd" else new
    if named.also == "mass":
        model.body_inertia[selection.rows] *= new / selection.base
    if named.also == "kp":
        model.actuator_biasprm[selection.rows, 1] = -new[:, 0]
    if named.also == "kd":
        velocity = model.actuator_biasprm[selection.rows, 1] == 0
        model.actuator_gainprm[selection.rows[velocity], 0] = new[velocity, 0]


def plot(fit: Fit, path: Path) -> None:
    """Draw readings and predictions before and after, one panel an element, for the first windows; ``.svg``, ``.png`` or ``.pdf``.

    Raises:
        InputError: for another ending.
    """
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise InputError(f"--plot {path}: expected a name that ends in .svg, .png or .pdf")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = np.flatnonzero(fit.trajectory == fit.trajectory[0])[:_SHOWN]
    elements = len(fit.elements)
    figure = Figure(figsize=(8, 1.2 + 1.6 * elements), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(elements, 1, sharex=True, squeeze=False)[:, 0]
    gap = np.full((1, 1), np.nan)

    def line(values: np.ndarray) -> np.ndarray:
        return np.concatenate([np.concatenate([one.reshape(1, -1), gap], axis=1)[0] for one in values])

    time = line(fit.time[shown])
    for d, panel in enumerate(axes):
        panel.plot(time, line(fit.observed[shown, :, d]), ".", color="0.45", markersize=3, label="recorded")
        panel.plot(time, line(fit.predicted_before[shown, :, d]), color="#c44e52", linewidth=1, label=f"before, rms {fit.before[d]:.3g}")
        panel.plot(time, line(fit.predicted_after[shown, :, d]), color="#2f6fb5", linewidth=1.4, label=f"after, rms {fit.after[d]:.3g}")
        panel.set_ylabel(fit.elements[d])
        panel.legend(loc="upper right", fontsize=7, frameon=False)
        panel.grid(alpha=0.25)
    axes[0].set_title(", ".join(f"{one.key} {one.value:.4g} ± {one.standard_error:.1g}" for one in fit.estimates), fontsize=9)
    axes[-1].set_xlabel("time in s")
    work = path.with_name(f"{path.stem}{TEMPORARY}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(work, dpi=130)
    work.replace(temporary(path))
    publish(path)
