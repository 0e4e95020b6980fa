"""``robopolicy report``: one self-contained HTML page of evaluations and training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = (
    "Make one HTML page of everything below a folder: success with intervals, paired comparisons, latency, network calls, training curves and videos.\n\n"
    "FOLDER may be a training run, the folder of one evaluation, or any parent that holds several; several folders make one page. The page loads "
    "nothing from anywhere: send it, or open it without a network. Runs of learning by trial that differ in their seed alone are drawn as one curve, "
    "the mean with its interval. Several tasks are also shown together: interquartile mean, performance profiles, a bar a task.\n\n"
    "The tables of the page are written as CSV, LaTeX or Markdown into one folder, report seeds only.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy report runs/pusht-flow-seed0\n\n"
    "  robopolicy report runs --out comparison.html\n\n"
    "  robopolicy report runs --latex --csv --export tables"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Make an HTML page of evaluations and runs.")
    def report(
        folder: Annotated[list[Path], typer.Argument(help="Where to look, with everything below.", metavar="FOLDER...")],
        out: Annotated[Path | None, typer.Option(help="The HTML file.", show_default="FOLDER/report.html")] = None,
        export: Annotated[Path | None, typer.Option(help="Folder for the tables; in all three forms, unless some are chosen.", show_default=False)] = None,
        csv: Annotated[bool, typer.Option("--csv", help="Write the tables as CSV, into REPORT-tables if there is no --export.")] = False,
        latex: Annotated[bool, typer.Option("--latex", help="Write them as LaTeX.")] = False,
        markdown: Annotated[bool, typer.Option("--markdown", help="Write them as Markdown.")] = False,
    ) -> None:
        from robopolicy.reporting.report import tables_folder, write_report

        forms = [name for name, wanted in (("csv", csv), ("latex", latex), ("markdown", markdown)) if wanted]
        page = write_report(folder, out, export, forms)
        print(f"report: {page}")
        if export is not None or forms:
            print(f"tables: {export or tables_folder(page)}")
