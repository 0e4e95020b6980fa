"""The data benchmark in small: every row is there, in the form that others read; benchmarks are found by name."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy.bench import data, harness
from robopolicy.bench.data import EPISODE, measure, write_states
from robopolicy.bench.harness import Result, Row
from robopolicy.data.check import check
from robopolicy.data.dataset import Dataset


def test_every_row_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IMAGE_BATCH", 4)
    result = measure(2 * EPISODE, 10 * EPISODE, 1, 0.2)
    rows = {row.name: row for row in result.rows}
    assert rows["opening 2,000 frames"].target == 1.0 and rows["memory of a process that opened them"].target == 200.0
    assert rows["loading's share of a training step, states"].target == 0.03 and 0 < rows["loading's share of a training step, states"].value < 1
    assert rows["training on 2,000 frames"].peer == "on 400 frames" and rows["training on 2,000 frames"].ratio > 0
    assert rows["loader, states, 2,000 frames"].value > rows["loader, states, 2,000 frames"].peer_value > 0
    assert rows["loader, 96x96 video"].ratio > 0 and all(row.value > 0 for row in result.rows)
    measured = {row.peer for row in result.rows}
    assert "LeRobot's reader" in measured or any(line.startswith("LeRobot's reader") for line in result.missing)
    harness.write_json(tmp_path / "sub/data.json", harness.to_json("data", result, harness.machine()))
    value = json.loads((tmp_path / "sub/data.json").read_text())
    assert value.keys() == {"bench", "machine", "packages", "rows", "missing", "notes"} and value["machine"]["cores"] >= 1
    assert {"name", "value", "unit", "peer", "peer_value", "ratio", "target", "better", "wall_s", "cpu_s"} <= value["rows"][0].keys()
    assert value["packages"]["numpy"]


def test_the_sets_that_are_measured_are_sound(tmp_path: Path) -> None:
    write_states(tmp_path / "set", 3 * EPISODE)
    report = check(tmp_path / "set")
    assert report.ok and report.episodes == 3 and report.frames == 3 * EPISODE
    assert Dataset.open(tmp_path / "set").arrays["observation.environment_state"].shape == (3 * EPISODE, 17)


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (Row("a", 0.02, "1", target=0.03, better="lower"), True),
        (Row("a", 0.04, "1", target=0.03, better="lower"), False),
        (Row("a", 9.0, "1/s", "peer", 10.0, 0.95), False),
        (Row("a", 9.6, "1/s", "peer", 10.0, 0.95), True),
        (Row("a", 9.0, "1/s", "peer", None, 0.95), None),
        (Row("a", 9.0, "1/s"), None),
    ],
)
def test_targets_are_on_the_ratio_where_there_is_a_peer(row: Row, reached: bool | None) -> None:
    assert row.reached is reached


def test_benchmarks_are_found_by_name() -> None:
    assert "data" in harness.names() and "harness" not in harness.names()
    assert harness.names()["data"].startswith("Data loading")
    with pytest.raises(InputError, match="did you mean 'data'"):
        harness.run_benchmark("dat", True)


def test_table_shows_every_row() -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(harness.table("x", Result([Row("first", 1234.5, "1/s"), Row("second", 0.5, "s", "other", 2.0, 0.3, "lower")])))
    text = console.export_text()
    assert "1,234" in text and "other" in text and "0.25" in text and "<= 0.3" in text
