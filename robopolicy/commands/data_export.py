"""``robopolicy data export``: a data set in the form of another program's viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policies.spec import InputError, suggest

TARGETS = ("rerun",)


def export_command(
    path: Annotated[Path, typer.Argument(help="Folder of the data set.")],
    to: Annotated[tuple[str, Path], typer.Option("--to", help="What and where: rerun FILE.rrd.", metavar="FORMAT FILE")],
    episodes: Annotated[str | None, typer.Option(help="Which, e.g. 3,5-8; all if not given.")] = None,
) -> None:
    """Write a data set for another program: a Rerun recording with pictures, joints, actions and takeovers (rerun FILE.rrd opens it).

    Example: robopolicy data export data/arm-reach --to rerun reach.rrd --episodes 0-4
    """
    from rich.progress import Progress

    from robopolicy.data import layout
    from robopolicy.data.edit import parse_episodes

    kind, out = to
    if kind not in TARGETS:
        raise InputError(f"data export: format {kind!r} is unknown{suggest(kind, TARGETS)}")
    from robopolicy.data.rerun_export import export

    chosen = None if episodes is None else parse_episodes(episodes, int(layout.read_info(path)["total_episodes"]))
    with Progress(transient=True) as bar:
        line = bar.add_task("episodes", total=None)
        count = export(path, out, chosen, lambda done, of: bar.update(line, completed=done, total=of))
    typer.echo(f"{out}: {count} episodes; look at them with: rerun {out}")
