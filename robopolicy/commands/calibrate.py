"""``robopolicy calibrate``: cameras, their mounting, zeros of joints and delays, measured and kept in one file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policies.spec import InputError

if TYPE_CHECKING:
    from robopolicy.calibration.board import Board
    from robopolicy.calibration.views import Views

_Folder = Annotated[Path, typer.Argument(help="Folder of views (calibrate collect, rehearse), or of pictures alone for camera.")]
_Board = Annotated[str | None, typer.Option("--board", help="COLUMNSxROWS:SQUARE:MARKER in mm, e.g. 7x5:30:22; the folder's own if not given.")]
_Name = Annotated[str | None, typer.Option("--name", help="What the camera is called; as the folder says if not given.")]
_Out = Annotated[Path, typer.Option("--out", help="The robot's calibration, which keeps its other parts.")]
_Model = Annotated[Path | None, typer.Option(help="The robot's MJCF or URDF; the folder's own if not given.")]
_Frame = Annotated[str | None, typer.Option(help="Site or body of the hand in that model; as the folder says if not given.")]
_Eye = Annotated[str, typer.Option(help="in-hand (the camera is on the hand) or to-hand (it stands beside, the hand holds the board).")]
_Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the result as JSON; - is standard output.", show_default=False)]

HELP = (
    "Measure cameras, their mounting, zeros of joints and delays, and keep them in calibration.json.\n\n"
    "[bold]Example[/bold], without a robot: a rehearsal is rendered, and its planted values are found again\n\n"
    "  robopolicy calibrate rehearse views --views 20\n\n"
    "  robopolicy calibrate camera views\n\n"
    "  robopolicy calibrate hand-eye views\n\n"
    "On a robot: print a board (calibrate board board.pdf), move the arm with robopolicy teleop, and beside it robopolicy calibrate "
    "collect views --camera wrist. Then robopolicy run robot.calibration=calibration.json."
)


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    calibrate = typer.Typer(help=HELP, short_help="Measure cameras, mountings, joint zeros and delays.", no_args_is_help=True, rich_markup_mode="rich")
    app.add_typer(calibrate, name="calibrate")
    for name, command in (
        ("board", board_command), ("collect", collect_command), ("rehearse", rehearse_command), ("camera", camera_command),
        ("hand-eye", hand_eye_command), ("joints", joints_command), ("latency", latency_command), ("show", show_command),
    ):  # fmt: skip
        calibrate.command(name)(command)


def board_command(
    out: Annotated[Path, typer.Argument(help="board.pdf or board.png.")],
    board: Annotated[str, typer.Option("--board", help="COLUMNSxROWS:SQUARE:MARKER[:DICTIONARY] in mm.")] = "7x5:30:22",
) -> None:
    """Draw a ChArUco board in its true size, to be printed at 100 % and glued to something flat."""
    from robopolicy.calibration.board import Board

    made = Board.parse(board)
    made.save(out)
    typer.echo(f"{out}: {made.text}, {1e3 * made.size_m[0]:g} x {1e3 * made.size_m[1]:g} mm; print at 100 % and measure a square")


def collect_command(
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    camera: Annotated[str, typer.Option(help="Camera, e.g. wrist; not needed where there is one only.")] = "",
    views: Annotated[int, typer.Option(min=1, help="Pictures, each with the arm at rest somewhere else.")] = 20,
    moving: Annotated[float, typer.Option(min=0.0, help="Instead: everything for so many seconds, for delays; swing the arm back and forth.")] = 0.0,
    board: Annotated[str, typer.Option("--board", help="COLUMNSxROWS:SQUARE:MARKER in mm.")] = "7x5:30:22",
    frame: Annotated[str, typer.Option(help="Site or body of the hand in the robot's model.")] = "",
    telemetry: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of the run's telemetry; this user's last run if not given.")] = None,
) -> None:
    """Collect views while a person moves the robot (robopolicy teleop, or any run); nothing is commanded here."""
    from real.latch import state_folder
    from real.operator import FILE_NAME, read_file
    from robopolicy.calibration.board import Board
    from robopolicy.calibration.collect import collect
    from robopolicy.processes import stop_signals

    address = telemetry or str(read_file(state_folder() / FILE_NAME)["telemetry"])
    with stop_signals() as stopped, _bar("views") as bar:
        made = collect(address, folder, Board.parse(board), camera, views, moving, frame, lambda done, of, why: bar(done, of, why), stopped)
    typer.echo(f"{folder}: {len(made.views)} views of camera {made.camera!r} on {made.robot!r}")


def rehearse_command(
    folder: Annotated[Path, typer.Argument(help="New folder.")],
    eye: _Eye = "in-hand",
    views: Annotated[int, typer.Option(min=1, help="Pictures.")] = 20,
    moving: Annotated[float, typer.Option(min=0.0, help="Instead: so many seconds in which the arm swings, for delays.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the postures.")] = 0,
) -> None:
    """Render views of a simulated arm, camera and board; planted.json says what must be found."""
    from robopolicy.calibration.rehearsal import rehearse

    with _bar("pictures") as bar:
        made = rehearse(folder, eye, views, moving, seed, told=lambda done, of: bar(done, of, ""))
    typer.echo(f"{folder}: {len(made.views)} views; the truth is in {folder / 'planted.json'}")


def camera_command(
    folder: _Folder, name: _Name = None, board: _Board = None, out: _Out = Path("calibration.json"),
    k3: Annotated[bool, typer.Option("--k3", help="Also the sixth power of the radius (wide lenses, 30 pictures or more).")] = False, json_file: _Json = None,
) -> None:  # fmt: skip
    """Find a camera's focal lengths, principal point and distortion from pictures of the board."""
    from robopolicy.calibration.intrinsics import solve_intrinsics
    from robopolicy.calibration.views import read_views

    views = read_views(folder)
    views.look(_board(views, board))
    found = solve_intrinsics(_board(views, board), [view.corners for view in views.found if view.corners is not None], *views.size, k3)
    camera = _camera(views, name)
    _keep(out, ("cameras", camera, "intrinsics"), found.to_dict(), views.robot, json_file)
    errors = found.errors or {}
    lengths = ", ".join(f"{key} {getattr(found, key):.2f} +- {errors.get(key, 0):.2f}" for key in ("fx", "fy", "cx", "cy"))
    _say(json_file, f"camera {camera!r}: {lengths} px; distortion {', '.join(f'{v:.4f}' for v in found.distortion)}")
    _say(json_file, f"rms {found.rms_px:.3f} px over {found.views} of {len(views.views)} pictures; kept in {out}")
    _warn(found.warnings)


