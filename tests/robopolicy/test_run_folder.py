"""``--fresh`` loses nothing: the run that it replaces is there until the new one has a checkpoint, wherever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy.recipe import Recipe
from robopolicy.training.imitation import train
from robopolicy.training.run_folder import RunFolder
from tests.robopolicy.small_runs import recipe


class Killed(BaseException):
    """What no handler catches, as a kill."""


def held(path: Path) -> dict[str, bytes]:
    """Return the files below ``path``, but for half-written ones: relative path -> content."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file() and file.suffix != ".tmp"}


def old_run(path: Path) -> tuple[Recipe, dict[str, bytes]]:
    """Write what a run leaves behind, and return its recipe and files."""
    wanted = recipe(path)
    folder = RunFolder(path)
    folder.open(wanted)
    for name in ("checkpoints/step_000001/manifest.json", "state/step_000001.safetensors", "log.jsonl", "last", "of another.txt"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    folder.close()
    return wanted, held(path)


def begin_anew(path: Path, then: Callable[[RunFolder], None] = lambda folder: None) -> None:
    """Open the folder for another run, as ``--fresh`` does."""
    folder = RunFolder(path)
    try:
        folder.open(recipe(path, seed=4), fresh=True)
        then(folder)
    finally:
        folder.close()


def test_a_mistake_brings_the_run_back_and_a_checkpoint_lets_it_go(tmp_path: Path) -> None:
    path = tmp_path / "run"
    wanted, before = old_run(path)
    begin_anew(path, RunFolder.forget)
    assert held(path) == before
    begin_anew(path)  # and is killed before its first checkpoint, twice
    begin_anew(path)
    assert {name: held(path / ".replaced")[name] for name in before if name != "of another.txt"}.items() <= before.items()
    assert not (path / "state").exists()
    begin_anew(path, lambda folder: folder.prune(1))
    assert sorted(held(path)) == ["of another.txt", "recipe.yaml"]
    with pytest.raises(InputError, match="another recipe: seed is 4 there, 3 here"):
        RunFolder(path).check(wanted)


@pytest.mark.parametrize("forgets", [False, True])
def test_wherever_it_is_killed_one_whole_run_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgets: bool) -> None:
    names = [(os, "replace"), (os, "rename"), (os, "mkdir"), (os, "unlink"), (shutil, "rmtree"), (Path, "replace"), (Path, "mkdir"), (Path, "unlink")]
    survived, at = False, 0
    while not survived:
        path = tmp_path / str(at)
        wanted, before = old_run(path)
        left = [at]

        def counted(real: Callable, left: list[int] = left) -> Callable:
            def call(*args: object, **how: object) -> object:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*args, **how)

            return call

        with monkeypatch.context() as patch:
            for module, name in names:
                patch.setattr(module, name, counted(getattr(module, name)))
            try:
                begin_anew(path, RunFolder.forget if forgets else lambda folder: None)
                survived = True
            except Killed:
                pass
        try:
            RunFolder(path).check(wanted)
            assert held(path) == before, at
        except InputError:  # the new one has taken its place; the old one waits until it has a checkpoint
            assert not forgets or not survived
            waiting = held(path / ".replaced")
            assert waiting == {name: text for name, text in before.items() if name != "of another.txt"}, at
        at += 1
    assert at > 5


def test_a_recipe_that_cannot_be_trained_costs_no_run(tmp_path: Path) -> None:
    wanted = recipe(tmp_path / "run", steps=7)
    train(wanted, progress=False)
    before = held(tmp_path / "run")
    wrong = recipe(tmp_path / "run", {"backbone": "unet"}, steps=7)  # the horizon does not fit
    wrong = wrong.model_copy(update={"policy": wrong.policy.model_copy(update={"horizon": 7})})
    with pytest.raises(InputError):
        train(wrong, progress=False, resume="never")
    assert held(tmp_path / "run") == before
    train(recipe(tmp_path / "run", seed=4, steps=7), progress=False, resume="never")
    assert not (tmp_path / "run" / ".replaced").exists() and held(tmp_path / "run") != before
