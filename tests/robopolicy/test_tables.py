"""Exports read back as they were written: CSV, Markdown and LaTeX, whatever the cells hold; and hold the report's numbers."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.evaluation import aggregate
from robopolicy.evaluation.records import Evaluation
from robopolicy.evaluation.statistics import wilson
from robopolicy.reporting import suites, tables
from robopolicy.reporting.report import gather
from robopolicy.reporting.tables import Table
from tests.robopolicy.test_report import SIDES, made, read

HOSTILE = [
    "100% & more_of $it$ #1",
    r"a\b{c}~d^e",
    "a|b * `c` <d> _e_",
    '"quoted", and',
    "[5.1, 6.2]",
    "± 3",
    "x\\\\",
    "",
    "-",
    "=1+1",
    "flow|\\|",
    "[x](http://y)",
]


def from_markdown(text: str) -> list[list[str]]:
    """Read a table of GitHub's Markdown: cells end at bars that are not escaped, a backslash stands before punctuation that is meant."""
    rows: list[list[str]] = []
    for line in text.strip().split("\n"):
        cells, cell, i = [], "", 1
        while i < len(line):
            if line[i] == "\\" and i + 1 < len(line) and line[i + 1] in "\\|`*_<>~]":
                cell, i = cell + line[i + 1], i + 2
                continue
            if line[i] == "|":
                cells.append(cell.strip())
                cell = ""
            else:
                cell += line[i]
            i += 1
        rows.append(cells)
    assert all(re.fullmatch(r"-+:?", rule) for rule in rows[1])
    return [rows[0], *rows[2:]]


MEANT = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"$\pm$": "±", r"\textless{}": "<", r"\textgreater{}": ">"}
MEANT |= {r"\textbar{}": "|", r"\textquotedbl{}": '"', "--": "–", **{f"\\{c}": c for c in "&%$#_{}"}}
TOKEN = re.compile("|".join([*(re.escape(t) for t in sorted(MEANT, key=len, reverse=True)), r"\\\\", r"&", r"[^\\]"]))


def from_latex(text: str) -> list[list[str]]:
    """Read the rows between the rules of a ``tabular``; what is no known command of the writer's is refused."""
    body = text[text.index("\\toprule") + 8 : text.index("\\bottomrule")].replace("\\midrule\n", "")
    rows, cells, cell, at = [], [], "", 0
    while at < len(body):
        found = TOKEN.match(body, at)
        assert found, f"not LaTeX that stands for itself: {body[at : at + 20]!r}"
        token, at = found[0], found.end()
        if token in ("&", "\\\\"):
            cells.append(cell.strip())
            cell = ""
            if token == "\\\\":
                rows.append([re.sub(r"^\{([\[*].*)\}$", r"\1", c) for c in cells])
                cells = []
        else:
            cell += MEANT.get(token, token)
    assert cell.strip() == "" and not cells
    return rows


cells_of_any_kind = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), max_size=12).filter(
    lambda s: not s.startswith("{") and "--" not in s
)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(cells_of_any_kind, min_size=n, max_size=n), min_size=2, max_size=4)))
def test_any_cells_come_back(rows: list[list[str]]) -> None:
    table = Table("t", "title", rows[0], rows[1:])
    assert tables.from_csv(tables.to_csv(table)) == rows or rows[0] == [""]  # one empty cell: an empty line to csv
    assert from_markdown(tables.to_markdown(table)) == rows
    assert from_latex(tables.to_latex(table)) == [[cell.strip() for cell in row] for row in rows]


def test_hostile_cells_come_back() -> None:
    table = Table("a b/c", "50% & 3_4", [f"h{i}" for i in range(len(HOSTILE))], [HOSTILE])
    assert tables.from_csv(tables.to_csv(table))[1] == HOSTILE
    assert from_markdown(tables.to_markdown(table))[1] == HOSTILE and from_latex(tables.to_latex(table))[1] == HOSTILE
    assert r"\caption{50\% \& 3\_4}" in tables.to_latex(table) and r"\label{tab:a-b-c}" in tables.to_latex(table)
    assert "\n{*best*} &" in tables.to_latex(Table("t", "", ["a", "b"], [["*best*", "1"]])), "behind a line's end a star is a command"
    broken = Table("t", "", ["a"], [["two\nlines"]])
    assert "two<br>lines" in tables.to_markdown(broken) and "two lines" in tables.to_latex(broken)
    assert list(csv.reader(io.StringIO(tables.to_csv(broken), newline="")))[1] == ["two\nlines"]


