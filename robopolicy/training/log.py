"""What a training run says: a progress bar for people, JSON lines for programs, TensorBoard for both."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_EVERY = 10.0  # s between lines where there is no terminal to draw a bar on


def read_log(path: str | Path, event: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ``log.jsonl`` (or of the run that holds it), all or those of one event; a torn last line is left out.

    Events: ``begin``, ``resume``, ``train`` (loss, lr, grad_norm, steps_per_s, data_share, ...), ``evaluation``,
    ``checkpoint``, ``end``. Numbers that are not finite are null.
    """
    path = Path(path)
    with (path / "log.jsonl" if path.is_dir() else path).open(encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            row = json.loads(line)
            if event is None or row["event"] == event:
                yield row


class TrainingLog:
    """Writes ``log.jsonl`` and TensorBoard's event files.

    Args:
        path: The JSON lines; rows after ``step`` are those of a part that was lost in a kill, and are removed.
        tensorboard: Folder of the event files.
        step: Where training begins; 0 for a fresh run.
    """

    def __init__(self, path: Path, tensorboard: Path, step: int) -> None:
        """Open both, without what was lost in a kill."""
        from torch.utils.tensorboard.writer import SummaryWriter

        kept = [row for row in read_log(path) if row["step"] <= step] if path.is_file() else []
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(_line(row) for row in kept), encoding="utf-8")
        temporary.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, event: str, step: int, **values: Any) -> None:
        """Append one row; the numbers in it go to TensorBoard too."""
        row = {"event": event, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(_line(row))
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add_scalar(f"{event}/{name}", value, step)

    def sync(self) -> None:
        """Bring everything to the disk; before a training state is written, so that no row of a kept step is lost."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        """Write what is left."""
        self.sync()
        self._file.close()
        self._board.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}, allow_nan=False) + "\n"


class ProgressBar:
    """Loss (or another number), steps a second and remaining time: a bar on a terminal, else a line every ten seconds.

    Args:
        what: What stands before the bar.
        step: Where it begins.
        total: Where it ends.
        shown: False shows nothing.
        name: Of the number that is shown.
    """

    def __init__(self, what: str, step: int, total: int, shown: bool = True, name: str = "loss") -> None:
        """Draw it, where there is a terminal."""
        self._what, self._total, self._shown, self._name = what, total, shown, name
        self._begin, self._step, self._loss = (time.monotonic(), step), step, math.nan
        self._next_line = self._begin[0] + _PLAIN_EVERY
        self._progress: Progress | None = None
        console = Console()
        if shown and console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
            progress = Progress(TextColumn("[bold]{task.description}"), *columns, console=console, refresh_per_second=5)
            self._task = progress.add_task(what, total=total, completed=step, text="")
            progress.start()
            self._progress = progress

    @property
    def steps_per_second(self) -> float:
        """Mean speed since the bar began."""
        return (self._step - self._begin[1]) / max(time.monotonic() - self._begin[0], 1e-9)

    def update(self, step: int, loss: float) -> None:
        """Show that ``step`` steps are done; ``loss`` is smoothed for the eye."""
        self._loss = loss if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss
        self._step = step
        if self._progress is not None:
            self._progress.update(self._task, completed=step, text=self._text())
        elif self._shown and time.monotonic() >= self._next_line:
            left = (self._total - step) / max(self.steps_per_second, 1e-9)
            self.say(f"{self._what}: step {step} of {self._total}, {self._text()}, {left:.0f} s left")
            self._next_line = time.monotonic() + _PLAIN_EVERY

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        if self._progress is not None:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self._shown:
            print(text, file=sys.stdout, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()

    def _text(self) -> str:
        return f"{self._name} {self._loss:.4f}, {self.steps_per_second:.0f} steps/s"
