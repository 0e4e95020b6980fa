"""The ``robopolicy`` command: one sub-command a job, each in its own file of ``robopolicy/commands/``.

Command files import only the core at their top; what is heavy is imported inside the command, so ``--help`` is quick
and ``robopolicy run`` works from the core install alone.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

# Read when numpy is imported. Its matrices are small here: a second thread made them ten times slower on busy cores, and rounds otherwise.
if os.uname().machine == "x86_64":  # elsewhere torch multiplies with the same library
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from policies.spec import InputError

app = typer.Typer(
    name="robopolicy",
    help="Train robot policies in simulation, evaluate them, and run them on a robot.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

#: Command files in the order of ``--help``; each has ``register(app)``.
COMMANDS = (
    "collect",
    "train",
    "sweep",
    "reward",
    "eval",
    "robustness",
    "failures",
    "tune",
    "compare",
    "report",
    "ledger",
    "leaderboard",
    "export",
    "serve",
    "keys",
    "run",
    "teleop",
    "home",
    "drive",
    "estop",
    "operator",
    "page",
    "twin",
    "ros2",
    "view",
    "data",
    "identify",
    "calibrate",
    "bench",
    "list",
    "doctor",
    "install",
    "demo",
)

for _name in COMMANDS:
    importlib.import_module(f"robopolicy.commands.{_name}").register(app)


def fail(message: str) -> int:
    """Print one line to standard error and return the exit code for bad input."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(f"[red]error:[/red] {_escape(' '.join(message.split()))}")
    return 2


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _at_home(word: str) -> str:
    """Return ``KEY=~/x`` and ``--out=~/x`` with the home folder's path: shells put it in only where a word begins with ``~``."""
    key, sign, value = word.partition("=")
    return key + sign + str(Path(value).expanduser()) if value.startswith("~/") else word


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 the robot has gone, 2 bad input (one line said why), 130 interrupted."""
    try:
        result = app(args=[_at_home(word) for word in (sys.argv[1:] if argv is None else argv)], standalone_mode=False)
    except InputError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        from robopolicy.doctor import missing_package_message

        message = missing_package_message(error)
        if message is None:
            raise
        return fail(message)
    except Exception as error:
        said = getattr(error, "format_message", None)
        if said is not None and type(error).__module__.partition(".")[0] in ("click", "typer"):
            return fail(said())
        if type(error).__name__ == "RobotGone":  # by its name: most commands know nothing of robots
            fail(str(error))
            return 1
        if type(error).__name__ == "Abort":
            print("interrupted", file=sys.stderr)
            return 130
        raise
    if result == 130:  # typer's own answer to Ctrl-C
        print("interrupted", file=sys.stderr)
    return int(result) if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