def test_a_spreadsheet_runs_no_cell_and_numbers_stay_numbers() -> None:
    numbers = ["-0.5", "+12.3", "-", "-1e-05", "-inf", "", "[1.0, 2.0]", "+a"]
    bad = ["=HYPERLINK(1)", "@x", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "'=1", "'+1", "''=1"]
    table = Table("t", "", [f"h{i}" for i in range(8)], [numbers, bad])
    written = list(csv.reader(io.StringIO(tables.to_csv(table), newline="")))
    assert written[1] == [*numbers[:-1], "'+a"] and all(cell.startswith("'") for cell in written[2])
    assert tables.from_csv(tables.to_csv(table))[1:] == [numbers, bad]
    assert r"| [a\](javascript:x) |" in tables.to_markdown(Table("t", "", ["[a](javascript:x)"], [])), "no link"


def test_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 2 cells"):
        Table("t", "", ["a", "b"], [["1"]])
    with pytest.raises(InputError, match="did you mean 'latex'"):
        tables.export([], tmp_path, ["latx"])
    with pytest.raises(InputError, match="of one name"):
        tables.export([Table("t", "", ["a"], [])] * 2, tmp_path, ["csv"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, four policies, two training seeds of flow; and one evaluation on selection seeds that must not count."""
    out = tmp_path_factory.mktemp("suite")
    for shift, task in enumerate(("pusht", "two-route")):
        for label, policy, rate, calls, ms in SIDES:
            made(label, policy, rate - 3 * shift, calls, ms, task=task).save(out / task / label)
        again = made("flow", "flow", 80, 10, 5.0, task=task)
        again.training = {"seed": 1}
        again.save(out / task / "flow1")
    made("flow", "flow", 10, 10, 5.0, task="pusht", purpose="selection").save(out / "selection")
    return out


def test_the_tables_hold_the_reports_numbers(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html"), "--export", str(tmp_path / "t")]) == 0
    names = {"results", "network-calls", "pairs", "tasks", "aggregates", "improvement", "profiles"}
    assert {p.name for p in (tmp_path / "t").iterdir()} == {f"{name}{ending}" for name in names for ending in (".csv", ".tex", ".md")}
    for name in names:
        text = {form: (tmp_path / "t" / f"{name}{ending}").read_bytes().decode() for form, ending in tables.ENDINGS.items()}
        rows = list(csv.reader(io.StringIO(text["csv"], newline="")))
        assert from_markdown(text["markdown"]) == rows == from_latex(text["latex"])
    results = list(csv.DictReader((tmp_path / "t" / "results.csv").open(newline="")))
    assert len(results) == 10 and all(r["successes"] != "10" for r in results), "selection seeds are not for tables"
    low, high = wilson(84, 100)
    [row] = [r for r in results if r["task"] == "pusht" and r["policy"] == "diffusion"]
    assert (row["successes"], row["95% interval (%)"]) == ("84", f"[{100 * low:.1f}, {100 * high:.1f}]")
    page = read(tmp_path / "page.html")[1]
    figures = next(r for r in csv.DictReader((tmp_path / "t" / "aggregates.csv").open(newline="")) if r["policy"] == "flow")
    value, interval = figures["IQM (%)"].split(" ", 1)
    assert f"{value}% {interval}" in page and (figures["tasks"], figures["runs"]) == ("2", "4")
    only = tmp_path / "only"
    assert main(["report", str(folder), "--out", str(only / "p.html"), "--latex"]) == 0
    assert f"tables: {only / 'p-tables'}" in capsys.readouterr().out.splitlines()
    assert all(p.suffix == ".tex" for p in (only / "p-tables").iterdir())
    assert main(["report", str(folder / "selection"), "--csv", "--out", str(only / "q.html")]) == 2
    assert "no evaluation on report seeds" in capsys.readouterr().err


def test_the_page_shows_the_tasks_together(folder: Path, tmp_path: Path) -> None:
    from robopolicy.reporting.report import write_report

    reader, text = read(write_report(folder, tmp_path / "page.html"))
    for word in ("The tasks together", "Aggregates", "Performance profiles", "Probability of improvement", "Task by task", "168 of 200", "selection seeds"):
        assert word in text, word
    assert reader.counts["svg"] >= 7 and "over training runs within tasks where each task has several" in text


def test_methods_are_told_apart_and_only_report_rows_count(folder: Path) -> None:
    evaluations = gather(folder).evaluations
    found = suites.methods(evaluations)
    assert [m.name for m in found] == ["diffusion", "flow", "regression", "expert"]
    assert {task: len(runs) for task, runs in found[1].tasks.items()} == {"pusht": 2, "two-route": 2}
    assert found[1].counted("pusht") == (168, 200) and found[1].rate("pusht").value == pytest.approx(0.84)
    assert suites.aggregates(found)["flow"] == aggregate.aggregates(found[1].runs)
    ten, five = (made("flow", "flow", 50, 1, 1.0) for _ in range(2))
    ten.training, five.training = {"episodes": 10}, {"episodes": 5}
    assert [m.name for m in suites.methods([ten, five])] == ["flow, 10 demonstrations", "flow, 5 demonstrations"]
    lone = made("flow", "flow", 50, 1, 1.0, task="pusht")
    assert [m.name for m in suites.complete(suites.methods([lone, *evaluations]))] == ["diffusion", "flow", "regression", "expert"]
    other = made("act", "act", 50, 1, 1.0, task="pusht")
    assert "act" not in [m.name for m in suites.complete(suites.methods([other, *evaluations]))]
    assert np.isclose(found[1].runs["pusht"][0].mean(), found[1].tasks["pusht"][0][0].success_rate)


def test_checkpoints_of_a_run_are_one_run_and_other_worlds_other_methods() -> None:
    def one(rate: int, seed: int, step: int, **env: object) -> Evaluation:
        e = made("flow", "flow", rate, 1, 1.0)
        e.training, e.env = {"seed": seed, "step": step, "run": f"r{seed}", "recipe_hash": "a"}, env
        return e

    [flow] = suites.methods([one(90, 0, 1), one(70, 0, 2), one(50, 1, 1), one(30, 1, 2)])
    [task] = flow.tasks
    assert [len(run) for run in flow.tasks[task]] == [2, 2], "two training runs of two checkpoints, not four"
    assert [float(run.mean()) for run in flow.runs[task]] == pytest.approx([0.8, 0.4]) and flow.counted(task) == (240, 400)
    states = np.mean([[x.success for x in made("flow", "flow", rate, 1, 1.0).episodes] for rate in (90, 70)], axis=0)
    assert np.array_equal(flow.runs[task][0], states)
    low, high = wilson(240, 400)
    assert flow.rate(task).value == pytest.approx(0.6) and flow.rate(task).high - flow.rate(task).low > 1.3 * (high - low)
    fewer = one(50, 1, 2)
    fewer.episodes = fewer.episodes[:-1]
    alike = suites.methods([one(50, 0, 1), fewer])[0].rate(task)
    assert (alike.low, alike.high) == pytest.approx(wilson(50, 100), abs=0.01), "one state fewer makes no other states of the ninety-nine"
    noise = {"perturb": [{"kind": "noise", "size": 0.1}]}
    found = suites.methods([one(90, 0, 1), one(80, 0, 1, **noise), one(70, 0, 1, engine="bullet"), one(60, 0, 1, randomize={"mass": 2})])
    assert [m.name.partition(" [")[2].partition(" ")[0] for m in found] == ["", "engine", "noise", "randomized"]
    longer = one(60, 1, 1)
    longer.max_episode_steps = 500
    assert [m.name for m in suites.methods([one(90, 0, 1), longer])] == ["flow, 300 steps", "flow, 500 steps"]


def test_recipes_of_one_type_are_methods_of_their_own_and_never_each_other_s_seeds(tmp_path: Path) -> None:
    def leave(label: str, rate: int, recipe: str, seed: int, task: str, **condition: str) -> None:
        e = made(label, "flow", rate - seed, 10, 5.0, task=task)
        e.training, e.env = {"seed": seed, "run": f"{recipe}-{seed}", "recipe_hash": f"{recipe}, {task}"}, {"condition": condition} if condition else {}
        e.save(tmp_path / task / f"{label}-{recipe}-{seed}")

    for task in ("pusht", "two-route"):
        for seed in (0, 1):
            leave("BC without goal", 11, "a", seed, task)
            leave("GCBC", 81, "b", seed, task)
        leave("flow (text)", 60, "c", 0, task, wording="plain")
        leave("flow (text, unheard)", 40, "c", 0, task, wording="held_out")  # of the same run, told otherwise
    found = suites.methods(gather(tmp_path).evaluations)
    rates = {m.name: m.rate("pusht").value for m in found}
    assert rates == pytest.approx({"flow: BC without goal": 0.105, "flow: GCBC": 0.805, "flow (text)": 0.6, "flow (text, unheard)": 0.4})
    assert {m.name: len(m.tasks["two-route"]) for m in found} == {name: 1 + name.startswith("flow:") for name in rates} and suites.complete(found) == found
    leave("flow", 30, "d", 0, "pusht")
    leave("flow", 20, "e", 0, "pusht")  # no label tells them apart
    names = [m.name for m in suites.methods(gather(tmp_path).evaluations) if m.name.startswith("flow [recipe ")]
    assert len(names) == 2
