"""The house: three floors, the arrows between them, rooms of one idea, and the habits that are not allowed anywhere."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.require import require

ROOT = Path(__file__).resolve().parents[2]
WINGS = ("robopolicy", "sim", "real", "policies")

#: What a wing may import of the house; a name with a dot stands for that module alone.
ARROWS = {
    "policies": {"policies"},
    "sim": {"sim", "policies.spec", "policies.control", "policies.kinematics"},
    "real": {"real", "policies"},
    "robopolicy": {"robopolicy", "sim", "real", "policies"},
}

#: What the lower floor may import from outside; mujoco only inside functions.
OUTSIDE_OF_POLICIES = {"numpy", "torch", "pydantic", "yaml", "safetensors", "mujoco"}

#: Modules that start without torch: what a robot's client and a simulator's worker import.
TORCH_FREE = (
    *(f"policies.{name}" for name in ("spec", "base", "noise", "motion", "control", "kinematics", "hierarchy")),
    *("sim.**", "real.**", "robopolicy.commands.**"),
)
#: The exceptions: the server's side of real/ holds the learnt policy; what an Isaac Gym task calls with tensors is torch itself.
WITH_TORCH = ("real.server", "sim.isaacgym.gymtorch", "sim.isaacgym.torch_utils")

TOP_LEVEL = {"robopolicy", "sim", "real", "policies", "configs", "tests", "pyproject.toml", "README.md", "Makefile", "docs", "LICENSE"}
BANNED_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "manager", "managers", "stuff", "lib", "core", "tools"}


def files(*folders: str) -> list[Path]:
    """Return the Python files of the folders, sorted."""
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """Return ``policies.networks.mlp`` for its path."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, top_only: bool = False) -> Iterator[tuple[str, int]]:
    """Yield every imported module as (dotted name, line); ``from a import b`` yields ``a.b``. ``top_only``: not in functions."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if top_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and top_only:
            continue
        stack.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


@functools.cache
def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def allowed(name: str, arrows: set[str]) -> bool:
    """Whether ``name`` is one of ``arrows`` or inside one."""
    return any(name == arrow or name.startswith(f"{arrow}.") for arrow in arrows)


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_imports_only_along_the_drawn_arrows(wing: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files(wing)
        for name, line in imports(parse(path), module_of(path))
        if name.partition(".")[0] in {*WINGS, "tests", "configs"} and not allowed(name, ARROWS[wing])
    ]
    assert wrong == []


def test_the_walk_sees_a_forbidden_arrow_wherever_it_stands() -> None:
    text = "import sim\ndef f():\n    from real import client\nclass A:\n    if True:\n        import robopolicy.data as d\nfrom ..x import y\n"
    found = sorted(name for name, _ in imports(ast.parse(text), "policies.networks.mlp"))
    assert found == ["policies.x.y", "real.client", "robopolicy.data", "sim"]
    assert sorted(name for name, _ in imports(ast.parse(text), "policies.networks.mlp", top_only=True)) == ["policies.x.y", "robopolicy.data", "sim"]
    assert allowed("policies.spec.Spec", ARROWS["sim"]) and not allowed("policies.special", ARROWS["sim"])
    assert not allowed("policies", ARROWS["sim"])


def test_policies_stand_on_few_packages() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("policies")
        for name, line in imports(parse(path), module_of(path))
        if name.partition(".")[0] not in {*sys.stdlib_module_names, *OUTSIDE_OF_POLICIES, "policies"}
    ]
    wrong += [
        f"{path.relative_to(ROOT)}:{line} imports mujoco at its top"
        for path in files("policies")
        for name, line in imports(parse(path), module_of(path), top_only=True)
        if name.partition(".")[0] == "mujoco"
    ]
    assert wrong == []


def test_simulation_and_robots_never_import_torch_at_their_top() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files("sim", "real", "robopolicy/commands")
        for name, line in imports(parse(path), module_of(path), top_only=True)
        if name.partition(".")[0] == "torch" and module_of(path) not in WITH_TORCH
    ]
    wrong += [
        f"{path.relative_to(ROOT)}:{line} imports {name}, inside a function too"
        for path in files("sim")
        for name, line in imports(parse(path), module_of(path))
        if name.partition(".")[0] == "torch" and module_of(path) not in WITH_TORCH
    ]
    assert wrong == []


def test_what_must_start_without_torch_does() -> None:
    names = [module_of(p) for p in files("real", "sim", "robopolicy/commands") if module_of(p) not in WITH_TORCH]
    names += [f"policies.{name}" for name in ("spec", "base", "noise", "motion", "control", "kinematics") if (ROOT / "policies" / f"{name}.py").is_file()]
    code = f"""
