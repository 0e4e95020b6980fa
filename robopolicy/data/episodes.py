"""The table of episodes (``meta/episodes``): where every episode's frames and videos lie, and how it ended."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.spec import InputError
from policies.statistics import Stats
from robopolicy.data import layout
from robopolicy.data.atomic import write_bytes

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class EpisodeTable:
    """One row per committed episode, E in all.

    Attributes:
        length: (E,) int64, frames.
        tasks: E lists of task strings.
        data: (E, 2) int64, (chunk, file) of the frames.
        video: camera -> (E, 2) int64, (chunk, file) of the video.
        video_start: camera -> (E,) float64, s, where the episode begins in that video.
        row_files: The files that hold the rows.
        success: (E,) int8, 1, 0 or -1 where it is not known.
        seed: (E,) int64, -1 where it is not known.
        rows: The rows as they are stored, for editing.
    """

    length: np.ndarray
    tasks: list[list[str]]
    data: np.ndarray
    video: dict[str, np.ndarray]
    video_start: dict[str, np.ndarray]
    row_files: set[Path]
    success: np.ndarray
    seed: np.ndarray
    rows: list[dict[str, Any]]

    @property
    def starts(self) -> np.ndarray:
        """(E + 1,) int64: first frame of every episode, and the number of frames."""
        return np.concatenate([[0], np.cumsum(self.length)]).astype(np.int64)

    def files(self, root: Path) -> set[Path]:
        """Return every file that a row points at."""
        out = self.row_files | {layout.data_file(root, (int(c), int(f))) for c, f in self.data}
        for key, numbers in self.video.items():
            out |= {layout.video_file(root, key, (int(c), int(f))) for c, f in numbers}
        return out


def read_parquet(path: Path, columns: Sequence[str] | None = None, what: str = "", without: str = "") -> pa.Table:
    """Read ``columns`` of one parquet file (all by default), but none whose name begins with ``without``.

    Raises:
        InputError: naming the file and ``what`` it holds if it is damaged or missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # the file's own schema: a folder called chunk-000 must not become a column
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names if columns is None else list(columns)
            return file.read(columns=[n for n in names if not n.startswith(without)] if without else names)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).splitlines()[0].rstrip(". ")
        raise InputError(f"{path}{what}: not a whole parquet file ({reason}); `robopolicy data check` lists all damage") from error


def write_parquet(path: Path, table: pa.Table, small: bool = False) -> None:
    """Write ``table`` as a whole or not at all; ``small`` leaves out what only helps large tables (half the size)."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    options: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "store_schema": False} if small else {}
    pq.write_table(table, buffer, **options)
    write_bytes(path, buffer.getvalue())


def read_episodes(root: Path, info: Mapping[str, Any], stats: bool = False) -> EpisodeTable:
    """Read the rows of the committed episodes (the first ``total_episodes``); later ones are leftovers and are ignored.

    Args:
        root: The data set.
        info: Its ``meta/info.json``.
        stats: Whether the rows keep their statistics, which make up most of a row.

    Raises:
        InputError: if a file is damaged, or a committed episode has no row or two.
    """
    total = int(info["total_episodes"])
    found: dict[int, dict[str, Any]] = {}
    row_files: set[Path] = set()
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        chunk, file = (name.rpartition("-")[2] for name in (path.parent.name, path.stem))
        guess = f"episode {int(chunk) * layout.CHUNK_SIZE + int(file)} on" if chunk.isdecimal() and file.isdecimal() else "episodes"
        try:
            table = read_parquet(path, what=f" (rows of {guess})", without="" if stats else "stats/")
        except InputError:
            if found and total <= len(found):  # not committed: recover removes it
                continue
            raise
        for row in table.to_pylist():
            index = int(row["episode_index"])
            if index >= total:
                continue
            if index in found:
                raise InputError(f"{path}: episode {index} has a second row; expected one")
            found[index] = row
            row_files.add(path)
    missing = [i for i in range(total) if i not in found]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(
            f"{root}: info.json counts {total} episodes but meta/episodes has no row of {len(missing)} of them ({shown}); see `robopolicy data check`"
        )
    return _table([found[i] for i in range(total)], row_files, [k for k, f in info["features"].items() if f["dtype"] == "video"])


def _table(rows: list[dict[str, Any]], row_files: set[Path], cameras: Sequence[str]) -> EpisodeTable:
    def pair(prefix: str) -> np.ndarray:
        return np.array([[r.get(f"{prefix}/chunk_index", 0), r.get(f"{prefix}/file_index", 0)] for r in rows], np.int64).reshape(-1, 2)

    def number(name: str, default: int) -> np.ndarray:
        return np.array([default if r.get(name) is None else int(r[name]) for r in rows], np.int64)

    return EpisodeTable(
        length=number("length", 0),
        tasks=[list(r.get("tasks") or []) for r in rows],
        data=pair("data"),
        video={k: pair(f"videos/{k}") for k in cameras},
        video_start={k: np.array([r[f"videos/{k}/from_timestamp"] for r in rows], np.float64) for k in cameras},
        row_files=row_files,
        success=number("success", -1).astype(np.int8),
        seed=number("seed", -1),
        rows=rows,
    )


def episode_row(
    index: int,
    start: int,
    length: int,
    tasks: Sequence[str],
    number: tuple[int, int],
    cameras: Sequence[str],
    fps: float,
    success: bool | None,
    seed: int | None,
    randomized: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the row of an episode whose frames, videos and row lie in files of their own, all with the same number.

    What its world drew (``randomized``) stands in it as JSON, where anything was.
    """
    chunk, file = number
    row: dict[str, Any] = {"episode_index": index, "tasks": list(tasks), "length": length, "dataset_from_index": start, "dataset_to_index": start + length}
    row |= {"data/chunk_index": chunk, "data/file_index": file, "meta/episodes/chunk_index": chunk, "meta/episodes/file_index": file}
    for key in cameras:
        row |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
        row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / fps}
    row |= {"success": success, "seed": seed}
    return row if randomized is None else row | {"randomized": json.dumps(randomized, separators=(",", ":"), allow_nan=False)}


