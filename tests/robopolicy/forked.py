"""Processes that begin with their imports done: one server a test process forks them, with none of its threads.

A process that is started anew spends two to four seconds on importing torch and what belongs to it, many times what most tests ask of it.
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: What trainings and commands import at the latest.
_IMPORTED = (
    *("torch.utils.tensorboard.writer", "accelerate", "torch._dynamo", "torch.distributed.fsdp", "mujoco.batch"),
    *("robopolicy.cli", "robopolicy.training.imitation", "robopolicy.training.on_policy", "robopolicy.training.off_policy"),
    *("robopolicy.training.actor_learner_actor", "robopolicy.algos.ppo", "robopolicy.algos.sac", "robopolicy.evaluation.rollout"),
    *("policies.flow", "policies.gaussian", "sim.suites.two_route", "sim.suites.classic.cartpole"),
)
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def context() -> Any:
    """Return a context of multiprocessing whose processes are forked off that server, which is started here and serves all of this process."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(_IMPORTED))
    multiprocessing.forkserver.ensure_running()
    return made


def command(words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run ``robopolicy WORDS`` in ``folder`` as a process of its own, with no input; what it prints goes through files.

    Args:
        words: Behind the command's name.
        folder: Where.
        environment: Of the process; None: this one's.
        timeout: Seconds after which it is killed and the test fails.
    """
    with tempfile.TemporaryDirectory(prefix="robopolicy-command-") as place:
        out, error = Path(place) / "out", Path(place) / "err"
        process = context().Process(target=_run, args=(list(words), str(folder), dict(environment or os.environ), str(out), str(error)))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(["robopolicy", *words], timeout, out.read_text(), error.read_text())
        return subprocess.CompletedProcess(["robopolicy", *words], process.exitcode, out.read_text(), error.read_text())


def _run(words: list[str], folder: str, environment: dict[str, str], out: str, error: str) -> None:
    """Be the command: its output, its folder, its environment, its exit code."""
    for number, file, flags in ((0, os.devnull, os.O_RDONLY), (1, out, os.O_WRONLY | os.O_CREAT), (2, error, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(file, flags), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["robopolicy", *words]
    from robopolicy.cli import main

    code: Any = 1
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
