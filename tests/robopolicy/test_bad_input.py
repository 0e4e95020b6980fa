"""What a person can get wrong: each is one clear line on standard error and exit code 2, from the command as it is really run."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.require import require
from tests.robopolicy import forked, small_runs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set ``data`` and a checkpoint ``checkpoint``, both of the two-route task."""
    from robopolicy.training.imitation import train

    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(small_runs.demonstrations(), folder / "data")
    result = train(small_runs.recipe(folder / "run", steps=2, checkpoint_every=2), progress=False)
    shutil.copytree(result.checkpoint, folder / "checkpoint")
    return folder


def command(folder: Path, *words: str, prepare: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``robopolicy WORDS`` in ``folder``, as a process of its own; with ``prepare`` it is started anew, and that is called in it first."""
    if prepare is None:
        return forked.command(words, folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "robopolicy", *words], cwd=folder, env=environment, capture_output=True, text=True, preexec_fn=prepare)


def refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Check the exit code, that the message is one line, and what it says."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert done.returncode == 2, f"exit code {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    assert len(lines) == 1, done.stderr[-3000:]
    assert lines[0].startswith("error: ") and "Traceback" not in done.stdout
    for words in said:
        assert words in lines[0], lines[0]


BROKEN = "task: two-route\npolicy: {type: flow\ntraining: 3\n"
WORDS = [
    (["train", "quickstart", "training.stepps=5"], ["training.stepps", "did you mean 'steps'"]),
    (["train", "quickstart", "training.steps=many"], ["training.steps", "'many'", "integer"]),
    (["train", "quickstart", "task=metaworld/peg-insert-sid"], ["metaworld/peg-insert-sid", "did you mean 'metaworld/peg-insert-side'"]),
    (["eval", "nowhere"], ["nowhere"]),
    (["collect", "pushtt"], ["pushtt", "did you mean 'pusht'"]),
    (["trian"], ["trian"]),
]
MORE = [
    *WORDS,
    (["train", "quickstart", "policy.solvr=heun"], ["policy.solvr", "did you mean 'solver'"]),
    (["train", "quickstart", "training.steps=true"], ["training.steps", "expected a number"]),
    (["train", "quickstart", "training.optimizer.lr=-1"], ["training.optimizer.lr", "greater than 0"]),
    (["train", "quickstart", "policy=flo"], ["'flo'", "did you mean 'flow'"]),
    (["train", "quickstrat"], ["quickstrat", "did you mean"]),
    (["train", "broken.yaml"], ["broken.yaml line 3", "not valid YAML"]),
    (["collect", "two-route", "--observations", "images"], ["images"]),
    (["collect", "two-route", "--episodes", "0"], ["--episodes", "greater than or equal to 1"]),
    (["eval", "expert", "--task", "two-rout"], ["two-rout", "did you mean 'two-route'"]),
    (["serve", "nowhere"], ["nowhere"]),
    (["run", "robot=twinn"], ["twinn", "did you mean 'twin'"]),
    (["run", "robot=twin", "polcy=x"], ["polcy", "did you mean 'policy'"]),
    (["data", "inspect", "nowhere"], ["nowhere"]),
    (["report", "nowhere"], ["nowhere"]),
    (["bench", "dta"], ["dta", "did you mean 'data'"]),
]


@pytest.mark.parametrize(("words", "said"), WORDS, ids=[" ".join(words) for words, _ in WORDS])
def test_words_as_a_process(words: list[str], said: list[str], tmp_path: Path) -> None:
    refused(command(tmp_path, *words, prepare=(lambda: None) if len(words) == 1 else None), *said)
    assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.parametrize(("words", "said"), MORE, ids=[" ".join(words) for words, _ in MORE])
def test_words(words: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli import main

    (tmp_path / "broken.yaml").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    code = main(words)
    captured = capsys.readouterr()
    refused(subprocess.CompletedProcess(words, code, captured.out, captured.err), *said)
    assert [p.name for p in tmp_path.iterdir()] == ["broken.yaml"]


@pytest.mark.parametrize(("words", "file"), [("eval", "weights.safetensors"), ("eval", "manifest.json"), ("serve", "normalizer.safetensors")])
def test_a_checkpoint_that_was_cut_short(words: str, file: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "checkpoint", tmp_path / "cut")
    whole = (tmp_path / "cut" / file).read_bytes()
    (tmp_path / "cut" / file).write_bytes(whole[: len(whole) // 2])
    refused(command(tmp_path, words, "cut"), file)


def test_a_checkpoint_that_lacks_a_file(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "checkpoint", tmp_path / "lacks", ignore=shutil.ignore_patterns("spec.json"))
    refused(command(tmp_path, "eval", "lacks"), "spec.json")


def test_a_checkpoint_for_another_world(made: Path) -> None:
    done = command(made, "eval", "checkpoint", "--task", "metaworld/push", "--episodes", "1")
    refused(done, "observation.state", "does not fit", "'metaworld/push'", "expected", "found")


def test_a_data_set_with_a_broken_footer(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "data", tmp_path / "data")
    broken = sorted((tmp_path / "data" / "data").rglob("*.parquet"))[1]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-6])
    refused(command(tmp_path, "data", "inspect", "data"), broken.name)
    refused(command(tmp_path, "train", "quickstart", "data.path=data", "training.steps=1"), broken.name)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("*.safetensors"))


def test_data_of_another_task(made: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "train", "quickstart", "task=metaworld/push", f"data.path={made / 'data'}", "training.steps=1")
    refused(done, "'two-route'", "'metaworld/push'")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    require("small-disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_recording(small_disk: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "collect", "two-route", "--episodes", "500", "--workers", "1", "--out", str(small_disk / "data"))
    refused(done, str(small_disk / "data"), "the disk is full", "earlier episodes are intact")
    checked = command(tmp_path, "data", "check", str(small_disk / "data"))
    assert checked.returncode == 0, checked.stdout + checked.stderr  # every episode that was committed is whole


def test_a_file_that_may_not_grow_while_recording(tmp_path: Path) -> None:
    """The same without root: a limit on the size of files stops the writer in the middle of one."""
    limit = 4000

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    refused(command(tmp_path, "collect", "two-route", "--episodes", "5", "--workers", "1", "--out", "data", prepare=prepare), "data")


def test_the_home_folder_behind_an_equals_sign(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell puts it in there: it would be a folder called ~ here, which nobody dares to remove."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    shutil.copytree(made / "data", home / "data")
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "mine.yaml").write_text("task: two-route\npolicy: {type: regression}\ndata: {path: ~/data}\noutput: ~/second\ntraining: {steps: 1}\n")
    sets = ["training.steps=1", "data=[~/data]", "output=~/first"]
    for words in (
        ["collect", "two-route", "--episodes", "1", "--workers", "1", "--out=~/collected"],
        ["train", "quickstart", *sets, "--quiet"],
        ["train", "../mine.yaml", "init=~/none"],
    ):
        done = command(here, *words)
        if words[-1] == "init=~/none":
            refused(done, str(home / "none"), "no such checkpoint or run")
        else:
            assert done.returncode == 0, done.stderr
    assert command(here, "train", "../mine.yaml", "--quiet").returncode == 0
    assert list(here.iterdir()) == []
    assert sorted(p.name for p in home.iterdir()) == ["collected", "data", "first", "second"]
