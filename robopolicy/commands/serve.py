"""``robopolicy serve``: a checkpoint behind a ZeroMQ address."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""

    @app.command()
    def serve(
        checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder, training run (its last checkpoint), or exported file FILE.onnx.")],
        bind: Annotated[str, typer.Option(help="tcp://127.0.0.1:PORT (port 0: any free one) or ipc://PATH; with --keys any address.")] = "tcp://127.0.0.1:5555",
        keys: Annotated[
            Path | None, typer.Option(metavar="FOLDER", help="Serve only clients whose keys are in FOLDER/authorized; see robopolicy keys.")
        ] = None,
        threads: Annotated[int, typer.Option(min=1, help="Threads of one plan; for small networks one is the fastest.")] = 1,
        method: Annotated[
            str | None,
            typer.Option(help="How plans follow one another, e.g. rti:steps=3,level=15; none: as trained.", show_default="the checkpoint's"),
        ] = None,
        weights: Annotated[
            str | None, typer.Option(help="Number format of a checkpoint's large matrices on a CPU: float32, bfloat16, int8.", show_default="as trained")
        ] = None,
        device: Annotated[str, typer.Option(help="Torch device, e.g. cpu or cuda.")] = "cpu",
        batch_ms: Annotated[
            float, typer.Option(min=0, max=1000, help="How long a request may wait for those of other robots, to be computed with them; 0: not at all.")
        ] = 2.0,
        max_batch: Annotated[int, typer.Option(min=1, help="Robots computed together, at most; 1: each by itself.")] = 64,
        metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Answer /metrics (Prometheus) and /healthz on this port of 127.0.0.1.")] = None,
        idle: Annotated[float, typer.Option(min=1, help="Seconds after which a silent session is closed.")] = 60.0,
        stats: Annotated[float, typer.Option(min=0, help="Seconds between two lines of statistics; 0: none.")] = 10.0,
        announce: Annotated[Path | None, typer.Option(help="File that gets the bound address once the server is ready.")] = None,
        with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
    ) -> None:
        """Serve a policy to robots: plans for observations, over ZeroMQ, one session a client.

        Requests of several robots are computed together. The server warms up before it says ready, drops what is past its
        time budget, and ends cleanly on Ctrl-C. Addresses other than loopback need keys.
        """
        from real.wire import require_loopback

        require_loopback(bind, keys is not None)  # said at once, not after torch has been loaded
        from real.lines import Lines
        from real.metrics import MetricsServer
        from real.server import PolicyServer
        from robopolicy.deployed_policy import load_local
        from robopolicy.processes import announce as tell
        from robopolicy.processes import stop_signals

        policy, name = load_local(checkpoint, threads, method, device, weights)
        with stop_signals(with_parent) as stopped, ExitStack() as stack:
            say = Lines(_write)  # a closed pipe costs lines, not the server
            stack.callback(say.close)
            server = PolicyServer(
                policy, bind, name=name, idle_s=idle, batch_s=batch_ms / 1e3, max_batch=max_batch, keys=keys, stats_s=stats, log=say,
            )  # fmt: skip
            stack.callback(server.close)
            if metrics_port is not None:
                metrics = MetricsServer(server.stats, metrics_port)
                stack.callback(metrics.close)
                say(f"metrics: {metrics.address}/metrics")
            seconds = server.warm_up()
            gc.collect()
            gc.freeze()  # what exists now lives on: collections while serving need not walk it
            tell(str(announce) if announce else None, server.address)
            say(f"ready: {name} at {server.address}, {1e3 * seconds:.1f} ms a plan")
            server.serve(stopped)
            say(f"ended: {server.stats.line()}")


def _write(line: str) -> None:
    print(line, flush=True)
