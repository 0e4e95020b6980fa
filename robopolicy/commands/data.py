"""``robopolicy data``: look into data sets, verify, repair, convert, edit and compact them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from policies.spec import InputError, suggest
from robopolicy.commands.data_export import export_command

#: Operation of ``data edit`` -> which of the options that say what is changed it takes.
OPERATIONS = {"delete": ("episodes",), "split": (), "merge": (), "relabel": ("episodes", "task", "success")}
_Path = Annotated[Path, typer.Argument(help="Folder of the data set.")]
_Json = Annotated[Path | None, typer.Option("--json", help="Write the result to this file as JSON.")]
_Out = Annotated[Path | None, typer.Option(help="Write a new set here instead of replacing the old one.")]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    data = typer.Typer(help="Look into data sets (LeRobot v3 layout), verify, repair, convert, edit and compact them.", no_args_is_help=True)
    app.add_typer(data, name="data")
    data.command("inspect")(inspect_command)
    data.command("check")(check_command)
    data.command("recover")(recover_command)
    data.command("compact")(compact_command)
    data.command("edit")(edit_command)
    data.command("convert")(convert_command)
    data.command("view")(view_command)
    data.command("replay")(replay_command)
    data.command("export")(export_command)


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True)


def _write_json(file: Path | None, value: Any) -> None:
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--json {file}: cannot be written: {error.strerror or error}") from error


def inspect_command(path: _Path, json_file: _Json = None) -> None:
    """Show what a data set holds: episodes, fields, statistics, and the jitter of every capture stream; or what a black box holds."""
    from robopolicy.data import blackbox

    if blackbox.is_blackbox(path):
        contents = blackbox.describe(path, progress=True)
        for table in blackbox.tables(contents):
            _console().print(table)
        _write_json(json_file, contents.to_dict())
        return
    from robopolicy.data.dataset import Dataset
    from robopolicy.data.inspect import describe, tables

    dataset = Dataset.open(path, progress=True)
    console = _console()
    for table in tables(dataset):
        console.print(table)
    _write_json(json_file, describe(dataset))


def check_command(path: _Path, json_file: _Json = None) -> None:
    """Verify every file: counts, indices, times, capture times, finite values, images, spec. Exit code 2 if anything is broken."""
    from robopolicy.data.check import check

    report = check(path, progress=True)
    console = _console()
    for problem in report.problems:
        console.print(f"broken: {problem}", style="red", markup=False)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    _write_json(json_file, vars(report) | {"damaged": sorted(report.damaged)})
    if not report.ok:
        hint = ",".join(map(str, sorted(report.damaged)))
        remedy = f"; `robopolicy data edit {path} delete --episodes {hint}` keeps the rest" if hint and len(report.damaged) < report.episodes else ""
        raise InputError(f"{path}: {len(report.problems)} problems in {len(report.damaged)} of {report.episodes} episodes{remedy}")
    console.print(f"{path}: {report.episodes} episodes, {report.frames} frames, all in order", markup=False)


def recover_command(
    path: _Path,
    out: Annotated[Path | None, typer.Option(help="Black box: the new file; PATH/recovered.mcap if not given.")] = None,
    json_file: _Json = None,
) -> None:
    """Remove what an interrupted recording left behind; committed episodes are never touched.

    A black box (a folder of segment-NNNNNN.mcap, or one MCAP file) is read record by record, up to the last whole chunk,
    after a kill -9 or a loss of power too; what was read is written into one clean file that Foxglove opens.
    """
    from robopolicy.data import blackbox

    if blackbox.is_blackbox(path):
        read = blackbox.recover(path, out, progress=True)
        _console().print(f"{read.out}: {read.line()}", markup=False)
        _write_json(json_file, read.to_dict())
        return
    if out is not None:
        raise InputError(f"data recover: --out is for black boxes; {path} is repaired in place")
    from robopolicy.data.recover import recover

    done = recover(path)
    told = f"removed {len(done.removed)} files of an interrupted recording" if done.removed else "nothing to remove"
    stats = "; statistics computed anew" if done.stats_rewritten else ""
    stats += f"; tasks that no episode has removed: {len(done.tasks_removed)}" if done.tasks_removed else ""
    _console().print(f"{path}: {told}{stats}; {done.episodes} episodes are intact", markup=False)
    _write_json(json_file, vars(done))


def compact_command(path: _Path, out: _Out = None) -> None:
    """Merge the many files of a recording into few (100 MB of frames, 200 MB of video); the contents stay the same."""
    from robopolicy.data.edit import compact
    from robopolicy.data.layout import content_files

    before = len(content_files(path))
    done = compact(path, out, progress=True)
    _told(done, f"{before} files became {len(content_files(done.path))}")


def edit_command(
    path: _Path,
    operation: Annotated[str, typer.Argument(help="delete, split, merge or relabel.")],
    more: Annotated[list[str] | None, typer.Argument(help="merge: the other sets. split: NAME=EPISODES or NAME=SHARE, e.g. train=0.8 test=0.2.")] = None,
    episodes: Annotated[str | None, typer.Option(help="delete, relabel: which, e.g. 3,5-8.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a new set here. Needed by merge and, as the folder of the parts, by split.")] = None,
    task: Annotated[str | None, typer.Option(help="relabel: the new task text.")] = None,
    success: Annotated[bool | None, typer.Option("--success/--failure", help="relabel: the new mark.")] = None,
    backup: Annotated[bool, typer.Option(help="In place: keep the old set as PATH.backup.")] = True,
) -> None:
    """Delete, split, merge or relabel whole episodes.

    A new set is written and renamed when it is whole. Without --out it takes the old one's place, and the old one is kept
    as PATH.backup (PATH.backup-2, ...) unless --no-backup is given.
    """
    from robopolicy.data import edit, layout

    if operation not in OPERATIONS:
        raise InputError(f"data edit: operation {operation!r} does not exist{suggest(operation, OPERATIONS)}")
    for name, value in (("episodes", episodes), ("task", task), ("success", success)):
        if value is not None and name not in OPERATIONS[operation]:
            takers = " and ".join(other for other, takes in OPERATIONS.items() if name in takes)
            raise InputError(f"data edit {operation}: --{'failure' if value is False else name} is for {takers}")
    if not backup and out is not None:
        raise InputError(f"data edit {operation}: --no-backup is for a set that is replaced; with --out {out} the old one stays")
    if operation in ("merge", "split") and (out is None or not more):
        raise InputError(f"data edit {operation}: --out and {'other sets' if operation == 'merge' else 'parts such as train=0.8 test=0.2'} are needed")
    if operation == "merge":
        _told(edit.merge([path, *(more or [])], _given(out), progress=True), "merged")
        return
    if operation == "split":
        pairs = [item.partition("=") for item in more or []]
        if wrong := [item for item, (_, sign, _) in zip(more or [], pairs, strict=True) if not sign]:
            raise InputError(f"data edit split: {wrong[0]!r} is not NAME=EPISODES, e.g. train=0-79 or train=0.8")
        names = [name for name, _, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"data edit split: part {twice[0]!r} is given twice, expected a name for each")
        for result in edit.split(path, {name: text for name, _, text in pairs}, _given(out), progress=True):
            _told(result, "split off")
        return
    if episodes is None or more:
        raise InputError(f"data edit {operation}: give the episodes as --episodes 3,5-8" + (f", not as {more[0]!r}" if more else ""))
    chosen = edit.parse_episodes(episodes, int(layout.read_info(path)["total_episodes"]))
    if operation == "delete":
        _told(edit.delete(path, chosen, out, backup, progress=True), f"deleted {len(chosen)}")
    else:
        _told(edit.relabel(path, chosen, task, success, out, backup, progress=True), f"relabelled {len(chosen)}")


def _given(out: Path | None) -> Path:
    if out is None:
        raise InputError("data edit: --out is needed")
    return out


def _told(result: Any, what: str) -> None:
    kept = f"; the old set is kept as {result.backup}" if result.backup else ""
    again = f"; {result.encoded_again} videos had to be encoded again" if result.encoded_again else ""
    _console().print(f"{result.path}: {what}; {result.episodes} episodes{kept}{again}", markup=False)


def convert_command(
    source: Annotated[str, typer.Argument(help="What is converted: a file, a folder, or the name of an installed Minari set.")],
    dest: Annotated[Path, typer.Argument(help="New folder.")],
    from_format: Annotated[
        str | None, typer.Option("--from", help="robomimic, dp-zarr, minari, lerobot or rosbag2; recognised from the files if not given.")
    ] = None,
    to_format: Annotated[
        str, typer.Option("--to", help="robopolicy (units, limits, capture times), lerobot (the format alone), rosbag2 or mcap.")
    ] = "robopolicy",
    fps: Annotated[float | None, typer.Option(help="Frames a second, where the source does not say.")] = None,
    task: Annotated[str | None, typer.Option(help="The task in words, where the source does not say.")] = None,
    keys: Annotated[str | None, typer.Option(help="Observations to take, by commas; default all that can be stored.")] = None,
    subset: Annotated[str | None, typer.Option(help="Name of a list of episodes in the source (robomimic's mask).")] = None,
    mapping: Annotated[Path | None, typer.Option(help="Bags: YAML file that says which topic is which field; default mapping.yaml beside them.")] = None,
    images: Annotated[str, typer.Option(help="To bags: jpeg, png or raw.")] = "jpeg",
) -> None:
    """Convert robomimic HDF5, Diffusion Policy zarr, Minari, LeRobot and ROS 2 bags into ours, any of them into plain LeRobot v3, ours into bags.

    Examples: robopolicy data convert runs/set bags --to mcap; robopolicy data convert bags again --mapping mapping.yaml
    """
    from robopolicy.data.convert.conversion import SourceOptions, convert

    options = SourceOptions(fps, task, keys.split(",") if keys else None, subset, mapping)
    done = convert(source, dest, from_format, to_format, options, True, images)
    console = _console()
    for note in done.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"{done.path}: {done.episodes} episodes, {done.frames} frames at {done.fps:g} Hz", markup=False)


def view_command(
    path: _Path,
    episode: Annotated[int, typer.Option(min=0, help="Shown first.")] = 0,
    model: Annotated[Path | None, typer.Option(help="MJCF or URDF of the robot; if not given, that of the task which the set was collected in.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page on 127.0.0.1; 0: any free one.")] = 8091,
    announce: Annotated[Path | None, typer.Option(help="File that gets the page's address once it is served.")] = None,
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True)] = False,
) -> None:
    """Look through a data set in the browser: pictures, joints and actions at every frame, who acted, and the robot's pose.

    The page serves this machine alone and is opened with the key in its address. Example: robopolicy data view data/arm-reach --episode 3
    """
    from robopolicy.data.dataset import Dataset
    from robopolicy.data.view import DatasetViewer, robot_of
    from robopolicy.processes import announce as tell
    from robopolicy.processes import stop_signals

    with stop_signals(with_parent) as stopped:
        dataset = Dataset.open(path, progress=True)
        text, joints = robot_of(dataset, None if model is None else str(model))
        viewer = DatasetViewer(dataset, port, episode, text, joints)
        try:
            tell(str(announce) if announce else None, viewer.url)
            typer.echo(f"ready: {viewer.url} ({dataset.num_episodes} episodes)")
            viewer.run(stopped)
        finally:
            viewer.close()


def replay_command(
    path: _Path,
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Of the run: robot=twin, robot.address=..., speed=0.5, ...")] = None,
    episode: Annotated[int, typer.Option(min=0, help="Which episode.")] = 0,
    speed: Annotated[float | None, typer.Option(min=0.01, max=1.0, help="Of the motion of a robot of joints, e.g. 0.2 for the first time.")] = None,
    real_time: Annotated[bool, typer.Option("--real-time", help="Of a twin that is started here: by the clock, not in lock-step.")] = False,
    fields: Annotated[str | None, typer.Option(help="State fields to compare, by commas; default all recorded ones.")] = None,
    json_file: _Json = None,
) -> None:
    """Play an episode's actions on the twin or the robot, through the safety filter, and compare what is observed with the recording.

    The way to the first pose is driven slowly. A twin without an address is started here, with the episode's task and seed.

    Example: robopolicy data replay data/arm-reach --episode 3 robot=twin
    """
    from robopolicy.commands.run import status
    from robopolicy.processes import stop_signals
    from robopolicy.replay import replay

    given = [*(arguments or []), *([] if speed is None else [f"speed={speed}"])]
    chosen = [name.strip() for name in fields.split(",")] if fields else None
    with stop_signals() as stopped:
        report = replay(path, episode, given, real_time=real_time, fields=chosen, stopped=stopped, watch=status, say=typer.echo)
    for line in report.lines():
        typer.echo(line)
    _write_json(json_file, report.to_dict())
    if report.summary["failed"]:
        typer.echo(f"error: {report.summary['ended']}", err=True)
        raise typer.Exit(1)
