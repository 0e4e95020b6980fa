"""``robopolicy ledger``: verify a ledger, join several, list what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = "Verify ledgers of evaluations, join them, list what is in them.\n\nA ledger is the file ledger.jsonl beside evaluations: one line each, chained."
CHECK_HELP = (
    "Say whether a ledger is as it was written: no row altered, removed or moved, every evaluation beside it named by a row.\n\n"
    "Exit code 1 where it is not. Rows cut off at the end show against --head, the chain of a row as noted earlier.\n\n"
    "[bold]Example[/bold]\n\n  robopolicy ledger check evaluations/ledger.jsonl"
)
MERGE_HELP = (
    "Append to TARGET the rows of other ledgers that it lacks, without the paths of this machine. Faulty ledgers are refused.\n\n"
    "[bold]Example[/bold]\n\n  robopolicy ledger merge docs/ledger.jsonl runs/flow/evaluations/ledger.jsonl"
)
LIST_HELP = "List the evaluations of one or more ledgers, each once.\n\n[bold]Example[/bold]\n\n  robopolicy ledger list evaluations/ledger.jsonl"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    group = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(group, name="ledger", help=HELP, short_help="Verify, join and list ledgers of evaluations.")

    @group.command("check", help=CHECK_HELP, short_help="Verify a ledger.")
    def check_command(
        files: Annotated[list[Path], typer.Argument(help="Ledgers.", metavar="LEDGER...")],
        head: Annotated[str | None, typer.Option(help="A chain that must be in each.", show_default=False)] = None,
        json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; - is standard output.", show_default=False)] = None,
    ) -> int:
        import dataclasses

        from robopolicy.evaluation import chain
        from robopolicy.json_output import emit_json

        checks = [chain.check(file, head) for file in files]
        if json_file is not None:
            emit_json([{**dataclasses.asdict(c), "file": str(c.file)} for c in checks], json_file)
        if str(json_file) != "-":
            for c in checks:
                _print_check(c.file, c.rows, c.unchained, c.head, c.problems, c.notes)
        return 1 if any(c.problems for c in checks) else 0

    @group.command("merge", help=MERGE_HELP, short_help="Join ledgers.")
    def merge_command(
        target: Annotated[Path, typer.Argument(help="Ledger to append to; made where there is none.", metavar="TARGET")],
        files: Annotated[list[Path], typer.Argument(help="Ledgers to take rows from.", metavar="LEDGER...")],
    ) -> None:
        from robopolicy.evaluation import chain

        count = chain.merge_into(target, files)
        print(f"{target}: {count} {'row' if count == 1 else 'rows'} appended, {len(chain.merged([target]))} in all")

    @group.command("list", help=LIST_HELP, short_help="List evaluations.")
    def list_command(files: Annotated[list[Path], typer.Argument(help="Ledgers.", metavar="LEDGER...")]) -> None:
        from rich.table import Table

        from robopolicy.evaluation import chain
        from robopolicy.reporting.console import wide

        table = Table(title_justify="left")
        for name in ("id", "time", "policy", "task", "seeds", "success", "set"):
            table.add_column(name, no_wrap=name != "task")
        for row in chain.merged(files):
            seeds = f"{row['purpose']} {row['seed0']}"
            cells = (str(row.get("id") or chain.identity(row))[:8], str(row["time"])[:16], str(row["label"]), str(row["task"]), seeds)
            table.add_row(*cells, f"{row.get('successes', '-')}/{row['episodes']}", str(row.get("set") or ""))
        wide().print(table)


def _print_check(file: Path, rows: int, unchained: int, head: str, problems: list[str], notes: list[str]) -> None:
    for line in notes:
        print(f"{file} {line}")
    for line in problems:
        print(f"{file} {line}")
    old = f", {unchained} of them older than chains" if unchained else ""
    state = f"{len(problems)} {'problem' if len(problems) == 1 else 'problems'}" if problems else "as it was written"
    print(f"{file}: {rows} {'row' if rows == 1 else 'rows'}{old}, head {head or '-'}: {state}")
