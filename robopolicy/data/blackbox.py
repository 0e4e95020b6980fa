"""What a black box holds, read record by record, so that a killed recorder costs its last open chunk and nothing else."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.spec import InputError
from real.blackbox_ring import segments
from real.mcap import McapMessage, McapReader, McapWriter
from robopolicy.data.atomic import publish, temporary
from robopolicy.data.progress import tracked

if TYPE_CHECKING:
    from rich.console import RenderableType

_CHUNK_BYTES = 4 << 20


@dataclass
class Contents:
    """What was read.

    Attributes:
        path: The black box: a folder of segments, or one MCAP file.
        segments: Files read.
        unfinished: Of these, how many do not end as they should: their recorder was killed, or is still at work.
        lost_bytes: Bytes of torn records at the ends of files; their messages are lost.
        damaged: Chunks whose checksum is wrong; their messages are lost.
        topics: Topic -> messages.
        start_ns, end_ns: First and last log time, ns since 1970.
        lost_before: Messages that never reached the file, as the recorder counted them: on the way, and refused by the disk.
        events: Event and cause -> how often.
        out: The file written, if one was.
    """

    path: Path
    segments: int = 0
    unfinished: int = 0
    lost_bytes: int = 0
    damaged: int = 0
    topics: Counter[str] = field(default_factory=Counter)
    start_ns: int = 0
    end_ns: int = 0
    lost_before: int = 0
    events: Counter[str] = field(default_factory=Counter)
    out: Path | None = None

    @property
    def messages(self) -> int:
        """All of them."""
        return sum(self.topics.values())

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return (self.end_ns - self.start_ns) * 1e-9

    def line(self) -> str:
        """Return what was found as one line."""
        lost = [f"{self.lost_bytes} bytes of a torn tail lost"] if self.lost_bytes else []
        lost += [f"{self.damaged} damaged chunks lost"] if self.damaged else []
        lost += [f"{self.lost_before} messages had not reached the recorder or the disk"] if self.lost_before else []
        unfinished = f" ({self.unfinished} unfinished)" if self.unfinished else ""
        return f"{self.messages} messages, {self.seconds:.1f} s, from {self.segments} segments{unfinished}; {', '.join(lost) or 'nothing lost'}"

    def to_dict(self) -> dict[str, Any]:
        """Return everything JSON-ready."""
        paths = {"path": str(self.path), "out": None if self.out is None else str(self.out)}
        return {**vars(self), **paths, "topics": dict(self.topics), "events": dict(self.events), "messages": self.messages, "seconds": self.seconds}


def is_blackbox(path: str | Path) -> bool:
    """Whether ``path`` is a folder of segments or an MCAP file."""
    path = Path(path)
    return path.suffix == ".mcap" if not path.is_dir() else bool(segments(path))


def files(path: Path) -> list[Path]:
    """Return the MCAP files of a black box, oldest first. Raises InputError if there are none."""
    found = segments(path) if path.is_dir() else [path]
    if not found or not found[0].is_file():
        raise InputError(f"{path}: no black box: expected segment-NNNNNN.mcap in a folder, or an MCAP file")
    return found


def read(path: str | Path, progress: bool = False) -> tuple[Contents, Iterator[McapMessage]]:
    """Return the contents of a black box and its messages; the contents are complete once the messages have been gone through.

    Raises:
        InputError: if there is no black box.
    """
    contents = Contents(Path(path))
    return contents, _messages(contents, files(Path(path)), progress)


def _messages(contents: Contents, found: list[Path], progress: bool) -> Iterator[McapMessage]:
    losses: list[int] = [0]
    for file in tracked(found, "reading", progress):
        if not file.exists():  # its recorder is at work and has let go of its oldest segment
            continue
        reader = McapReader(file)
        for message in reader:
            _count(contents, message, losses)
            yield message
        contents.segments += 1
        contents.unfinished += not reader.finished
        contents.lost_bytes += reader.lost_bytes
        contents.damaged += reader.damaged
    contents.lost_before = sum(losses)


def _count(contents: Contents, message: McapMessage, losses: list[int]) -> None:
    contents.topics[message.channel.topic] += 1
    contents.start_ns = min(contents.start_ns or message.log_time, message.log_time)
    contents.end_ns = max(contents.end_ns, message.log_time)
    if message.channel.topic not in ("/event", "/recorder") or message.channel.encoding != "json":
        return
    try:
        values = json.loads(bytes(message.data))
        if message.channel.topic == "/event":
            contents.events[f"{values['event']}: {values['cause']}"] += 1
            return
        now = int(values["lost_on_the_way"]) + int(values["lost_on_disk"])
    except (ValueError, KeyError, TypeError):
        return
    if now < losses[-1]:  # another recorder, counting from 0
        losses.append(0)
    losses[-1] = now


def describe(path: str | Path, progress: bool = False) -> Contents:
    """Return what a black box holds. Raises InputError if there is none."""
    contents, messages = read(path, progress)
    for _ in messages:
        pass
    return contents


def recover(path: str | Path, out: Path | None = None, progress: bool = False) -> Contents:
    """Write everything that can be read into one clean MCAP file; the originals are not touched.

    Args:
        path: Folder of segments, or one MCAP file.
        out: The new file; None: ``recovered.mcap`` in the folder, or the next free name.
        progress: Whether to show how far it is, where there is a terminal.

    Raises:
        InputError: if there is nothing to read, the new file exists, or it cannot be written.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    target = _free(folder) if out is None else out
    if target.exists():
        raise InputError(f"{target}: exists already; give another name with --out")
    contents, messages = read(path, progress)
    try:
        _write(temporary(target), messages)
        if not contents.messages:
            raise InputError(f"{path}: no whole message in {contents.segments} segments")
        publish(target)
    except OSError as error:
        temporary(target).unlink(missing_ok=True)
        raise InputError(f"{target}: cannot be written: {error.strerror}") from error
    except BaseException:
        temporary(target).unlink(missing_ok=True)
        raise
    contents.out = target
    return contents


def _write(path: Path, messages: Iterator[McapMessage]) -> None:
    writer = McapWriter(path)
    try:
        for message in messages:
            writer.add(message.channel, message.log_time, [message.data], message.sequence, message.publish_time)
            if writer.pending_bytes >= _CHUNK_BYTES:
                writer.flush()
        writer.finish()
    finally:
        writer.close()


def _free(folder: Path) -> Path:
    number = 1
    while (path := folder / ("recovered.mcap" if number == 1 else f"recovered-{number}.mcap")).exists():
        number += 1
    return path


def tables(contents: Contents) -> list[RenderableType]:
    """Return what ``robopolicy data inspect`` prints about a black box."""
    from rich.table import Table

    head = Table(show_header=False, box=None, title=f"{contents.path.name} (black box)", title_justify="left", title_style="bold")
    begins = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(contents.start_ns * 1e-9))
    head.add_row("from", f"{begins}, {contents.seconds:.1f} s")
    head.add_row("contents", contents.line())
    topics = Table("topic", "messages", "per second", title="topics", title_justify="left")
    for topic, count in sorted(contents.topics.items()):
        topics.add_row(topic, str(count), f"{count / contents.seconds:.2f}" if contents.seconds > 0 else "")
    if not contents.events:
        return [head, topics]
    events = Table("event: cause", "times", title="events", title_justify="left")
    for event, count in contents.events.most_common(20):
        events.add_row(event, str(count))
    return [head, topics, events]
