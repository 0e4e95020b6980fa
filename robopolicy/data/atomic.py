"""Files that are either whole or absent: written under a temporary name, fsynced, renamed."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from pathlib import Path
from typing import Any

from policies.spec import InputError

#: Ending of every file that is not finished; no reader of the format looks at it.
TEMPORARY = ".tmp"


def temporary(path: Path) -> Path:
    """Return the name under which ``path`` is written until it is whole."""
    return path.with_name(path.name + TEMPORARY)


def sync_file(path: Path) -> None:
    """Flush the contents of ``path`` to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(path: Path) -> None:
    """Give a finished temporary file its final name; both its contents and the name are on the disk when this returns."""
    sync_file(temporary(path))
    temporary(path).replace(path)
    sync_file(path.parent)


def write_bytes(path: Path, contents: bytes) -> None:
    """Write ``contents`` to ``path`` as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary(path).open("wb") as handle:
            handle.write(contents)
        publish(path)
    except BaseException:
        temporary(path).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, as a whole or not at all. NaN is refused: it is not JSON."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def exchange(a: Path, b: Path) -> None:
    """Give two files or folders of one disk each other's names, at once where the system can (Linux 2014 on), else by way of a third name."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, at_once = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if swap is not None and swap(here, os.fsencode(a), here, os.fsencode(b), at_once) == 0:
        return
    aside = temporary(b)
    b.replace(aside)
    a.replace(b)
    aside.replace(a)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError naming the file and, for a syntax error, the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} line {error.lineno}: not valid JSON ({error.msg}); the file is damaged") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def no_space(error: BaseException) -> bool:
    """Whether ``error`` says that nothing more fits: full disk, exhausted quota or file size limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