import importlib, sys
sys.path.insert(0, {str(ROOT)!r})
for name in {names!r}:
    importlib.import_module(name)
    if "torch" in sys.modules:
        sys.exit(f"importing {{name}} imported torch")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


ROBOTS_SIDE = [*files("real", "robopolicy/commands"), *sorted((ROOT / "robopolicy").glob("*.py"))]
ROBOTS_SIDE += [ROOT / "policies" / f"{name}.py" for name in ("spec", "base", "noise", "motion")]


@pytest.mark.parametrize("path", ROBOTS_SIDE, ids=module_of)
def test_the_robots_side_keeps_to_python_3_10(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 10))
    newer = {
        "typing.Self", "typing.LiteralString", "typing.assert_never", "typing.assert_type", "typing.Never", "typing.Unpack", "typing.override",
        "enum.StrEnum", "datetime.UTC", "itertools.batched", "contextlib.chdir", "hashlib.file_digest", "typing.NotRequired", "typing.Required",
    }  # fmt: skip
    wrong = [f"line {line}: {name}" for name, line in imports(ast.parse(text), module_of(path)) if name in newer or name.partition(".")[0] == "tomllib"]
    words = ("datetime.UTC", "except*", "StrEnum", "ExceptionGroup")
    wrong += [f"line {n}: {word}" for n, row in enumerate(text.splitlines(), 1) for word in words if word in row]
    assert wrong == []


def test_the_top_level_is_fixed() -> None:
    require("git")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    tops = {name.partition("/")[0] for name in tracked}
    assert {name for name in tops if not name.startswith(".")} <= TOP_LEVEL
    assert {name for name in tops if name.startswith(".")} <= {".ci", ".gitignore"}


def test_rooms_are_small_and_named_by_what_they_hold() -> None:
    wrong = []
    for path in files(*WINGS, "tests"):
        names = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
        wrong += [f"{path.relative_to(ROOT)}: the name {name!r} says nothing" for name in names & BANNED_NAMES]
        lines = path.read_text(encoding="utf-8").count("\n")
        if lines > 400:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines: there are two ideas in it")
    assert wrong == []


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function less its docstring and the functions and classes defined inside it."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    inner: list[ast.AST] = list(function.body)
    while inner:
        node = inner.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            lines -= (node.end_lineno or 0) - node.lineno
        else:
            inner.extend(ast.iter_child_nodes(node))
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


def test_functions_fit_a_screen() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {own_lines(node)} lines"
        for path in files(*WINGS, "tests")
        for node in ast.walk(parse(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and own_lines(node) > 60
    ]
    assert wrong == []


def habits(path: Path) -> Iterator[str]:
    """Yield what no file here may do, as ``line: what``."""
    tree = parse(path)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{line}: a bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            yield f"{line}: {node.func.id}()"
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield f"{line}: NotImplementedError"
    for name, line in imports(tree, module_of(path)):
        if name.partition(".")[0] in ("pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve") and "tests" not in path.parts:
            yield f"{line}: {name}"
        if name.partition(".")[0] == "pytest" and path.parts[len(ROOT.parts)] != "tests":
            yield f"{line}: pytest outside the tests"
    if not re.search(rb"\b(TODO|FIXME|XXX|HACK)\b|/(?:work|root|home|Users)/", path.read_bytes()):
        return  # nothing for the tokenizer, which is slow
    with path.open("rb") as handle:
        for token in tokenize.tokenize(handle.readline):
            if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
                yield f"{token.start[0]}: {token.string}"
            if token.type == tokenize.STRING and re.search(r"(?<![\w.])/(?:work|root|home|Users)/\w", token.string):
                yield f"{token.start[0]}: a path of one machine"


def test_habits_that_are_not_allowed() -> None:
    wrong = [f"{path.relative_to(ROOT)}:{habit}" for path in files(*WINGS, "tests") for habit in habits(path)]
    assert wrong == []


def test_only_require_skips() -> None:
    pattern = re.compile(r"pytest\.(skip|xfail|importorskip)|mark\.(skip|skipif|xfail)|unittest\.skip")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files("tests")
        if path.relative_to(ROOT).as_posix() not in ("tests/require.py", "tests/contracts/test_house.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert wrong == []
