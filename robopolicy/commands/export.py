"""``robopolicy export``: a checkpoint as one file for robots without torch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    """File formats."""

    onnx = "onnx"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def export(
        checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, or training run (its last checkpoint).")],
        out: Annotated[Path, typer.Option(help="The file to write, e.g. pick.onnx.")],
        format: Annotated[Format, typer.Option(help="Of the file.")] = Format.onnx,
        method: Annotated[
            str | None,
            typer.Option(help="How plans follow one another; none: export the policy alone.", show_default="the checkpoint's"),
        ] = None,
        json: Annotated[Path | None, typer.Option(help="Also write what was exported as JSON; - for standard output.")] = None,
    ) -> None:
        r"""Write a policy as one ONNX file that ONNX Runtime runs without torch: robopolicy serve FILE.onnx.

        Normalisation and every step from noise to actions are inside; random numbers are inputs. The file is compared
        with the checkpoint on random observations before it is put in place. Needs: pip install 'robopolicy\[export,train]'.
        """
        from robopolicy.export import export_onnx
        from robopolicy.json_output import emit_json

        done = export_onnx(checkpoint, out, method)
        if json is not None:
            emit_json(done, json)
        if str(json) != "-":
            calls, batch = done["network_calls"], done["batch"] or "any"
            typer.echo(f"{done['file']}: {done['bytes'] / 1e6:.1f} MB, {calls:g} network calls a plan, batch {batch}, deviation {done['deviation']:.1e}")
