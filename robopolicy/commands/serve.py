"""``robopolicy serve``: a checkpoint behind a ZeroMQ address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def serve(
        checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, training run (its last checkpoint), or exported file FILE.onnx.")],
        bind: Annotated[str, typer.Option(help="Loopback address: tcp://127.0.0.1:PORT (port 0: any free one) or ipc://PATH.")] = "tcp://127.0.0.1:5555",
        threads: Annotated[int, typer.Option(min=1, help="Threads of one plan; for small networks one is the fastest.")] = 1,
        method: Annotated[
            str | None,
            typer.Option(help="How plans follow one another, e.g. rti:steps=3,level=15; none: as trained.", show_default="the checkpoint's"),
        ] = None,
        weights: Annotated[
            str | None, typer.Option(help="Number format of a checkpoint's large matrices on a CPU: float32, bfloat16, int8.", show_default="as trained")
        ] = None,
        device: Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")] = "cpu",
        idle: Annotated[float, typer.Option(min=1, help="Seconds after which a silent session is closed.")] = 60.0,
        stats: Annotated[float, typer.Option(min=0, help="Seconds between two lines of statistics; 0: none.")] = 10.0,
        announce: Annotated[Path | None, typer.Option(help="File that gets the bound address once the server is ready.")] = None,
        with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    ) -> None:
        """Serve a policy to robots: plans for observations, over ZeroMQ, one session a client.

        The server warms up before it says ready, drops what is past its time budget, and ends cleanly on Ctrl-C.
        """
        from real.wire import require_loopback

        require_loopback(bind)  # said at once, not after torch has been loaded
        from real.server import PolicyServer
        from robopolicy.deployment import announce as tell
        from robopolicy.deployment import load_local, stop_signals

        policy, name = load_local(checkpoint, threads, method, device, weights)
        with stop_signals(with_parent) as stopped:
            server = PolicyServer(policy, bind, name=name, idle_s=idle, stats_s=stats, log=_say)
            seconds = server.warm_up()
            tell(str(announce) if announce else None, server.address)
            _say(f"ready: {name} at {server.address}, {1e3 * seconds:.1f} ms a plan")
            server.serve(stopped)
            _say(f"ended: {server.stats.line(0)}")


def _say(line: str) -> None:
    print(line, flush=True)
