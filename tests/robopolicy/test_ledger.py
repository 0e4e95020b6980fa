"""The ledger: appended whole, by many at once, after a kill and on a full disk."""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.evaluation import ledger


def _append_many(path: Path, writer: int, count: int) -> None:
    for i in range(count):
        ledger.append(path, {"writer": writer, "i": i, "filling": "x" * 5000})


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    for i in range(3):
        ledger.append(path, {"i": i, "text": "two\nlines, ü"})
    assert [line["i"] for line in ledger.read(path)] == [0, 1, 2]
    assert next(ledger.read(path))["text"] == "two\nlines, ü"


def test_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append_many, args=(path, w, 40)) for w in range(3)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 120 and all(p.exitcode == 0 for p in processes)
    for w in range(3):
        assert [line["i"] for line in lines if line["writer"] == w] == list(range(40))


@given(st.integers(0, 60))
def test_what_a_killed_writer_left_costs_only_its_own_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger.append(path, {"i": 0})
    torn = json.dumps({"i": 1, "filling": "x" * 40})
    with path.open("a") as file:
        file.write(torn[:cut])
    ledger.append(path, {"i": 2})
    assert [line["i"] for line in ledger.read(path)] == [0, *([1] if cut >= len(torn) else []), 2]


def test_a_line_that_does_not_fit_leaves_no_half(tmp_path: Path) -> None:
    """A file size limit acts like a full disk: write() stores a part, or nothing."""
    path = tmp_path / "ledger.jsonl"
    ledger.append(path, {"i": 0})
    before = path.read_bytes()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_append_beyond_limit, args=(path, len(before) + 100))
    process.start()
    process.join()
    assert process.exitcode == 7 and path.read_bytes() == before


def _append_beyond_limit(path: Path, limit: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        ledger.append(path, {"filling": "x" * 1000})
    except InputError as error:
        raise SystemExit(7 if str(path) in str(error) and "\n" not in str(error) else 8) from None


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_is_no_json_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match="must be JSON"):
        ledger.append(tmp_path / "ledger.jsonl", {"value": value})
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        ledger.append(tmp_path, {"i": 0})
    with pytest.raises(InputError, match="cannot be read"):
        list(ledger.read(tmp_path / "none.jsonl"))


def test_the_machine_is_named() -> None:
    found = ledger.machine()
    assert found["cpu"] and found["cores"] >= 1 and json.loads(json.dumps(found)) == found
    assert {"python", "numpy", "torch"} <= set(ledger.packages())
