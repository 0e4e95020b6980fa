"""What ``--ros-args`` cannot be is said in one line; values and files of parameters are read as ROS 2 reads them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from real.ros.dds import arguments
from real.ros.dds.arguments import Arguments
from real.ros.dds.exceptions import InvalidROSArgsError, NameValidationException, UnknownROSArgsError
from real.ros.dds.names import expand_topic_name, validate_full_topic_name
from real.ros.dds.parameter_files import matches, value_of_text


def test_words_outside_are_left_alone_and_words_inside_are_taken() -> None:
    parsed = Arguments.parse(
        ["program", "-r", "a:=b", "--ros-args", "-r", "c:=d", "--enable-stdout-logs", "--disable-rosout-logs", "-e", "cell", "--", "-p", "x"]
    )
    assert parsed.remaining == ("program", "-r", "a:=b", "-p", "x")
    assert [(rule.source, rule.target) for rule in parsed.remaps] == [("c", "d")]
    assert parsed.switches == {"stdout-logs": True, "rosout-logs": False}
    assert parsed.enclave == "/cell"
    assert Arguments.parse(None) == Arguments()


def test_levels_of_loggers() -> None:
    parsed = Arguments.parse(["--ros-args", "--log-level", "warn", "--log-level", "arm.driver:=DEBUG"])
    assert (parsed.log_level("other"), parsed.log_level("arm"), parsed.log_level("arm.driver"), parsed.log_level("arm.driver.x")) == (30, 30, 10, 10)
    assert Arguments().log_level("any") is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-r"], "-r needs a value behind it"),
        (["-r", "a=b"], "-r a=b: expected [NODE:]NAME:=VALUE"),
        (["-r", ":=b"], "-r :=b: expected [NODE:]NAME:=VALUE"),
        (["-r", "a b:=c"], "-r a b:=c: names of topics and services hold letters, digits, '_', '/' and a leading '~'"),
        (["-r", "__ns:=relative"], "-r __ns:=relative: a namespace starts with '/'"),
        (["-p", "x:=[1, a]"], "-p x:=[1, a]: a list holds values of one type: all true/false, all whole numbers, all numbers with a point, or all strings"),
        (["-p", "x:={a: 1}"], "-p x:={a: 1}: a parameter is a value or a list, not a mapping"),
        (["-p", "x:=null"], "-p x:=null: a parameter has a value, not null"),
        (["-p", "x:=99999999999999999999"], "-p x:=99999999999999999999: 99999999999999999999 does not fit in 64 bits"),
        (["--log-level", "loud"], "--log-level loud: 'loud' is none of unset, debug, info, warn, warning, error, fatal"),
    ],
)
def test_what_cannot_be_read_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(InvalidROSArgsError) as refused:
        Arguments.parse(["--ros-args", *words])
    assert str(refused.value) == line


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(UnknownROSArgsError, match="'--remep' between --ros-args and -- is no flag of ROS"):
        Arguments.parse(["--ros-args", "--remep", "a:=b"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-0x10", -16), ("010", 10), ("1.", 1.0), ("1e3", 1000.0), (".5", 0.5), ("-.inf", -math.inf), ("yes", True), ("off", False), ("'off'", "off"),
     ("1.2.3", "1.2.3"), ("a b", "a b"), ("[]", []), ("[on, n]", [True, False]), ("[a, '1']", ["a", "1"])],
)  # fmt: skip
def test_values_are_what_they_look_like(text: str, value: object) -> None:
    found = value_of_text(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(value_of_text(".nan"))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [1", "not YAML"),
        ("ros__parameters: {x: 1}", "line 1: ros__parameters stands below a node's name (or '/**')"),
        ("node:\n  ros__parameters:\n    x: [1, 2.0]\n", "line 3: parameter 'x': a list holds values of one type"),
        ("node:\n  x: 1\n", "line 2: expected NODE: ros__parameters: below /node/x"),
        ("node:\n  ros__parameters:\n    x: &a [1, 2]\n    y: *a\n", "line 4: an alias (*a) is not taken"),
        ("a: " + "[" * 2000, "nested too deep"),
        ("node:\n  ros__parameters: 3\n", "line 2: expected NAME: value below ros__parameters"),
    ],
)
def test_a_file_that_is_none_names_its_line(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidROSArgsError) as refused:
        Arguments.parse(["--ros-args", "--params-file", str(file)])
    assert str(refused.value).startswith(f"--params-file {file}: ")
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidROSArgsError, match=r"--params-file nowhere.yaml: .*No such file"):
        Arguments.parse(["--ros-args", "--params-file", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("pattern", "node", "meant"),
    [("/**", "/a/b/c", True), ("/**", "/a", True), ("/*", "/a", True), ("/*", "/a/b", False), ("/*/b", "/a/b", True), ("/**/b", "/b", True),
     ("/**/b", "/x/y/b", True), ("/a/**", "/a/b/c", True), ("/a", "/a/b", False), ("/a", "/ab", False)],
)  # fmt: skip
def test_patterns_of_node_names(pattern: str, node: str, meant: bool) -> None:
    assert matches(pattern, node) is meant


@given(st.text(max_size=30), st.booleans())
def test_any_text_is_a_valid_topic_name_or_refused(name: str, is_service: bool) -> None:
    try:
        full = expand_topic_name(name, "node", "/ns", is_service=is_service)
    except NameValidationException as refused:
        assert 0 <= refused.invalid_index <= len(name)
        return
    assert validate_full_topic_name(full)


@given(st.lists(st.text(alphabet="-rp:=a~/[]{}_0 '", max_size=12), max_size=6))
def test_any_words_are_arguments_or_refused(words: list[str]) -> None:
    try:
        parsed = Arguments.parse(["--ros-args", *words])
    except (InvalidROSArgsError, UnknownROSArgsError):
        return
    try:
        arguments.resolve("chatter", "node", "/ns", (parsed,))
    except NameValidationException:
        return
    assert arguments.parameters("node", "/ns", (parsed,)) is not None