def hand_eye_command(
    folder: _Folder, name: _Name = None, eye: _Eye = "in-hand", board: _Board = None, model: _Model = None, frame: _Frame = None,
    method: Annotated[str, typer.Option(help="Where the search begins: park, tsai, horaud, andreff, daniilidis.")] = "park",
    out: _Out = Path("calibration.json"), json_file: _Json = None,
) -> None:  # fmt: skip
    """Find where a camera is mounted; its intrinsics must be in the calibration already."""
    from robopolicy.calibration.hand_eye import solve_hand_eye
    from robopolicy.calibration.poses import quaternion
    from robopolicy.calibration.store import intrinsics_of

    known = _offsets(out)
    views, seen, hands, where = _arm_views(folder, board, model, frame, known)
    camera = _camera(views, name)
    found = solve_hand_eye(_board(views, board), intrinsics_of(out, camera), seen, hands, eye, method)
    on = where if eye == "in-hand" else "base"
    value = found.to_dict(on)
    _keep(out, ("cameras", camera, "mount"), value, views.robot, json_file)
    place, four = found.mount[:3, 3], quaternion(found.mount[:3, :3])
    _say(json_file, f"camera {camera!r} on {on!r}: position {', '.join(f'{1e3 * v:.2f}' for v in place)} mm, quaternion {', '.join(f'{v:.5f}' for v in four)}")
    why = "none are known" if not known else "the views hold poses of the hand" if all(v.pose is not None for v in views.views) else ""
    _say(json_file, f"without joint offsets: {why}" if why else f"with the joint offsets of {out}: {', '.join(known)}")
    _say(json_file, f"rms {found.rms_px:.3f} px; the board's place agrees within {1e3 * found.spread[0]:.2f} mm and {57.3 * found.spread[1]:.3f} degrees")
    _warn([f"left out, they fit nothing else: {', '.join(views.found[k].image.name for k in found.left_out)}"] if found.left_out else [])
    _warn([f"rms {found.rms_px:.1f} px is much: zeros of joints (calibrate joints), a moving board, late stamps?"] if found.rms_px > 1.5 else [])


