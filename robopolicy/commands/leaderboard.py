"""``robopolicy leaderboard``: the generated part of a benchmark page, from ledgers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = (
    "Write the leaderboard of one or more ledgers between the two marker comments of a Markdown file; the rest of the file stays.\n\n"
    "A section a set or suite: success with Wilson intervals, training seeds and last checkpoints averaged (never the best one), peers run here, "
    "published figures marked as such. Report rows only. A ledger that was altered is refused.\n\n"
    "[bold]Examples[/bold]\n\n"
    "  robopolicy leaderboard docs/ledger.jsonl\n\n"
    "  robopolicy leaderboard runs/*/evaluations/ledger.jsonl --out results.md"
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command(help=HELP, short_help="Write a leaderboard from ledgers.")
    def leaderboard(
        ledgers: Annotated[list[Path], typer.Argument(help="Ledgers.", metavar="LEDGER...")],
        out: Annotated[Path, typer.Option(help="The Markdown file.")] = Path("docs/benchmarks.md"),
        check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 if the file is not what the ledgers say.")] = False,
    ) -> int:
        from robopolicy.reporting.leaderboard import write

        changed = write(ledgers, out, check)
        if check:
            print(f"{out}: {'not what the ledgers say' if changed else 'up to date'}")
            return int(changed)
        print(f"leaderboard: {out}{'' if changed else ', unchanged'}")
        return 0
