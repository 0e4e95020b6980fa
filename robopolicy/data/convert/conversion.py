"""``convert``: any known format into a data set of ours, or into a plain LeRobot v3 one."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from policies.spec import InputError, suggest
from robopolicy.data import layout
from robopolicy.data.convert.bag_export import BAGS, IMAGES, export
from robopolicy.data.convert.bag_import import import_bags, is_bag
from robopolicy.data.convert.lerobot import rewrite
from robopolicy.data.convert.lerobot_frames import LeRobotFrames
from robopolicy.data.convert.lerobot_v21 import is_version_2, upgrade
from robopolicy.data.convert.progress import bar
from robopolicy.data.convert.source import Source, SourceEpisode, SourceOptions
from robopolicy.data.writer import DatasetWriter

#: Name on the command line -> (module, class) of the formats whose frames are written anew.
SOURCES = {
    "robomimic": ("robomimic_hdf5", "RobomimicSource"),
    "dp-zarr": ("diffusion_policy_zarr", "DiffusionPolicyZarrSource"),
    "minari": ("minari", "MinariSource"),
}
FORMATS = (*SOURCES, "lerobot", "rosbag2")
#: robopolicy: with units, limits and capture times, further episodes can be recorded. lerobot: the format alone. The others: bags.
TARGETS = ("robopolicy", "lerobot", *BAGS)


@dataclass(frozen=True)
class ConversionSummary:
    """What a conversion made.

    Attributes:
        path: The new data set, or folder of bags.
        episodes: Its episodes.
        frames: Its frames.
        fps: Frames a second.
        fields: Its fields, in order.
        notes: One line each for what a person should know.
    """

    path: Path
    episodes: int
    frames: int
    fps: float
    fields: tuple[str, ...]
    notes: tuple[str, ...]


def detect(path: Path) -> str:
    """Return the format of the data at ``path``. Raises InputError if it is none of ``FORMATS``."""
    if (path / "meta/info.json").is_file():
        return "lerobot"
    if path.suffix in (".hdf5", ".h5") and path.is_file():
        return "robomimic"
    if path.name.endswith((".zarr", ".zarr.zip")) or (path / ".zgroup").is_file() or (path / "zarr.json").is_file():
        return "dp-zarr"
    if any((path / part / name).is_file() for part in ("data", ".") for name in ("main_data.hdf5", "metadata.json")):
        return "minari"
    if is_bag(path):
        return "rosbag2"
    what = "its format is not recognised; say it with --from" if path.exists() else "does not exist"
    raise InputError(f"{path}: {what} ({', '.join(FORMATS)})")


def open_source(path: Path, source_format: str, options: SourceOptions) -> Source:
    """Open a source of one of ``SOURCES``. Raises InputError naming what is wrong with it."""
    module, name = SOURCES[source_format]
    if source_format != "minari" and not path.exists():
        raise InputError(f"{path}: no such file or folder")
    return getattr(importlib.import_module(f"robopolicy.data.convert.{module}"), name)(path, options)


def convert(
    source: str | Path,
    dest: str | Path,
    source_format: str | None = None,
    target: str = "robopolicy",
    options: SourceOptions = SourceOptions(),
    progress: bool = True,
    images: str = "jpeg",
) -> ConversionSummary:
    """Convert the data at ``source`` into a new data set at ``dest``, which appears whole or not at all.

    Args:
        source: File, folder, or (Minari) the name of an installed data set.
        dest: New folder.
        source_format: One of ``FORMATS``; None: recognised from the files.
        target: One of ``TARGETS``.
        options: What the source leaves open: rate, task, observations to take.
        progress: Whether to show a progress bar.
        images: Bags: ``jpeg``, ``png`` or ``raw``.

    Raises:
        InputError: one line: unknown format, damaged source (naming the episode), rate not known, ``dest`` taken.
    """
    source, dest = Path(source).expanduser(), Path(dest).expanduser()
    source_format = source_format or detect(source)
    if source_format not in FORMATS:
        raise InputError(f"format {source_format!r} is unknown{suggest(source_format, FORMATS)}")
    if target not in TARGETS:
        raise InputError(f"target format {target!r} is unknown{suggest(target, TARGETS)}")
    if options.mapping is not None and source_format != "rosbag2":
        raise InputError(f"mapping {options.mapping}: says which topic of a bag is which field; {source} is {source_format}")
    if images != IMAGES[0] and target not in BAGS:
        raise InputError(f"images {images!r}: is how bags hold pictures; {target} holds video")
    with _new_folder(dest) as fresh, _spare_folder(fresh) as spare:
        if target in BAGS:
            return _to_bags(source, source_format, fresh, dest, target, options, images, progress)
        if source_format == "rosbag2":
            notes = _from_bags(source, fresh, spare, target, options, progress)
        elif source_format == "lerobot":
            notes = _from_lerobot(source, fresh, spare, target, options, progress)
        elif target == "robopolicy":
            notes = _write(open_source(source, source_format, options), source, fresh, source_format, progress)
        else:
            notes = _write(open_source(source, source_format, options), source, spare, source_format, progress)
            notes += rewrite(spare, fresh, own=False, progress=progress)
    info = layout.read_info(dest)
    fields = tuple(n for n in info["features"] if n not in layout.FRAME_FEATURES)
    return ConversionSummary(dest, int(info["total_episodes"]), int(info["total_frames"]), float(info["fps"]), fields, tuple(notes))


@contextmanager
def _new_folder(dest: Path) -> Iterator[Path]:
    """Yield a folder name beside ``dest`` that takes its place at the end; on an error nothing is left."""
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise InputError(f"{dest} exists already; give a new folder")
    fresh = dest.with_name(f".{dest.name}.converting")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)  # of a conversion that was killed
        yield fresh
        if dest.exists():
            dest.rmdir()
        fresh.rename(dest)
    except InputError as error:
        raise InputError(str(error).replace(str(fresh), str(dest))) from error
    except OSError as error:
        raise InputError(f"{dest}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _spare_folder(fresh: Path) -> Iterator[Path]:
    """Yield the name of a folder beside ``fresh`` for a step in between; it is removed at the end."""
    spare = fresh.with_name(f"{fresh.name}-step")
    shutil.rmtree(spare, ignore_errors=True)
    try:
        yield spare
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _to_bags(source: Path, source_format: str, fresh: Path, dest: Path, target: str, options: SourceOptions, images: str, progress: bool) -> ConversionSummary:
    if source_format != "lerobot":
        raise InputError(f"{source}: bags are written from a data set of this layout; convert it into one first")
    if options != SourceOptions():
        raise InputError(f"{source}: rate, task, keys, subset and mapping are part of a data set and cannot be given")
    export(source, fresh, target, images, progress)
    info = layout.read_info(source)
    fields = tuple(n for n in info["features"] if n not in layout.FRAME_FEATURES)
    return ConversionSummary(dest, int(info["total_episodes"]), int(info["total_frames"]), float(info["fps"]), fields, ())


def _from_bags(source: Path, fresh: Path, spare: Path, target: str, options: SourceOptions, progress: bool) -> list[str]:
    if options.keys is not None or options.subset is not None:
        raise InputError(f"{source}: which topics are taken is what the mapping says; leave keys and subset out")
    notes = import_bags(source, fresh if target == "robopolicy" else spare, options.mapping, options.task, options.fps, progress)
    return notes if target == "robopolicy" else notes + rewrite(spare, fresh, own=False, progress=progress)


def _from_lerobot(path: Path, dest: Path, spare: Path, target: str, options: SourceOptions, progress: bool) -> list[str]:
    if options != SourceOptions():
        raise InputError(f"{path}: rate, task, keys and subset are part of a LeRobot set and cannot be given")
    if is_version_2(path):
        upgrade(path, spare)
    root = spare if spare.exists() else path
    one_by_one = any(f["dtype"] == "image" for f in layout.read_info(root)["features"].values())
    if target == "robopolicy" and one_by_one:
        return _write(LeRobotFrames(root), path, dest, "lerobot", progress)
    return rewrite(root, dest, own=target == "robopolicy", progress=progress, name=str(path))


def _write(source: Source, path: Path, dest: Path, source_format: str, progress: bool) -> list[str]:
    try:
        provenance = {"converted_from": str(path), "format": source_format}
        with (
            DatasetWriter(dest, source.spec, source.fps, source.robot_type, source.task, provenance=provenance) as writer,
            bar(f"converting {path.name}", source.num_episodes, progress) as advance,
        ):
            for episode in source.episodes():
                _add(writer, episode, path)
                advance()
        return list(source.notes)
    finally:
        source.close()


def _add(writer: DatasetWriter, episode: SourceEpisode, path: Path) -> None:
    try:
        for t in range(len(episode.action)):
            observation = {name: array[t] for name, array in episode.observation.items()}
            capture = {name: int(array[t]) for name, array in episode.capture_ns.items()}
            writer.add_frame(observation, episode.action[t], capture or None, {name: array[t] for name, array in episode.extras.items()})
        writer.save_episode(episode.success, episode.seed, episode.task)
    except InputError as error:
        raise InputError(f"{path}: {episode.name}: {error}") from error
