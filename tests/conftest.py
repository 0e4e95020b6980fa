"""The same surroundings for every test: one thread, no screen, a home of its own; what could not run is listed at the end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Two threads on a busy machine can be ten times slower than one; set before anything imports numpy or torch.
if "numpy" in sys.modules:
    warnings.warn("a plugin of pytest has imported numpy, which now has as many threads as there are cores: leave it out with -p no:NAME", stacklevel=1)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ.update(SDL_VIDEODRIVER="dummy", SDL_AUDIODRIVER="dummy", PYGAME_HIDE_SUPPORT_PROMPT="1", MPLBACKEND="Agg")
os.environ.update(TERM="dumb", NO_COLOR="1", COLUMNS="200")  # what commands print is the same everywhere
os.environ.setdefault("UV_CACHE_DIR", str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "uv"))
os.environ["MPLCONFIGDIR"] = str(ROOT / ".pytest_cache" / "matplotlib")  # its list of fonts takes seconds to make
os.environ.setdefault("WARP_CACHE_PATH", str(ROOT / ".pytest_cache" / "warp"))  # its kernels take half a minute to compile
for _name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "ROBOPOLICY_STATE"):
    os.environ.pop(_name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a script: commands would inherit being deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
_home = tempfile.TemporaryDirectory(prefix="robopolicy-tests-")
os.environ["HOME"] = _home.name

from hypothesis import settings  # noqa: E402

settings.register_profile("house", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("house")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this tree once, however many processes share the tests."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder = shared / "wheel"
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    with (shared / "wheel.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("*.whl")):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    return built


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a process that shares the tests with others: hand on what could not run."""
    from tests.require import absent

    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["absent"] = list(absent)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Collect what could not run in the processes that share the tests."""
    from tests.require import absent

    absent += [tuple(one) for one in getattr(node, "workeroutput", {}).get("absent", [])]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what this machine could not run, and why."""
    from tests.require import absent

    if absent:
        terminalreporter.section("not run on this machine")
        for test, reason in absent:
            terminalreporter.write_line(f"{test}: {reason}")


def pytest_unconfigure() -> None:
    """Remove the tests' home."""
    _home.cleanup()
