"""Reading recipes: YAML as people write it, overrides, and one clear line for every mistake."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies.config import Config
from policies.spec import InputError
from robopolicy.config import apply_overrides, dump_yaml, find_recipe, parse_yaml, read_yaml, recipe_names, validate


class Inner(Config):
    rate: float = 1.0
    kind: Literal["linear", "cosine"] = "linear"


class Outer(Config):
    steps: int = 1
    name: str
    flag: bool = False
    maybe: int | None = None
    inner: Inner = Inner()


def mistake(values: dict, source: str = "here.yaml") -> str:
    with pytest.raises(InputError) as caught:
        validate(Outer, values, source)
    text = str(caught.value)
    assert "\n" not in text and text.startswith(source)
    return text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("3E5", 3e5),
        ("1e+3", 1e3),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("010", 10),
        ("0x1f", 31),
        ("-3", -3),
        ("+.5", 0.5),
        ("1.", 1.0),
        ("", None),
    ]
    + [
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("[1, 2e3]", [1, 2000.0]),
        (".inf", math.inf),
    ],
)
def test_yaml_is_read_as_version_1_2(text, value):
    found = parse_yaml(text)
    assert found == value and type(found) is type(value)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=20)
)
KEYS = st.text("abcdefgh_", min_size=1, max_size=6)
TREES = st.dictionaries(
    KEYS, st.recursive(SCALARS, lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=8), max_size=4
)


@given(TREES)
def test_yaml_round_trip(value):
    assert parse_yaml(dump_yaml(value)) == value


@pytest.mark.parametrize("text", ["1e-4", "no", "true", "~", "010", "1:30", "0x10", "2020-01-01", "", " a", "a: b", "#", "1_000"])
def test_strings_that_look_like_something_else_stay_strings(text):
    assert parse_yaml(dump_yaml({"k": text})) == {"k": text}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3", "'a' is given twice"]),
        ("a: [1\n", ["not valid YAML"]),
        ("1: 2\n", ["line 1", "not a word"]),
        ("- 1\n", ["mapping", "list"]),
        ("", ["nothing"]),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, text, words):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_yaml_makes_no_objects():
    with pytest.raises(yaml.YAMLError):
        parse_yaml("!!python/object/apply:os.getcwd []")


def test_unknown_key_names_file_and_nearest():
    assert mistake({"name": "x", "stpes": 3}) == "here.yaml: unknown key 'stpes'; did you mean 'steps'?"
    assert mistake({"name": "x", "inner": {"raet": 3}}) == "here.yaml: unknown key 'inner.raet'; did you mean 'rate'?"
    assert "known: flag, inner, maybe, name, steps" in mistake({"name": "x", "zzzzz": 3})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "x", "steps": "many"}, ["'steps'", "integer", "'many' (str)"]),
        ({"name": "x", "steps": 1.5}, ["'steps'", "integer", "1.5 (float)"]),
        ({"name": "x", "steps": True}, ["'steps'", "expected a number", "True (bool)"]),
        ({"name": "x", "maybe": False}, ["'maybe'", "expected a number", "False (bool)"]),
        ({"name": "x", "inner": {"rate": True}}, ["'inner.rate'", "expected a number"]),
        ({"name": "x", "inner": {"rate": math.inf}}, ["'inner.rate'", "finite", "inf"]),
        ({"name": "x", "inner": 3}, ["'inner'", "expected a section", "3 (int)"]),
        ({"name": "x", "inner": {"kind": "cosin"}}, ["'inner.kind'", "'cosin'", "did you mean 'cosine'"]),
        ({"name": 3}, ["'name'", "string", "3 (int)"]),
        ({"name": "x", "steps": "a", "flag": "b"}, ["'steps'", "(and 1 more)"]),
        ({}, ["'name'", "required"]),
    ],
)
def test_wrong_types(values, words):
    text = mistake(values)
    for word in words:
        assert word in text, text


def test_assignment_is_checked_too():
    config = Outer(name="x")
    with pytest.raises(ValueError, match="steps"):
        config.steps = "many"  # type: ignore[assignment]


# Overrides ------------------------------------------------------------------------------------------------------------


def test_overrides():
    values = {"a": 1, "b": {"c": 2, "type": "old", "d": {"e": 3}}}
    out = apply_overrides(values, ["a=1e-3", "b.d.e=[1, 2]", "b.new.deep=no", "b=flow", "b.c="])
    assert out == {"a": 1e-3, "b": {"c": None, "type": "flow", "d": {"e": [1, 2]}, "new": {"deep": "no"}}}
    assert values == {"a": 1, "b": {"c": 2, "type": "old", "d": {"e": 3}}}, "the given values were changed"


def test_value_may_hold_equals_signs_and_mappings():
    assert apply_overrides({"p": {"type": "x", "k": 1}}, ["q=a=b", "p={type: y}"]) == {"p": {"type": "y"}, "q": "a=b"}


@pytest.mark.parametrize(
    ("item", "word"),
    [
        ("steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("a..b=3", "expected key=value"),
        (".a=3", "expected key=value"),
        ("a=[1", "not valid YAML"),
        ("a.b=1", "a is a value (1)"),
    ],
)
def test_bad_overrides(item, word):
    with pytest.raises(InputError) as caught:
        apply_overrides({"a": 1}, [item])
    assert item in str(caught.value) and word in str(caught.value) and "\n" not in str(caught.value)


PATHS = st.lists(KEYS, min_size=1, max_size=3)


def at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


@given(TREES, PATHS, SCALARS)
def test_an_override_sets_its_key_and_nothing_else(tree, path, value):
    item = f"{'.'.join(path)}={dump_yaml(value).removesuffix(chr(10)).removesuffix('...').strip()}"
    blocked = any(not isinstance(at(tree, path[:n]), dict) for n in range(1, len(path)) if reaches(tree, path[:n]))
    if blocked:
        with pytest.raises(InputError, match="not a section"):
            apply_overrides(tree, [item])
        return
    out = apply_overrides(tree, [item])
    before = at(tree, path) if reaches(tree, path) else None
    if isinstance(before, dict) and "type" in before:
        assert at(out, path) == {**before, "type": value}
    else:
        assert at(out, path) == value
    assert without(out, path) == without(tree, path)


@given(TREES, PATHS, st.integers(), st.integers())
def test_the_last_override_wins(tree, path, first, second):
    key = ".".join(path)
    try:
        expected = apply_overrides(tree, [f"{key}={second}"])
    except InputError:
        return
    assert apply_overrides(tree, [f"{key}={first}", f"{key}={second}"]) == expected


def reaches(tree, path):
    for key in path:
        if not isinstance(tree, dict) or key not in tree:
            return False
        tree = tree[key]
    return True


def without(tree, path):
    """Flattened leaves of ``tree`` that do not lie at or below ``path``, empty mappings on the way to it aside."""
    out = {}

    def walk(node, at):
        if at[: len(path)] == tuple(path):
            return
        if isinstance(node, dict) and (node or at == tuple(path[: len(at)])):
            for key, value in node.items():
                walk(value, (*at, key))
        else:
            out[at] = node

    walk(tree, ())
    return out


# Finding recipes ------------------------------------------------------------------------------------------------------


def test_a_path_comes_before_an_installed_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    installed = find_recipe("imitation/quickstart")
    assert installed.is_absolute() and installed.name == "quickstart.yaml"
    assert find_recipe("quickstart") == installed
    assert find_recipe("configs/imitation/quickstart.yaml") == installed
    own = tmp_path / "configs" / "imitation" / "quickstart.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("task: mine\n")
    assert find_recipe("configs/imitation/quickstart.yaml").resolve() == own
    assert find_recipe("imitation/quickstart") == installed, "a foreign configs/ in the working folder was searched"


def test_a_foreign_configs_folder_is_no_source_of_names(tmp_path, monkeypatch):
    (tmp_path / "configs" / "imitation").mkdir(parents=True)
    (tmp_path / "configs" / "imitation" / "theirs.yaml").write_text("task: x\n")
    monkeypatch.chdir(tmp_path)
    assert "imitation/theirs" not in recipe_names()
    with pytest.raises(InputError, match="no such file and no installed recipe"):
        find_recipe("imitation/theirs")


def test_unknown_recipe_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="did you mean 'imitation/quickstart'"):
        find_recipe("imitation/quikstart")
    with pytest.raises(InputError, match="did you mean 'quickstart'"):
        find_recipe("quikstart")


def test_a_folder_of_that_name_is_not_a_recipe(tmp_path, monkeypatch):
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart").is_file()


def test_every_installed_recipe_has_comments_and_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in recipe_names():
        assert "#" in Path(find_recipe(name)).read_text(), f"{name} explains nothing"
