"""The documents are true: their commands parse, their examples run, their links lead somewhere, and the page on adding a policy works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.robopolicy import forked

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the word behind it (``run``, ``file=PATH``) and its text."""

    language: str
    word: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(*(part or "" for part in found)) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def commands(text: str) -> list[list[str]]:
    """Return the words of every ``$ command`` line, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]


def ours() -> list[tuple[str, list[str]]]:
    """Return (page, words) of every robopolicy command in the documents, in blocks and between backquotes."""
    out = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = [words for block in blocks(page) if block.language == "console" for words in commands(block.text)]
        out += [(page.name, words[1:]) for words in found if words[0] == "robopolicy"]
        inline = re.findall(r"`(robopolicy [^`\n]+)`", re.sub(FENCE, "", text))
        out += [(page.name, shlex.split(words)[1:]) for words in inline]
    return out


def names_of_placeholders(words: list[str]) -> bool:
    """Whether a command is written with capitals in place of what one puts there (``robopolicy train RECIPE``)."""
    return any(re.fullmatch(r"[A-Z][A-Z_=]*", word) or word == "..." for word in words)


@pytest.mark.parametrize(("page", "words"), ours(), ids=lambda value: value if isinstance(value, str) else "-".join(value))
def test_every_command_exists_and_takes_these_words(page: str, words: list[str]) -> None:
    """The command line's own parser reads them; nothing is run."""
    import typer

    from robopolicy.cli import app

    command, rest = typer.main.get_command(app), words
    while rest and hasattr(command, "commands"):
        assert rest[0] in command.commands, f"{page}: no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    if rest and not names_of_placeholders(rest) and "--help" not in rest:
        given = command.make_context(words[0], list(rest)).params
        if words[0] == "eval":  # one checkpoint, whose further words are options; the parser takes several, for --compose
            assert given["compose"] or len(given["checkpoint"] or ()) == 1, f"{page}: expected one CHECKPOINT, found {given['checkpoint']}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(FENCE, "", page.read_text(encoding="utf-8")))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_make_target_that_is_named_exists(page: Path) -> None:
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    files = re.findall(r"`((?:robopolicy|sim|real|policies|configs|tests|docs)/[\w./-]+\.(?:py|yaml|md|txt|svg))`", text)
    assert [file for file in files if "NAME" not in file and not (ROOT / file).exists()] == []
    targets = re.findall(r"make ([a-z]+)", re.sub(r"```(?!console).*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {t for t in targets if f"`make {t}`" in text or f"$ make {t}" in page.read_text(encoding="utf-8")}
    assert named <= known


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which ``robopolicy`` and ``python`` are this interpreter's, over the tree."""
    return {**os.environ, "PYTHONPATH": str(tree)}


def run(words: list[str], tree: Path, folder: Path) -> None:
    """Run one command of a document; fails with what it printed."""
    if words[0] == "robopolicy" and tree == ROOT:
        done = forked.command(words[1:], folder)
    else:
        program = {"robopolicy": [sys.executable, "-m", "robopolicy"], "python": [sys.executable]}[words[0]]
        done = subprocess.run([*program, *words[1:]], cwd=folder, env=environment(tree), capture_output=True, text=True)
    assert done.returncode == 0, f"$ {shlex.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


RUNNABLE = [(page, block) for page in PAGES for block in blocks(page) if block.language == "console" and block.word == "run"]


@pytest.mark.parametrize(("page", "block"), RUNNABLE, ids=[f"{page.name}-{number}" for number, (page, _) in enumerate(RUNNABLE)])
def test_blocks_that_say_run_do(page: Path, block: Block, tmp_path: Path) -> None:
    for words in commands(block.text):
        run(words, ROOT, tmp_path)


def test_python_examples_run(tmp_path: Path) -> None:
    examples = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python" and not block.word]
    assert len(examples) >= 3
    for page, block in examples:
        done = subprocess.run([sys.executable, "-c", block.text], cwd=tmp_path, env=environment(ROOT), capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}: {done.stderr[-3000:]}"


def test_adding_a_policy_takes_one_file_one_recipe_and_one_test(tmp_path: Path) -> None:
    """The page is followed to the letter in a copy of the tree; its files are all that is added."""
    follow(ROOT / "docs" / "extend.md", ["policies", "configs/imitation", "tests/policies"], tmp_path)


def test_a_task_of_ones_own_takes_a_model_and_a_class(tmp_path: Path) -> None:
    """As above."""
    follow(ROOT / "docs" / "simulation.md", ["sim/suites/classic", "sim/suites/classic"], tmp_path)


def test_adding_a_rule_takes_one_file_one_recipe_and_one_test(tmp_path: Path) -> None:
    """As above."""
    follow(ROOT / "docs" / "rl.md", ["robopolicy/algos", "configs/rl", "tests/robopolicy/algos"], tmp_path)


def follow(document: Path, folders: list[str], tmp_path: Path) -> None:
    """Write the files of a page, in these folders, into a copy of the tree; run its commands there; the files are well formed."""
    for folder in ("robopolicy", "sim", "real", "policies", "configs", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc.*")
        )  # with what is compiled: times and sizes of the files are the same
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    page = blocks(document)
    written = [block for block in page if block.word.startswith("file=") and block.language != "console"]
    assert [Path(block.word.removeprefix("file=")).parent.as_posix() for block in written] == folders
    for block in written:
        target = tmp_path / block.word.removeprefix("file=")
        assert not target.exists()
        target.write_text(block.text, encoding="utf-8")
    (trying,) = (block for block in page if block.language == "console" and block.word == "file=.")
    for words in commands(trying.text):
        run(words, tmp_path, tmp_path)
    lint = [sys.executable, "-m", "ruff", "check", "--no-cache", *(block.word.removeprefix("file=") for block in written if block.language == "python")]
    done = subprocess.run(lint, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
