"""``robopolicy keys``: who may connect to a policy server from another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Option(help="Folder of keys.")]
_HELP = """Keys of policy servers and their clients, for addresses other than loopback.

On the server's machine: robopolicy keys new server --folder keys. On the robot's: robopolicy keys new arm-1 --folder keys.
Copy arm-1.key to the server and let it in: robopolicy keys authorize arm-1.key --folder keys. Copy server.key to the robot's
folder. Files *.key_secret stay where they were made. Then: robopolicy serve CHECKPOINT --bind tcp://0.0.0.0:5555 --keys keys
"""


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    keys = typer.Typer(help=_HELP, no_args_is_help=True)
    app.add_typer(keys, name="keys")

    @keys.command()
    def new(
        name: Annotated[str, typer.Argument(help="server for a server's keys, else what the client is called, e.g. arm-1.")],
        folder: Folder = Path("keys"),
    ) -> None:
        """Make a key pair: FOLDER/NAME.key to give away, FOLDER/NAME.key_secret to keep."""
        from real.keys import new_keys

        public, secret = new_keys(folder, name)
        typer.echo(f"public key, to give away: {public}")
        typer.echo(f"secret key, never to leave this machine: {secret}")

    @keys.command()
    def authorize(
        public: Annotated[Path, typer.Argument(help="A client's public key, NAME.key.")],
        folder: Folder = Path("keys"),
    ) -> None:
        """Let a client in: copy its public key to FOLDER/authorized. Removing the file there locks it out, from its next connection on."""
        from real.keys import authorize as let_in

        typer.echo(f"may connect: {let_in(folder, public)}")
