"""The folder of one training run: what lies where, what may be continued, and which checkpoint is the last.

=====================  ========================================================================
``recipe.yaml``        The resolved recipe; ``robopolicy train RUN/recipe.yaml`` repeats the run.
``log.jsonl``          One JSON object a line: ``event`` and ``step``, then what happened.
``tensorboard/``       The same numbers for TensorBoard.
``checkpoints/``       ``step_NNNNNN``, each loadable alone; the oldest beyond ``keep_checkpoints`` go.
``last``               Text: the path of the newest checkpoint, relative to the run (no link: archives keep it).
``state/``             The training state, from which the same command continues after a kill.
``backward/``          The checkpoint of the policy that brings the world back (``training.resets.type=backward``).
``.replaced/``         The run that ``--fresh`` replaces, until the new one has a checkpoint.
=====================  ========================================================================
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from pathlib import Path

from policies.spec import InputError
from robopolicy.config import dump_yaml, read_yaml
from robopolicy.data.atomic import write_bytes
from robopolicy.recipe import Experiment, flatten, recipe_from_dict

_STEP = re.compile(r"step_(\d+)")
_OWN = ("recipe.yaml", "log.jsonl", "tensorboard", "checkpoints", "last", "state", "backward")
REPLACED = ".replaced"  # where a run waits that --fresh replaces
_STATES_KEPT = 2  # a second one, should the disk lose the first


class RunFolder:
    """Where one run writes; nothing is touched before :meth:`open`."""

    def __init__(self, path: str | Path) -> None:
        """Name the places; touch none."""
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.yaml"
        self.log_file = self.path / "log.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.states = self.path / "state"
        self._lock: int | None = None
        self._begun = False  # whether this object wrote recipe.yaml

    def require_place(self) -> None:
        """Refuse a place where the folder cannot be made, before anything is collected for it. Raises InputError."""
        place = next((p for p in self.path.absolute().parents if p.exists()), Path("/"))
        place = self.path if self.path.is_dir() else place
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"output {self.path}: cannot be written: {place} is {'read-only for you' if place.is_dir() else 'no folder'}")

    def check(self, recipe: Experiment) -> None:
        """Refuse a folder that holds something else, or a run with another recipe. Raises InputError."""
        self._repair()
        if self.recipe_file.is_file():
            require_same(recipe_from_dict(read_yaml(self.recipe_file), str(self.recipe_file)), recipe, str(self.path))
            return
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"output {self.path}: a file is in the way, expected a folder")
        foreign = [p.name for p in self.path.iterdir() if p.name not in (*_OWN, REPLACED) and not p.name.endswith(".tmp")] if self.path.is_dir() else []
        if foreign:
            raise InputError(f"output {self.path}: holds {sorted(foreign)[0]!r} and no training run; take an empty folder with output=...")

    def open(self, recipe: Experiment, fresh: bool = False) -> None:
        """Create the folder, or take it up again, for this process alone.

        Args:
            recipe: What is trained; written to ``recipe.yaml``.
            fresh: Begin anew; the run that is there is deleted with the first checkpoint, and comes back with :meth:`forget`.

        Raises:
            InputError: see :meth:`check`; or if another process trains in this folder.
        """
        if not (fresh and self.recipe_file.is_file()):
            self.check(recipe)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._repair()
            if fresh and self.recipe_file.is_file():
                self._set_aside()
            if not self.recipe_file.is_file():
                write_bytes(self.recipe_file, dump_yaml(recipe.to_dict()).encode())
                self._begun = True
        except OSError as error:
            raise InputError(f"output {self.path}: cannot be written: {error.strerror or error}") from error

    def forget(self) -> None:
        """Delete the run if it was begun here, and bring back what it replaced: one that could not even start is in nobody's way."""
        if self._begun:
            self._clear()
            self._repair()
            with contextlib.suppress(OSError):  # something else lies in it
                self.path.rmdir()

    def close(self) -> None:
        """Let other processes in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint at ``step``."""
        return self.checkpoints / f"step_{step:06d}"

    def state(self, step: int) -> Path:
        """Return the file of the training state at ``step``."""
        return self.states / f"step_{step:06d}.safetensors"

    def states_newest_first(self) -> list[tuple[int, Path]]:
        """Return (step, file) of every training state."""
        found = ((_STEP.fullmatch(p.name.partition(".")[0]), p) for p in self.states.glob("step_*.safetensors"))
        return sorted(((int(match[1]), p) for match, p in found if match), reverse=True)

    def point_to(self, step: int) -> None:
        """Make the checkpoint at ``step`` the last one."""
        write_bytes(self.path / "last", f"checkpoints/{self.checkpoint(step).name}\n".encode())

    def prune(self, keep: int) -> None:
        """Delete all but the ``keep`` newest checkpoints and the newest training states, and the run that this one replaced."""
        shutil.rmtree(self.path / REPLACED, ignore_errors=True)
        steps = sorted((int(m[1]) for p in self.checkpoints.glob("step_*") if (m := _STEP.fullmatch(p.name))), reverse=True)
        for step in steps[keep:]:
            doomed = self.checkpoint(step).with_name(f".step_{step:06d}.deleted")
            self.checkpoint(step).replace(doomed)  # so that no half of it is ever found under its name
            shutil.rmtree(doomed)
        for _, file in self.states_newest_first()[_STATES_KEPT:]:
            file.unlink()
        for left in (*self.checkpoints.glob(".step_*.deleted"), *self.states.glob("*.tmp")):  # of a run that was killed here
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def last_good(self) -> str:
        """Return words that name the last checkpoint, for messages."""
        try:
            return f"last good checkpoint: {find_checkpoint(self.path)}"
        except InputError:
            return "no checkpoint was written yet"

    def _take_lock(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise InputError(f"output {self.path}: another process is training in it") from None
        self._lock = handle  # freed by the system however this process ends

    def _set_aside(self) -> None:
        """Move the run that is there below ``.replaced``; one that lies there already was replaced by a run without a checkpoint, which goes."""
        aside = self.path / REPLACED
        if aside.is_dir():
            self._clear()
            return
        aside.mkdir()
        _move(self.path, aside)

    def _repair(self) -> None:
        """Bring back what lies below ``.replaced`` where there is not a whole run in both places: who moved it was killed, or gave up."""
        aside = self.path / REPLACED
        if aside.is_dir() and not (self.recipe_file.is_file() and (aside / self.recipe_file.name).is_file()):
            _move(aside, self.path)
            shutil.rmtree(aside)

    def _clear(self) -> None:
        for name in reversed(_OWN):  # recipe.yaml last: until then it is still recognised as a run
            target = self.path / name
            if target.is_dir():
                shutil.rmtree(target)
            else:
                with contextlib.suppress(FileNotFoundError):
                    target.unlink()


def _move(source: Path, target: Path) -> None:
    for name in reversed(_OWN):  # recipe.yaml last: a run without it is not whole
        with contextlib.suppress(FileNotFoundError):
            (source / name).replace(target / name)


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that ``path`` is, or the last one of the run that ``path`` is.

    Raises:
        InputError: if it is neither.
    """
    path = Path(path).expanduser()
    if (path / "manifest.json").is_file():
        return path
    pointer = path / "last"
    if pointer.is_file():
        target = path / pointer.read_text(encoding="utf-8").strip()
        if (target / "manifest.json").is_file():
            return target
        raise InputError(f"run {path}: its file 'last' names {target.name}, which is not a checkpoint")
    if (path / "recipe.yaml").is_file():
        raise InputError(f"run {path}: no checkpoint was written yet")
    raise InputError(f"{path}: {'neither a checkpoint nor a run' if path.exists() else 'no such checkpoint or run'}")


def require_same(saved: Experiment, wanted: Experiment, folder: str) -> None:
    """Refuse to go on in a run folder that was begun with another recipe.

    Raises:
        InputError: one line: the first key that differs, both values, and what to do.
    """
    old, new = flatten(saved.to_dict()), flatten(wanted.to_dict())
    differing = [k for k in {**old, **new} if old.get(k, "nothing") != new.get(k, "nothing")]
    if differing:
        key, more = differing[0], f" (and {len(differing) - 1} more keys)" if len(differing) > 1 else ""
        raise InputError(
            f"{folder} holds a run with another recipe: {key} is {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} here{more}; "
            f"take another folder with output=..., or begin anew with --fresh"
        )
