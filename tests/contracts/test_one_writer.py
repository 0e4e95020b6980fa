"""Commands reach a robot's driver at one place in the whole tree: the drive."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.contracts.test_house import ROOT, files, parse

WINGS = ("policies", "sim", "real", "robopolicy")
WRITER = ("real/drive.py", "self._driver.write")
#: Where commands are offered through a handle; what is written to there is annotated as one.
OFFERS = {("real/runtime.py", "self.robot.write"), ("real/first_motion.py", "robot.write"), ("robopolicy/training/robot_worlds.py", "self.robot.write")}
#: Last names of receivers that are files, logs or simulated worlds, wherever they are.
NO_ROBOTS = {"file", "stream", "out", "handle", "log", "os", "stdout", "stderr", "buffer", "wfile", "world", "fields", "entity", "writer"}
#: Where drivers are made, to be handed to a drive.
MAKERS = {"real/drive_server.py", "robopolicy/deployment.py", "robopolicy/commands/drive.py"}


def mentions(tree: ast.AST, name: str) -> Iterator[str]:
    """Yield every mention of an attribute ``name``, called or handed on, and every look-up of it by that text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == name:
            yield ast.unparse(node)
        looks_up = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("getattr", "methodcaller", "attrgetter")
        if looks_up and any(isinstance(a, ast.Constant) and a.value == name for a in node.args):
            yield ast.unparse(node)


def found(name: str) -> set[tuple[str, str]]:
    return {(p.relative_to(ROOT).as_posix(), m) for p in files(*WINGS) for m in mentions(parse(p), name)}


def test_only_the_drive_writes_to_a_driver() -> None:
    def receiver(mention: str) -> str:
        return mention.rpartition(".")[0].rpartition(".")[2].strip("_")

    writers = {(path, m) for path, m in found("write") if receiver(m) not in NO_ROBOTS}
    assert WRITER in writers, "the walk does not see the drive's own call"
    assert writers - {WRITER} <= OFFERS, f"only {WRITER[0]} writes to a driver: {sorted(writers - {WRITER} - OFFERS)}"
    source = (ROOT / WRITER[0]).read_text(encoding="utf-8")
    assert source.count("_driver.write") == 1, "one call, at one place"
    motions = {path for path, _ in found("write_motion")}  # the same for a driver that is told the motion behind a command
    assert motions == {WRITER[0]} and source.count('"write_motion"') == 1


def test_who_offers_commands_holds_a_handle() -> None:
    for path, mention in OFFERS & found("write"):
        name = mention.removeprefix("self.").rpartition(".")[0]
        functions = [n for n in ast.walk(parse(ROOT / path)) if isinstance(n, ast.FunctionDef)]
        annotated = {ast.unparse(a.annotation) for f in functions for a in (*f.args.args, *f.args.kwonlyargs) if a.arg == name and a.annotation}
        assert annotated == {"DriveHandle"}, f"{path}: {name} is {annotated}"


def test_drivers_are_made_only_to_be_driven() -> None:
    makers = {path for name in ("robot_class", "open_robot", "open_driver") for path, m in calls(name)}
    assert makers <= MAKERS and makers, f"a driver is made at {sorted(makers - MAKERS)}"
    for path in files(*WINGS):
        if not path.is_relative_to(ROOT / "real" / "robots"):
            assert "import real.robots." not in path.read_text(encoding="utf-8") and "from real.robots." not in path.read_text(encoding="utf-8"), path


def calls(name: str) -> set[tuple[str, str]]:
    """Every call of the function ``name``, as (file, source text)."""
    return {
        (p.relative_to(ROOT).as_posix(), ast.unparse(n))
        for p in files(*WINGS)
        for n in ast.walk(parse(p))
        if isinstance(n, ast.Call) and ast.unparse(n.func).rpartition(".")[2] == name
    }