def joints_command(
    folder: _Folder, name: _Name = None, eye: _Eye = "in-hand", board: _Board = None, model: _Model = None, frame: _Frame = None,
    touches: Annotated[bool, typer.Option("--touches", help="From touches.json in the folder (one point, several postures) instead of pictures.")] = False,
    out: _Out = Path("calibration.json"), json_file: _Json = None,
) -> None:  # fmt: skip
    """Find zero offsets of joints, from pictures of the board or from touching points in several postures."""
    import math

    from robopolicy.calibration import joints as zeros
    from robopolicy.calibration.store import intrinsics_of
    from robopolicy.calibration.touches import read_touches

    if touches:
        kinematics, where, postures = read_touches(folder, _text(model), frame)
        found, robot = zeros.solve_touches(kinematics, where, postures), ""
    else:
        views, seen, _, where = _arm_views(folder, board, model, frame)
        kinematics, robot = views.kinematics(_text(model)), views.robot
        positions = [view.joints for view in views.found if view.joints is not None]
        if len(positions) != len(seen):
            raise InputError(f"calibrate joints: {folder}: views need joints, not poses of the hand")
        import numpy as np

        found = zeros.solve_joints(_board(views, board), intrinsics_of(out, _camera(views, name)), seen, kinematics, where, np.stack(positions), eye)
        _warn([line] if (line := zeros.few(len(seen))) else [])
    _keep(out, ("joints",), found.to_dict(), robot, json_file)
    for joint, value in found.offsets.items():
        _say(json_file, f"{joint}: {value:+.5f} +- {found.errors[joint]:.5f} rad ({math.degrees(value):+.3f} degrees) to be added to its readings")
    scale, unit = (1.0, "px") if found.unit == "px" else (1e3, "mm")
    _say(json_file, f"rms {scale * found.before:.3f} -> {scale * found.after:.3f} {unit}; not told by these measurements: {', '.join(found.held) or 'none'}")


def latency_command(
    folder: _Folder, name: _Name = None, board: _Board = None, out: _Out = Path("calibration.json"),
    longest: Annotated[float, typer.Option(min=0.02, help="Longest delay that is tried, s.")] = 0.5, json_file: _Json = None,
) -> None:  # fmt: skip
    """Find the delay of a camera and of the joints from a recording in which the arm swings (collect --moving, rehearse --moving)."""
    from robopolicy.calibration import latency
    from robopolicy.calibration.views import read_views

    views = read_views(folder)
    motion, told = views.motion, {}
    if motion is None:
        raise InputError(f"calibrate latency: {folder} has no motion.npz; collect with --moving SECONDS")
    origin = int(motion.time_ns[0])

    def seconds(stamps: Any) -> Any:
        return 1e-9 * (stamps - origin)

    if len(motion.commanded_ns):
        found = latency.actuation_delay(seconds(motion.commanded_ns), motion.commanded, seconds(motion.time_ns), motion.measured, longest)
        told["actuation"] = found.to_dict()
        _keep(out, ("actuation",), found.to_dict(), views.robot, None)
    if views.views:
        import numpy as np

        views.look(_board(views, board))
        used, moves = latency.picture_motion([view.corners for view in views.views])
        taken = seconds(np.array([views.views[k].capture_ns for k in used], np.int64))
        camera = _camera(views, name)
        seen = latency.camera_delay(seconds(motion.time_ns), motion.measured, taken, moves, longest)
        told[f"camera {camera!r}"] = seen.to_dict()
        _keep(out, ("cameras", camera, "latency"), seen.to_dict(), views.robot, None)
    for what, value in told.items():
        _say(json_file, f"{what}: {1e3 * value['seconds']:.1f} +- {1e3 * value['standard_error']:.1f} ms (correlation {value['correlation']:.4f})")
    if json_file is not None:
        from robopolicy.json_output import emit_json

        emit_json(told, json_file)


