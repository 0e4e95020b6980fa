"""``robopolicy doctor``: what this machine has and lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def doctor(
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.")] = None,
    ) -> None:
        """Say what this machine has and lacks: GPU, rendering, packages, suites, ROS 2, cameras.

        Every lack comes with one line that says what brings it.
        """
        from rich.markup import escape
        from rich.table import Table

        from robopolicy.doctor import as_json, examine
        from robopolicy.json_output import emit_json
        from robopolicy.reporting.console import wide

        findings = examine()
        if json_file is not None:
            emit_json(as_json(findings), json_file)
        if str(json_file) == "-":
            return
        table = Table(box=None, pad_edge=False, show_header=False)
        colours = {"ok": "green", "lacks": "red", "note": "yellow"}
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for one in findings:
            table.add_row(f"[{colours[one.level]}]{one.level}[/]", one.name, escape(one.found + (f": {one.fix}" if one.fix else "")))
        wide(markup=True).print(table)
