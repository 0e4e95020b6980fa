"""Benchmarks in cells: nothing is measured twice, what fails is named and tried again, torn lines cost one cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.bench import harness
from robopolicy.bench.cells import RESULTS, Cell, run_cells

MACHINE = "robopolicy.bench.harness:machine"


def counted(folder: Path) -> int:
    return len((folder / RESULTS).read_text().splitlines())


def test_a_cell_with_a_result_is_not_measured_again(tmp_path: Path) -> None:
    cell = Cell("about the machine", MACHINE)
    first = run_cells([cell, cell], tmp_path, progress=False)
    row = first.get(cell)
    assert row is not None and row["cores"] >= 1 and row["cell_s"] >= 0 and counted(tmp_path) == 1
    again = run_cells([cell], tmp_path, progress=False)
    assert again.get(cell) == row and counted(tmp_path) == 1 and not again.failed


def test_what_fails_is_named_with_its_last_words_and_tried_again(tmp_path: Path) -> None:
    cells = [Cell("wrong", MACHINE, {"nonsense": 1}), Cell("right", MACHINE)]
    for _ in range(2):
        found = run_cells(cells, tmp_path, progress=False)
        assert len(found.failed) == 1 and found.failed[0].startswith("wrong: ") and "nonsense" in found.failed[0] and "exit code" in found.failed[0]
        assert found.get(cells[0]) is None and found.get(cells[1]) is not None and counted(tmp_path) == 1


def test_settings_and_threads_tell_cells_apart() -> None:
    keys = {Cell("a", "m:f", {"x": 1}).key, Cell("a", "m:f", {"x": 2}).key, Cell("a", "m:f", {"x": 1}, threads=2).key, Cell("a", "m:g", {"x": 1}).key}
    assert len(keys) == 4 and Cell("a", "m:f", {"x": 1, "y": (2, 3)}).key == Cell("b", "m:f", {"y": (2, 3), "x": 1}, seconds=9).key


def test_only_measures_some_and_keeps_what_the_others_have(tmp_path: Path) -> None:
    ours, theirs = Cell("ours", MACHINE), Cell("theirs", f"{MACHINE}", threads=2)
    found = run_cells([ours, theirs], tmp_path, progress=False, only="OURS")
    assert found.get(ours) is not None and found.get(theirs) is None and found.failed == ["theirs: not measured (--only OURS)"]
    found = run_cells([ours, theirs], tmp_path, progress=False, only="theirs")
    assert found.get(ours) is not None and found.get(theirs) is not None and not found.failed
    with pytest.raises(InputError, match="no cell has it in its name; there are: ours; theirs"):
        run_cells([ours, theirs], tmp_path, progress=False, only="x")


def test_what_was_not_asked_for_is_one_line_however_much_it_is(tmp_path: Path) -> None:
    cells = [Cell(name, MACHINE, threads=threads) for threads, name in enumerate("abcdef", 1)]
    assert run_cells(cells, tmp_path, progress=False, only="a").failed == ["b, c, d and 2 more: not measured (--only a)"]


def test_a_result_of_other_versions_is_measured_anew_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell, file = Cell("about the machine", MACHINE), tmp_path / RESULTS
    run_cells([cell], tmp_path, progress=False)
    row = json.loads(file.read_text())
    assert row["packages"]["numpy"] == np.__version__
    file.write_text(json.dumps({**row, "packages": {**row["packages"], "numpy": "1.0"}, "row": {"cores": 0}}) + "\n")
    assert run_cells([cell], tmp_path, progress=False).get(cell) != {"cores": 0} and counted(tmp_path) == 2
    assert f"{file}: 1 results are of other versions (numpy 1.0, here {np.__version__})" in capsys.readouterr().err
    assert run_cells([cell], tmp_path, progress=False).get(cell) != {"cores": 0} and counted(tmp_path) == 2 and not capsys.readouterr().err
    file.write_text(json.dumps({key: row[key] for key in ("key", "name")} | {"row": {"cores": 7}}) + "\n")  # as earlier versions wrote it
    assert run_cells([cell], tmp_path, progress=False).get(cell) == {"cores": 7}


def test_a_torn_line_costs_one_cell(tmp_path: Path) -> None:
    cells = [Cell("one", MACHINE), Cell("two", MACHINE, threads=2)]
    run_cells(cells, tmp_path, progress=False)
    file = tmp_path / RESULTS
    whole = file.read_text()
    file.write_text(whole[:-20])  # killed while the second was written
    found = run_cells(cells, tmp_path, progress=False)
    assert all(found.get(cell) is not None for cell in cells) and not found.failed
    assert file.read_text().startswith(whole.splitlines()[0] + "\n") and len(run_cells(cells, tmp_path, progress=False).rows) == 2


def test_a_cell_is_a_function_of_this_package_in_a_process_of_its_own(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "robopolicy.bench.cells"]
    result = tmp_path / "row.json"
    assert subprocess.run([*call, MACHINE, "{}", str(result)], cwd=Path(__file__).parents[2]).returncode == 0
    assert json.loads(result.read_text())["cores"] >= 1
    done = subprocess.run([*call, "os:getcwd", "{}", str(result)], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode != 0 and "expected a function of this package" in done.stderr


def test_options_that_a_benchmark_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="benchmark 'sim' has no --steps"):
        harness.run_benchmark("sim", True, steps=3, folder=None)
    with pytest.raises(InputError, match="did you mean 'off_policy'"):
        harness.run_benchmark("off-polcy", True)
    assert {"ppo", "off_policy", "updates"} <= set(harness.names())