def show_command(
    path: Annotated[Path, typer.Argument(help="A calibration.")],
    other: Annotated[Path | None, typer.Argument(help="Another: say where they differ. Exit code 2 if a policy of the one should not drive the other.")] = None,
) -> None:
    """Show a calibration, or where two of them differ."""
    import json

    from real.calibration import Calibration, differences

    known = Calibration.load(path)
    if other is None:
        typer.echo(json.dumps(known.contents, indent=2))
        typer.echo(f"fingerprint {known.fingerprint}")
        return
    wrong = differences(known, Calibration.load(other))
    if wrong:
        raise InputError(f"{path} and {other} differ: {'; '.join(wrong)}")
    typer.echo("the same within tolerances")


def _board(views: Views, board: str | None) -> Board:
    from robopolicy.calibration.board import Board

    return Board.parse(board) if board else views.board or Board()


def _camera(views: Views, name: str | None) -> str:
    camera = name or views.camera
    if not camera:
        raise InputError("calibrate: what is the camera called? --name wrist")
    return camera


def _text(model: Path | None) -> str:
    try:
        return "" if model is None else model.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--model {model}: cannot be read: {error}") from error


def _offsets(out: Path) -> dict[str, float]:
    """Return the joint offsets that are known already."""
    from real.calibration import Calibration

    return dict((Calibration.load(out).contents.get("joints") or {}).get("offsets", {})) if out.exists() else {}


def _arm_views(
    folder: Path, board: str | None, model: Path | None, frame: str | None, offsets: dict[str, float] | None = None
) -> tuple[Views, list[Any], list[Any], str]:
    """Return the views, the corners in those where the board was found, the hand's pose (4, 4) in each, and the hand's frame."""
    import numpy as np

    from robopolicy.calibration.joints import hands_of
    from robopolicy.calibration.views import read_views

    views = read_views(folder)
    views.look(_board(views, board))
    where = frame or views.frame
    if all(view.pose is not None for view in views.views):
        return views, [view.corners for view in views.found], [view.pose for view in views.found], where or "hand"
    if lacking := [view.image.name for view in views.views if view.joints is None]:
        raise InputError(f"calibrate: {folder / lacking[0]}: neither joints nor pose are known; make views.json with calibrate collect")
    if not where:
        raise InputError("calibrate: which site or body of the model is the hand? --frame hand")
    moved = np.array([(offsets or {}).get(name, 0.0) for name in views.names])
    hands = hands_of(views.kinematics(_text(model)), where, np.array([view.joints for view in views.found]).reshape(-1, len(moved)) + moved)
    return views, [view.corners for view in views.found], hands, where


def _keep(out: Path, part: tuple[str, ...], value: dict[str, Any], robot: str, json_file: Path | None) -> None:
    from robopolicy.calibration.store import store

    store(out, part, value, robot)
    if json_file is not None:
        from robopolicy.json_output import emit_json

        emit_json(value, json_file)


def _say(json_file: Path | None, line: str) -> None:
    if str(json_file) != "-":
        typer.echo(line)


def _warn(lines: Any) -> None:
    for line in lines:
        typer.echo(f"warning: {line}", err=True)


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """Show how many there are, where there is a terminal; yields what takes (done, of, note)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), transient=True) as bar:
        line = bar.add_task("", total=None)
        yield lambda done, of, note: bar.update(line, completed=done, total=of, description=note)
