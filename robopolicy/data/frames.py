"""Frames as parquet columns: arrays to a table and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError
from policies.statistics import RunningStats, Stats
from robopolicy.data import layout

if TYPE_CHECKING:
    import pyarrow as pa


def to_table(columns: Mapping[str, np.ndarray], features: Mapping[str, Any]) -> pa.Table:
    """Return arrays (n, *shape) as a table in the order of ``features``; a shape of (1,) becomes a plain column."""
    import pyarrow as pa

    out = {}
    for name, entry in features.items():
        if entry["dtype"] == "video":
            continue
        array = np.ascontiguousarray(columns[name])
        flat = pa.array(array.reshape(-1), type=pa.bool_() if entry["dtype"] == "bool" else None)
        shape = tuple(entry["shape"])
        if shape != (1,):
            for depth, n in enumerate(reversed(shape)):
                last = depth == len(shape) - 1
                if last and len(shape) == 1:
                    flat = pa.FixedSizeListArray.from_arrays(flat, n)
                else:  # the format stores more dimensions as plain nested lists
                    flat = pa.ListArray.from_arrays(pa.array(np.arange(0, len(flat) + 1, n, dtype=np.int32)), flat)
        out[name] = flat
    return pa.table(out)


def column_array(table: pa.Table, name: str, entry: Mapping[str, Any], path: Path) -> np.ndarray:
    """Return column ``name`` as an array (n, *shape) of the feature's dtype; (n,) for a shape of (1,).

    Raises:
        InputError: if the column is missing, has gaps, or does not hold n * size numbers.
    """
    import pyarrow as pa

    if name not in table.column_names:
        raise InputError(f"{path}: column {name!r} is declared in info.json but missing")
    if table.num_rows == 0:
        return np.zeros((0, *_stored_shape(entry)), entry["dtype"])
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    shape = _stored_shape(entry)
    expected = table.num_rows * int(np.prod(shape))
    if column.null_count or len(column) != expected:
        raise InputError(f"{path}: column {name!r} has {len(column) - column.null_count} numbers, expected {expected}")
    return column.to_numpy(zero_copy_only=False).astype(entry["dtype"], copy=False).reshape(table.num_rows, *shape)


def image_arrays(table: pa.Table, name: str, path: Path) -> list[np.ndarray]:
    """Decode a column of PNG or JPEG images (a feature of dtype ``image``) into arrays (H, W, 3) uint8, RGB."""
    import cv2

    out = []
    for row, item in enumerate(table[name].to_pylist()):
        contents = item.get("bytes") if isinstance(item, dict) else item
        image = cv2.imdecode(np.frombuffer(contents, np.uint8), cv2.IMREAD_COLOR) if contents else None
        if image is None:
            raise InputError(f"{path}: row {row} of column {name!r} holds no readable image")
        out.append(np.ascontiguousarray(image[..., ::-1]))
    return out


def _stored_shape(entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape = tuple(entry["shape"])
    return () if shape in ((), (1,)) else shape


def array_stats(array: np.ndarray, shape: tuple[int, ...] | None = None) -> Stats:
    """Return the statistics of rows (n, *shape); plain columns (n,) count as shape (1,)."""
    shape = shape or array.shape[1:] or (1,)
    stats = RunningStats(shape)
    stats.update(array.reshape(len(array), *shape))
    return stats.result()


def frame_columns(episode: int, start: int, length: int, fps: float, task_index: int) -> dict[str, np.ndarray]:
    """Return the columns that the format defines, for one episode beginning at global frame ``start``."""
    steps = np.arange(length, dtype=np.int64)
    return {
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, episode, np.int64),
        "index": steps + start,
        "task_index": np.full(length, task_index, np.int64),
    }


def column_order(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``features`` with the user's fields first and the format's own columns last."""
    own = {k: v for k, v in features.items() if k in layout.FRAME_FEATURES}
    return {k: v for k, v in features.items() if k not in own} | own
