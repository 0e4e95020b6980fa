"""A data set as a Rerun recording (``.rrd``): pictures, joints, actions and who acted, on the time of each episode.

Entities are the fields' names with slashes (``observation/images/wrist``, ``action``); every episode is a path of its own
(``episode_000003/action``), with the timelines ``frame`` (frame_index) and ``time`` (since the episode began; capture times where
the set has them for that field).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import Field, InputError
from robopolicy.data import layout
from robopolicy.data.atomic import publish, temporary
from robopolicy.data.dataset import Dataset

_JPEG = 90
TAKEOVER = "takeover"


def export(path: str | Path, out: str | Path, episodes: Sequence[int] | None = None, told: Callable[[int, int], None] = lambda done, of: None) -> int:
    """Write episodes of the data set at ``path`` into ``out``; returns how many.

    Args:
        path: Folder of the data set.
        out: New file that ends in ``.rrd``.
        episodes: Their numbers; None: all.
        told: Called with the episodes written and their number.

    Raises:
        InputError: Rerun is not installed, no such data set or episode, the file is there already or cannot be written.
    """
    out = Path(out)
    if out.suffix != ".rrd":
        raise InputError(f"data export: {out}: expected a name that ends in .rrd")
    if out.exists():
        raise InputError(f"data export: {out} exists already; give another name")
    rerun = _rerun()
    dataset = Dataset.open(path)
    chosen = list(range(dataset.num_episodes)) if episodes is None else list(episodes)
    out.parent.mkdir(parents=True, exist_ok=True)
    stream = rerun.RecordingStream("robopolicy", recording_id=f"{dataset.fingerprint}")
    try:
        stream.save(str(temporary(out)))
        _describe(rerun, stream, dataset)
        for done, number in enumerate(chosen, 1):
            _episode(rerun, stream, dataset, number)
            told(done, len(chosen))
        stream.flush()
        stream.disconnect()
        publish(out)
    except OSError as error:
        raise InputError(f"data export: {out}: cannot be written: {error.strerror or error}") from error
    finally:
        stream.disconnect()
        temporary(out).unlink(missing_ok=True)
    return len(chosen)


def entity(number: int, field: str) -> str:
    """Return the entity path of ``field`` in episode ``number``."""
    return f"episode_{number:06d}/{field.replace('.', '/')}"


def times(episode: Mapping[str, np.ndarray], field: str, fps: float) -> np.ndarray:
    """Return when every frame of ``field`` was taken, (T,) ns since the episode's first: its capture times, or frame_index / fps."""
    captured = [name for name in (layout.CAPTURE + field, layout.CAPTURE + field.rpartition(".")[2]) if name in episode]
    if captured:
        stamps = np.asarray(episode[captured[0]], np.int64).ravel()
        first = min(int(np.asarray(array).ravel()[0]) for name, array in episode.items() if name.startswith(layout.CAPTURE))
        return stamps - first
    return np.round(1e9 * np.arange(len(episode["action"])) / fps).astype(np.int64)


def _describe(rerun: Any, stream: Any, dataset: Dataset) -> None:
    """Note what the whole set is, once."""
    fields = dataset.spec.observation.fields
    lines = [f"data set {dataset.path.name}, {dataset.num_episodes} episodes at {dataset.fps:g} Hz, fingerprint {dataset.fingerprint}"]
    lines += [f"- {name}: {field.dtype} {list(field.shape)} {field.unit}" for name, field in fields.items()]
    stream.log("about", rerun.TextDocument("\n".join(lines), media_type="text/markdown"), static=True)


def _episode(rerun: Any, stream: Any, dataset: Dataset, number: int) -> None:
    episode, fields = dataset.episode(number), dataset.spec.observation.fields
    for name, values in episode.items():
        if name.startswith(layout.CAPTURE) or name == "task_index":
            continue
        spec = fields.get(name)
        where = entity(number, name)
        if spec is not None and spec.is_image:
            _pictures(rerun, stream, where, values, times(episode, name, dataset.fps))
            continue
        flat = np.asarray(values, np.float64).reshape(len(values), -1)
        labels = _labels(name, spec, flat.shape[1], dataset)
        stream.log(where, rerun.SeriesLines(names=labels), static=True)
        columns = rerun.Scalars.columns(scalars=flat.ravel()).partition([flat.shape[1]] * len(flat))
        stream.send_columns(where, _timelines(rerun, times(episode, name, dataset.fps)), columns)
    task = dataset.tasks[int(np.asarray(episode["task_index"]).ravel()[0])] if "task_index" in episode and dataset.tasks else ""
    success = {1: "success", 0: "no success"}.get(int(dataset.success[number]), "success not known")
    stream.log(f"episode_{number:06d}", rerun.TextDocument(f"{task}; {success}; seed {int(dataset.seeds[number])}"), static=True)


def _pictures(rerun: Any, stream: Any, where: str, pictures: np.ndarray, at_ns: np.ndarray) -> None:
    """Write (T, H, W, 3) uint8 RGB as JPEG, each at its own time."""
    import cv2

    bodies = []
    for picture in pictures:
        done, body = cv2.imencode(".jpg", cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG])
        assert done
        bodies.append(body.tobytes())
    columns = rerun.EncodedImage.columns(blob=bodies, media_type=["image/jpeg"] * len(bodies))
    stream.send_columns(where, _timelines(rerun, at_ns), columns)


def _timelines(rerun: Any, at_ns: np.ndarray) -> list[Any]:
    return [rerun.TimeColumn("frame", sequence=np.arange(len(at_ns))), rerun.TimeColumn("time", duration=at_ns.astype("timedelta64[ns]"))]


def _labels(name: str, spec: Field | None, count: int, dataset: Dataset) -> list[str]:
    if name == "action":
        return list(dataset.spec.action.names)
    return list(spec.names) if spec is not None and spec.names else [name if count == 1 else f"{name}.{k}" for k in range(count)]


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise InputError(f"data export: Rerun is not installed ({error}): pip install 'robopolicy[rerun]'") from error
    return rerun