def with_stats(row: dict[str, Any], stats: Mapping[str, Stats]) -> dict[str, Any]:
    """Return ``row`` with ``stats/FIELD/STATISTIC`` columns, as the format flattens them."""
    flat = {f"stats/{field}/{name}": np.asarray(value).tolist() for field, one in stats.items() for name, value in one.items()}
    return {k: v for k, v in row.items() if not k.startswith("stats/")} | flat


def row_stats(row: Mapping[str, Any]) -> dict[str, Stats]:
    """Return the statistics of one row, field -> statistic -> array; empty if it has none."""
    out: dict[str, Stats] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            _, field, name = column.split("/")
            out.setdefault(field, {})[name] = np.asarray(value, np.int64 if name == "count" else np.float64)
    return out


def _column_type(name: str, values: Sequence[Any]) -> pa.DataType:
    """Return the type of a column of episode rows; of one that the format does not know, whatever its values are."""
    import pyarrow as pa

    value = next((v for v in values if v is not None), None)
    if name.startswith("stats/"):
        inner = pa.int64() if name.endswith("/count") else pa.float64()
        for _ in range(0 if value is None else np.ndim(value)):
            inner = pa.list_(inner)
        return inner
    if name == "tasks":
        return pa.list_(pa.string())
    if name == "success":
        return pa.bool_()
    if name == "randomized":
        return pa.string()
    if name.endswith("_timestamp"):
        return pa.float64()
    return pa.int64() if value is None else pa.infer_type(values)


def write_episodes(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write episode rows with the same columns as one parquet file."""
    import pyarrow as pa

    schema = pa.schema([(name, _column_type(name, [r.get(name) for r in rows])) for name in rows[0]])
    write_parquet(path, pa.Table.from_pylist(list(rows), schema=schema), small=True)


def write_tasks(root: Path, tasks: Sequence[str]) -> None:
    """Write ``meta/tasks.parquet``: a pandas frame whose index is the task string, with a column ``task_index``."""
    import pyarrow as pa

    def column(name: str | None, field: str, pandas: str, numpy: str) -> dict[str, Any]:
        return {"name": name, "field_name": field, "pandas_type": pandas, "numpy_type": numpy, "metadata": None}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [column(None, "None", "unicode", "object") | {"metadata": {"encoding": "UTF-8"}}],
        "columns": [column("task_index", "task_index", "int64", "int64"), column("task", "task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    write_parquet(root / layout.TASKS, table.replace_schema_metadata({"pandas": json.dumps(pandas)}))


def read_tasks(root: Path) -> list[str]:
    """Return the task strings in the order of their index. Raises InputError if the file is damaged."""
    table = read_parquet(root / layout.TASKS, what=" (task names)")
    text = next((n for n in table.column_names if n != "task_index"), None)
    if text is None or "task_index" not in table.column_names:
        raise InputError(f"{root / layout.TASKS}: expected a column task_index and the task strings, found {table.column_names}")
    pairs = sorted(zip(table["task_index"].to_pylist(), table[text].to_pylist(), strict=True))
    return [str(task) for _, task in pairs]
