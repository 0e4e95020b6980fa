"""What a task is beyond its name: the packages it stands on, its files, and when an episode counts as solved.

Two evaluations are of one task only where all three agree. The versions are written out; the files (model, meshes, textures,
and source where that is the definition) and the line of ``Entry.success`` become one short hash of their contents, which is
the same on every machine and in every process.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

_DIGITS = 10  # of the hash: 40 bits, where a few hundred tasks are told apart
_FOLDERS = ("meshdir", "texturedir", "assetdir")


def versions(*packages: str) -> str:
    """Return ``NAME VERSION, ...`` of installed distributions, in the order given.

    Raises:
        importlib.metadata.PackageNotFoundError: if one is not installed.
    """
    return ", ".join(f"{package} {version(package)}" for package in packages)


def identity(parts: str, success: str, files: Iterable[Path] = ()) -> str:
    """Return a suite version: ``parts`` and the hash of the definition, e.g. ``gym-pusht 0.1.8, pymunk 6.11.1, definition 1f0c...``.

    Args:
        parts: Versions, shims, kinds of reward: what is said in words.
        success: The line of ``Entry.success``.
        files: What the task is made of besides, see :func:`model_files` and :func:`source`.
    """
    return f"{parts}, definition {definition(success, tuple(files))}"


@functools.cache
def definition(success: str, files: tuple[Path, ...] = ()) -> str:
    """Return the hash, 10 hexadecimal digits, of a success line and of files: their contents and how they lie to the first of them."""
    digest = hashlib.blake2b(success.encode(), digest_size=32)
    for name, path in sorted((_relative(path, files[0]), path) for path in files):
        digest.update(f"\0{name}\0".encode())
        digest.update(_digest(path))
    return digest.hexdigest()[:_DIGITS]


@functools.cache
def _digest(path: Path) -> bytes:
    """Return the hash of one file, which many tasks may share."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _relative(path: Path, first: Path) -> str:
    return Path(os.path.relpath(path, first.parent)).as_posix()


@functools.cache
def model_files(*models: Path) -> tuple[Path, ...]:
    """Return MJCF files and everything they refer to (includes, meshes, textures, height fields) that is there, in a fixed order.

    References are looked up as MuJoCo does: beside the main file, in the compiler's folders, and beside the file that names them.
    """
    found: dict[Path, None] = {}
    for model in models:
        main = model.resolve()
        folders = {main.parent: None}
        waiting = [main]
        while waiting:
            path = waiting.pop()
            if path in found:
                continue
            found[path] = None
            if path.suffix != ".xml":
                continue
            elements = list(ElementTree.parse(path).iter())
            named = [element.get(key) for element in elements if element.tag == "compiler" for key in _FOLDERS]
            folders |= {(base / name).resolve(): None for name in named if name for base in (main.parent, path.parent)}
            for name in (element.get("file") for element in elements):
                hits = [(folder / name).resolve() for folder in (*folders, path.parent) if name and (folder / name).is_file()]
                waiting += hits[:1]
    return tuple(sorted(found, key=str))


def source(*modules: str) -> tuple[Path, ...]:
    """Return the files of modules, by dotted name, without importing the modules themselves (their packages are)."""
    specs = [importlib.util.find_spec(module) for module in modules]
    return tuple(Path(spec.origin) for spec in specs if spec is not None and spec.origin)


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, which is not imported. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"package {package!r} is not installed")
    return Path(spec.submodule_search_locations[0])
