"""Tables as plain text cells, and how they are written as CSV, LaTeX and Markdown so that each reads back as it was."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.spec import InputError, suggest

#: What spreadsheets take for the beginning of a formula; signed numbers and a lone dash are none. With apostrophes in front too, so that they can come off.
_FORMULA = re.compile(r"'*(?:[=@\t\r]|[+-](?!$|\d+(?:\.\d*)?(?:e[+-]?\d+)?$|inf$|nan$))", re.IGNORECASE)
Form = Literal["csv", "latex", "markdown"]
ENDINGS: dict[Form, str] = {"csv": ".csv", "latex": ".tex", "markdown": ".md"}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: File name without ending.
        title: What it shows, one line.
        heads: Column names.
        rows: Cells, as many a row as there are heads.
        texts: How many columns from the left are words; the others are numbers and set to the right.
    """

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1

    def __post_init__(self) -> None:
        """Refuse rows of another length than the heads."""
        for row in self.rows:
            if len(row) != len(self.heads):
                raise InputError(f"table {self.name}: expected {len(self.heads)} cells a row, found {len(row)}: {list(row)}")


def to_csv(table: Table) -> str:
    """Return a table as CSV (RFC 4180): commas, quotes doubled, lines end with CR LF.

    A cell that a spreadsheet would run as a formula, and that is no number, gets an apostrophe in front, which :func:`from_csv` takes off.
    """
    out = io.StringIO()
    csv.writer(out).writerows([[f"'{cell}" if _FORMULA.match(cell) else cell for cell in row] for row in (table.heads, *table.rows)])
    return out.getvalue()


def from_csv(text: str) -> list[list[str]]:
    """Return the rows of :func:`to_csv`, heads first."""
    rows = csv.reader(io.StringIO(text, newline=""))
    return [[cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell for cell in row] for row in rows]


def to_markdown(table: Table) -> str:
    """Return a table in GitHub's Markdown; pipes and what would be markup are escaped, line ends become ``<br>``."""
    lines = [table.heads, ["---" if i < table.texts else "---:" for i in range(len(table.heads))], *table.rows]
    escaped = [lines[0], *lines[2:]]
    body = ["| " + " | ".join(map(_markdown, row)) + " |" for row in escaped]
    return "\n".join([body[0], "|" + "|".join(lines[1]) + "|", *body[1:]]) + "\n"


def _markdown(cell: str) -> str:
    text = re.sub(r"([\\|`*_<>~]|\](?=\())", r"\\\1", cell)
    return re.sub(r"\r\n?|\n", "<br>", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
}


def to_latex(table: Table) -> str:
    """Return a table as a LaTeX ``table`` with ``booktabs`` rules; every special character is escaped, line ends become spaces."""
    columns = "l" * table.texts + "r" * (len(table.heads) - table.texts)
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in (table.heads, *table.rows)]
    label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
    head = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(table.title)}}}", rf"\label{{tab:{label}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    return "\n".join([*head, rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex(cell: str) -> str:
    text = "".join(_LATEX.get(c, c) for c in re.sub(r"\s*[\r\n]+\s*", " ", cell))
    return f"{{{text}}}" if text.startswith(("[", "*")) else text  # behind \\ they would be its argument and its star


WRITERS = {"csv": to_csv, "latex": to_latex, "markdown": to_markdown}


def export(tables: Sequence[Table], folder: Path, forms: Sequence[str]) -> list[Path]:
    """Write every table in every form into ``folder`` and return the files.

    Raises:
        InputError: for an unknown form, two tables of one name, or a file that cannot be written.
    """
    from robopolicy.data.atomic import write_bytes

    for form in forms:
        if form not in WRITERS:
            raise InputError(f"export as {form!r}: expected one of {', '.join(WRITERS)}{suggest(form, WRITERS)}")
    if len({table.name for table in tables}) != len(tables):
        raise InputError(f"export: tables of one name: {', '.join(table.name for table in tables)}")
    out = []
    for table in tables:
        for form, ending in ENDINGS.items():
            if form in forms:
                file = folder / f"{table.name}{ending}"
                try:
                    write_bytes(file, WRITERS[form](table).encode())
                except OSError as error:
                    raise InputError(f"{file}: cannot be written: {error.strerror or error}") from error
                out.append(file)
    return out
