"""``robopolicy stop``, ``hold``, ``resume`` and ``speed``: the operator's requests to a runtime of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_UNHEARD = "; NOT stopped; robopolicy estop stops robots without a run"
_Address = Annotated[str | None, typer.Option("--operator", metavar="ADDRESS", help="Of the runtime's operator channel; found by --file if not given.")]
_File = Annotated[Path | None, typer.Option("--file", help="operator.json of the run; the last run of this user if not given.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(stop)
    app.command()(hold)
    app.command()(resume)
    app.command()(speed)


def stop(address: _Address = None, file: _File = None) -> None:
    """Emergency stop of the running robot: it brakes, and stays stopped until `robopolicy estop --clear`."""
    _ask("stop", address, file)


def hold(address: _Address = None, file: _File = None) -> None:
    """Brake the running robot and keep its pose until `robopolicy resume`."""
    _ask("hold", address, file)


def resume(address: _Address = None, file: _File = None) -> None:
    """Go on after a hold. Needs the run's token, which only this user can read."""
    _ask("resume", address, file)


def speed(
    value: Annotated[float, typer.Argument(min=0, max=1, help="Share of full speed, 0 to 1; the runtime ramps to it.")],
    address: _Address = None,
    file: _File = None,
) -> None:
    """Change the speed of the running robot; to raise it needs the run's token."""
    _ask("speed", address, file, value)


def _ask(kind: str, address: str | None, file: Path | None, value: float | None = None) -> None:
    """Send one request. The file is read even where an address is given: it may hold that run's token."""
    from policies.spec import InputError
    from real.latch import state_folder
    from real.operator import FILE_NAME, OperatorClient, OperatorRefused, read_file

    try:
        found = read_file(file or state_folder() / FILE_NAME)
    except InputError as error:
        if address is None or file is not None:
            raise InputError(f"{error}{_UNHEARD if kind == 'stop' else ''}") from error
        found = {"address": address, "token": "", "latch": ""}
    latch = found["latch"] if address in (None, found["address"]) else ""
    token = found["token"] if address in (None, found["address"]) else ""
    client = OperatorClient(address or found["address"], token)
    try:
        client.request(kind, value)
    except OperatorRefused as error:
        if kind != "stop":
            raise
        if not latch:
            raise InputError(f"{error}{_UNHEARD}") from error
        _latch(Path(latch).parent, str(error))
        return
    finally:
        client.close()
    typer.echo(f"{kind}: the runtime at {client.address} has taken it")


def _latch(folder: Path, why: str) -> None:
    """Stop the robot by the file that its drive looks at, as the runtime does not. Raises InputError."""
    from policies.spec import InputError
    from real.latch import Latch

    try:
        record = Latch(folder).set("operator", "robopolicy stop")
    except OSError as error:
        raise InputError(f"stop: {why}; NOT stopped, the latch cannot be written either: {error.strerror}; use the robot's own stop") from error
    typer.echo(f"stop: {why}; stopped by the drive's latch instead: {record.line()}")
