"""Every public function that takes or returns arrays names their shape where it is read: in its docstring or its class's."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Annotations that are arrays. A mapping of named arrays has no one shape: its fields are named in a spec.
ARRAY = re.compile(r"\b(Array|Tensor|ndarray|NDArray|ArrayLike)\b")
MAPPING = re.compile(r"\b(?:dict|Mapping)\[str, [\w.]+\]")

#: What counts as naming a shape: ``(B, Ta, Da)``, ``(N,)``, ``(*shape)``, ``(..., 3)``, ``(len(x), 3)``, ``scalar``, ``shape``.
DIM = r"(?:\*?[\w/ +*-]+(?:\[\w+\]|\(\w+\))?|\.\.\.)"
SHAPE = re.compile(rf"\({DIM}(?:, {DIM})+\)|\({DIM},\)|\(\*\w+\)|\(\.\.\.\)|\bscalar\b|\bshapes?\b|\belementwise\b|\bleading dim")

WINGS = ("policies", "sim", "real", "robopolicy")


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, list[ast.ClassDef]]]:
    """Yield public functions and methods of public classes, with the classes they are in."""

    def walk(body: list[ast.stmt], classes: list[ast.ClassDef]) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, list[ast.ClassDef]]]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from walk(node.body, [*classes, node])
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (not node.name.startswith("_") or node.name in ("__init__", "__call__")):
                yield node, classes

    return walk(tree.body, [])


def array_annotations(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the annotations of arguments and result that are arrays."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    nodes = [a.annotation for a in every if a.annotation is not None] + ([function.returns] if function.returns is not None else [])
    return [text for text in map(ast.unparse, nodes) if ARRAY.search(MAPPING.sub("", text))]


@functools.cache
def contract_methods() -> frozenset[str]:
    """Return the methods of protocols whose own docstrings name shapes: those that implement them need not say it again."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for wing in WINGS for path in (ROOT / wing).rglob("*.py")]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    protocols = [node for node in classes if any(ast.unparse(base).endswith("Protocol") for base in node.bases)]
    methods = [node for protocol in protocols for node in protocol.body if isinstance(node, ast.FunctionDef)]
    return frozenset(node.name for node in methods if SHAPE.search(ast.get_docstring(node) or ""))


def nameless(tree: ast.Module, contract: frozenset[str] = frozenset()) -> list[str]:
    """Return ``line name`` of the public functions that handle arrays and name no shape."""
    out = []
    for function, classes in public_functions(tree):
        if not array_annotations(function) or (classes and function.name in contract):
            continue
        texts = [ast.get_docstring(node) or "" for node in (function, *classes)]
        if not any(SHAPE.search(text) for text in texts):
            out.append(f"{function.lineno} {function.name}")
    return out


@pytest.mark.parametrize("wing", WINGS)
def test_functions_over_arrays_name_a_shape(wing: str) -> None:
    contract = contract_methods()
    assert {"act", "reset", "step"} <= contract
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / wing).rglob("*.py"))
        for line in nameless(ast.parse(path.read_text(encoding="utf-8")), contract)
    ]
    assert wrong == []


def test_the_rule_tells_a_named_shape_from_none() -> None:
    silent = 'def f(x: np.ndarray) -> float:\n    """Return the mean of x (see the paper)."""\n'
    assert nameless(ast.parse(silent)) == ["1 f"]
    named = ("x: (B, T, D) float32", "x is (N,)", "frames (F, *shape)", "points (..., 3), m", "a scalar", "x (*shape)", "(len(x), 3)", "(..., SIZES[k])")
    for said in named:
        assert nameless(ast.parse(silent.replace("(see the paper)", said))) == [], said
    assert nameless(ast.parse("def f(x: float) -> float:\n    return x\n")) == []
    assert nameless(ast.parse("def _f(x: np.ndarray) -> None:\n    pass\n")) == []
    in_class = 'class A:\n    """Rows are (N, D)."""\n\n    def f(self, x: torch.Tensor) -> torch.Tensor:\n        return x\n'
    assert nameless(ast.parse(in_class)) == []
    assert nameless(ast.parse(in_class.replace("(N, D)", "many"))) == ["4 f"]
    assert nameless(ast.parse(in_class.replace("(N, D)", "many")), frozenset({"f"})) == []
    assert nameless(ast.parse(silent.replace("np.ndarray", "Mapping[str, np.ndarray]"))) == []
    assert nameless(ast.parse(silent.replace("np.ndarray", "list[np.ndarray]"))) == ["1 f"]
