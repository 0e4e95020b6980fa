"""The chain of a ledger: altered, removed and moved rows are named, copies keep their identity, seeds stay apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.evaluation import chain, ledger
from robopolicy.evaluation.rollout import evaluate


def row(label: str, successes: int = 3, seed0: int = 2_000_000, purpose: str = "report", **more: Any) -> dict[str, Any]:
    """Return a row as far as the chain looks at it."""
    place = {"checkpoint": f"/srv/someone/runs/{label}/checkpoints/step_000100", "results": None}
    base = {"time": f"2026-01-01T00:00:0{successes}+00:00", "label": label, "task": "pusht", "purpose": purpose, "seed0": seed0, "episodes": 8}
    return {**base, "successes": successes, **place, "training": {"dataset": "/data/pusht", "seed": 0}, **more}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A ledger of four rows."""
    out = tmp_path / "ledger.jsonl"
    for i in range(4):
        ledger.enter(out, row(f"policy{i}", i))
    return out


def edit(file: Path, change: Callable[[list[str]], list[str]]) -> chain.Check:
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")
    return chain.check(file)


def test_a_ledger_as_it_was_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = chain.check(file)
    assert (found.rows, found.unchained, found.problems, found.notes) == (4, 0, [], [])
    assert found.head == json.loads(file.read_text().splitlines()[-1])["chain"]
    assert main(["ledger", "check", str(file), "--head", found.head]) == 0
    assert f"4 rows, head {found.head}: as it was written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda lines: [lines[0], lines[1].replace('"successes":1', '"successes":7'), *lines[2:]], ["line 2 (policy1 on pusht", "was altered"]),
        (lambda lines: [lines[0], *lines[2:]], ["line 2 (policy2 on pusht", "a row between them was removed"]),
        (lambda lines: lines[1:], ["line 1 (policy1", "does not follow"]),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], ["line 2 (policy2", "does not follow"]),
        (lambda lines: [*lines, json.dumps(row("forged"))], ["line 5 (forged", "has no chain"]),
        (lambda lines: [lines[0], lines[1][:40], *lines[2:]], ["line 3 (policy2", "line 2, which is damaged, was one"]),
    ],
)
def test_what_was_done_to_it_is_named(change: Callable[[list[str]], list[str]], expected: list[str], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = edit(file, change)
    assert all(word in found.problems[0] for word in expected), found.problems
    assert main(["ledger", "check", str(file)]) == 1 and found.problems[0] in capsys.readouterr().out


def test_rows_cut_off_at_the_end_show_against_a_noted_head(file: Path) -> None:
    head = chain.check(file).head
    assert edit(file, lambda lines: lines[:-1]).problems == []
    assert "rows at the end were removed" in chain.check(file, head).problems[0]


def test_what_a_killed_writer_left_is_a_note(file: Path) -> None:
    with file.open("a") as stream:
        stream.write('{"label": "cut of')
    ledger.enter(file, row("after"))
    found = chain.check(file)
    assert found.problems == [] and found.rows == 5 and "line 5" in found.notes[0]


def test_rows_from_before_the_chain_are_held_by_it(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    for i in range(2):
        ledger.append(file, row(f"old{i}", i))
    ledger.enter(file, row("new"))
    assert (chain.check(file).unchained, chain.check(file).problems) == (2, [])
    assert "does not follow" in edit(file, lambda lines: [lines[0], *lines[2:]]).problems[0]


@settings(max_examples=25)
@given(st.dictionaries(st.text(min_size=1), st.recursive(st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists)))
def test_a_row_keeps_its_identity_through_the_file(more: dict[str, Any]) -> None:
    line = {**more, **row("a")}
    assert chain.identity(json.loads(json.dumps(line))) == chain.identity(line) == chain.identity(chain.portable(line))


def test_ledgers_merge_without_duplicates_and_without_machine_paths(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, joined = tmp_path / "other" / "ledger.jsonl", tmp_path / "docs" / "ledger.jsonl"
    ledger.enter(other, row("policy9", 9))
    ledger.enter(other, row("policy1", 1))  # the same evaluation again
    assert main(["ledger", "merge", str(joined), str(file), str(other)]) == 0
    assert main(["ledger", "merge", str(joined), str(other), str(file)]) == 0
    printed = capsys.readouterr().out
    assert "5 rows appended, 5 in all" in printed and "0 rows appended" in printed
    assert chain.check(joined).problems == [] and "/srv" not in joined.read_text() and "/data" not in joined.read_text()
    assert [r["label"] for r in chain.merged([joined, file, other])] == [f"policy{i}" for i in (0, 1, 2, 3, 9)]
    assert json.loads(joined.read_text().splitlines()[0])["checkpoint"] == "policy0/checkpoints/step_000100"
    edit(file, lambda lines: lines[1:])
    assert main(["ledger", "merge", str(joined), str(file)]) == 2 and "robopolicy ledger check" in capsys.readouterr().err


def test_a_report_on_seeds_that_something_was_chosen_on_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    with pytest.raises(InputError, match=r"these are selection seeds"):
        ledger.enter(file, row("a", seed0=1_000_000))
    with pytest.raises(InputError, match=r"its weights was chosen on seeds 2000005 to 2000009"):
        ledger.enter(file, row("a", chosen=[{"what": "weights", "seed0": 2_000_005, "episodes": 5}]))
    assert not file.exists()
    ledger.enter(file, row("a", chosen=[{"what": "weights", "seed0": 2_000_008, "episodes": 5}, {"what": "step", "seed0": 1_000_000, "episodes": 50}]))
    ledger.enter(file, row("a", seed0=1_000_000, purpose="selection", chosen=[{"what": "weights", "seed0": 1_000_000, "episodes": 5}]))
    assert chain.check(file).problems == []


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_outcomes_come_back(values: list[bool]) -> None:
    assert ledger.unpacked(ledger.packed(values), len(values)).tolist() == values
    with pytest.raises(InputError, match="expected"):
        ledger.unpacked(ledger.packed(values), len(values) + 8)


def test_an_evaluation_beside_it_that_has_no_row_is_named(tmp_path: Path) -> None:
    for n in (4, 6):
        made = evaluate("expert", "two-route", episodes=n, block=2, out=tmp_path, latency_calls=0, progress=False, set_name="routes", training={"seed": 5})
    file = tmp_path / ledger.FILE
    assert chain.check(file).problems == []
    last = list(ledger.read(file))[-1]
    assert last["set"] == "routes" and last["training"] == {"seed": 5} and "goal" in last["success"] and last["max_episode_steps"] == 100
    np.testing.assert_array_equal(ledger.unpacked(last["outcomes"], 6), [e.success for e in made.episodes])
    cut = edit(file, lambda lines: lines[:-1])
    assert len(cut.problems) == 1 and last["results"] in cut.problems[0] and "the row was removed" in cut.problems[0]
    with pytest.raises(InputError, match="was chosen on seeds"):
        evaluate("expert", "two-route", episodes=4, out=tmp_path, progress=False, chosen=[{"what": "gain", "seed0": 2_000_003, "episodes": 1}])


def test_lines_that_are_no_rows_are_left_out(file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"task":"a","episodes":3}\n{"foo":1}\n[1,2]\n' + file.read_text())
    assert len(chain.merged([odd])) == len(chain.merged([file])) > 0
    assert main(["ledger", "list", str(odd)]) == 0


def test_a_merged_ledger_that_lies_beside_evaluations_is_no_fault(tmp_path: Path) -> None:
    evaluate("expert", "two-route", episodes=2, block=2, out=tmp_path, progress=False)
    own, target = tmp_path / ledger.FILE, tmp_path / "all.jsonl"
    assert chain.merge_into(target, [own]) == 1
    evaluate("expert", "two-route", episodes=3, block=3, out=tmp_path, progress=False)
    assert chain.check(target).problems == [] and chain.merge_into(target, [own]) == 1
    assert main(["leaderboard", str(target), "--out", str(tmp_path / "page.md")]) == 0
