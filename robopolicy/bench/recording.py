"""Recording while driving: two cameras at 30 Hz and joints at 100 Hz into a data set; frames lost, encode lag, jitter of the loop.

The robot's images come from a ring that is drawn beforehand, so that what is measured is the recording. Blocks with and
without it take turns, so that both see the same machine; the loop is the runtime's own, with a policy that swings the joints.
"""

from __future__ import annotations

import gc
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from policies.base import Execution, Plan, State
from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from real.drive import Drive
from real.drive_handle import DriveHandle
from real.latency import Latency
from real.policy import LocalPolicy, Observations
from real.robot import Observation, RobotInfo
from real.runtime import Runtime
from robopolicy.bench.harness import Result, Row, measured

RATE_HZ, CAMERA_HZ, JOINTS, DRAWN = 100.0, 30.0, 7, 60
SIZE = (480, 640, 3)
CAMERAS = {"observation.images.front": 0.0, "observation.images.wrist": 0.4}  # name -> phase of its shutter, in frames


def spec() -> Spec:
    """Return what the robot observes and is told."""
    joints = Field((JOINTS,), unit="rad", names=tuple(f"joint{i}" for i in range(1, JOINTS + 1)))
    images = {name: Field(SIZE, "uint8", "px", kind="image") for name in CAMERAS}
    action = Field((JOINTS,), unit="rad", low=(-3.0,) * JOINTS, high=(3.0,) * JOINTS, kind="position", names=joints.names)
    return Spec(ObservationSpec({"observation.state": joints, **images}, RATE_HZ), ActionSpec({"action": action}, RATE_HZ))


def draw(count: int = DRAWN) -> np.ndarray:
    """Return images (count, H, W, 3) uint8: a textured table, things that move on it, and a camera's noise."""
    rng = np.random.default_rng(0)
    height, width, _ = SIZE
    rows, columns = np.mgrid[:height, :width]
    table = 110 + 40 * np.sin(columns / 17.0) * np.cos(rows / 23.0) + 20 * (rows / height)
    out = np.empty((count, *SIZE), np.uint8)
    for k in range(count):
        image = np.repeat(table[..., None], 3, 2) + rng.normal(0, 2.0, (height, width, 1))
        for thing in range(4):
            angle = 2 * np.pi * k / count + thing * np.pi / 2
            y, x = int(height / 2 + 150 * np.sin(angle)), int(width / 2 + 220 * np.cos(angle))
            image[y - 30 : y + 30, x - 30 : x + 30] = (40 + 50 * thing, 220 - 40 * thing, 90)
        out[k] = image.clip(0, 255)
    return out


class RenderedRobot:
    """Joints that are where they were sent, and cameras whose images were drawn beforehand; see ``real.robot.Robot``.

    Args:
        images: (N, H, W, 3) uint8, shown one after the other.
    """

    def __init__(self, images: np.ndarray) -> None:
        self.spec = spec()
        self.info = RobotInfo("bench", RATE_HZ, "holds", 0.1)
        self._images, self._joints = images, np.zeros(JOINTS, np.float32)
        self._began_ns = time.monotonic_ns()

    def read(self) -> Observation:
        """Return the joints now and each camera's newest image."""
        now = time.monotonic_ns()
        fields, stamps = {"observation.state": self._joints.copy()}, {"observation.state": now}
        for name, phase in CAMERAS.items():
            frame = max(int((now - self._began_ns) * 1e-9 * CAMERA_HZ - phase), 0)
            stamps[name] = self._began_ns + round(1e9 * (frame + phase) / CAMERA_HZ)
            fields[name] = self._images[frame % len(self._images)]
        return Observation(fields, stamps)

    def write(self, command: np.ndarray) -> None:
        """Go to ``command`` (7,) rad at once."""
        self._joints = np.asarray(command, np.float32)

    def hold(self) -> None:
        """Stay."""

    def stop(self) -> None:
        """Stay."""

    def close(self) -> None:
        """Let go of nothing."""


class Swing:
    """A numpy policy that swings every joint; see ``policies.base.Policy``."""

    n_obs_steps, horizon, n_action_steps = 1, 16, 16

    def __init__(self) -> None:
        whole = spec()
        self.spec = Spec(whole.observation.subset(["observation.state"]), whole.action)

    def initial_state(self, batch: int) -> State:
        """Return the state of streams that have just begun."""
        return {"step": np.zeros(batch, np.int64)}

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Begin the masked (B,) streams anew."""
        return {"step": np.where(mask, 0, state["step"])}

    def act(self, obs: Observations, state: State, noise: object, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Return the next actions (B, 16, 7) of each stream."""
        steps = state["step"][:, None] + np.arange(self.n_action_steps)
        swing = 0.5 * np.sin(2 * np.pi * 0.3 * steps[..., None] / RATE_HZ + np.arange(JOINTS))
        return Plan(swing.astype(np.float32), {}), {"step": state["step"] + self.n_action_steps}


def run(quick: bool) -> Result:
    """Measure 10 minutes of recording and as many without; ``quick`` 20 s of each."""
    return measure(blocks=2 if quick else 10, seconds=10.0 if quick else 60.0)


def measure(blocks: int, seconds: float) -> Result:
    """Measure ``blocks`` of so many seconds with recording, and as many without, in turns."""
    from robopolicy.data.progress import tracked
    from robopolicy.recording import RecordConfig, open_recorder

    jitter, overruns = {True: Latency(), False: Latency()}, {True: 0, False: 0}
    lag_s = 0.0
    with ExitStack() as stack, measured() as took:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="robopolicy-bench-", ignore_cleanup_errors=True)))
        robot = stack.enter_context(DriveHandle(Drive(RenderedRobot(draw()))))
        recorder = open_recorder(RecordConfig(path=str(folder / "set"), fps=CAMERA_HZ), robot, stack, say=lambda line: None, manual=True)
        policy = LocalPolicy(Swing())
        stack.callback(policy.close)
        gc.freeze()
        stack.callback(gc.unfreeze)

        def watched() -> bool:
            nonlocal lag_s
            lag_s = max(lag_s, recorder.status().lag_s)
            return False

        for block in tracked(range(2 * blocks), f"{2 * blocks} blocks of {seconds:g} s", True):
            recording = block % 2 == 1
            if recording:
                recorder.begin("swing")
            runtime = Runtime(robot, policy, recorder=recorder if recording else None)
            summary = runtime.run(seconds=seconds, stopped=watched)
            if recording:
                recorder.save(True)
            _merge(jitter[recording], summary.jitter)
            overruns[recording] += summary.overruns
        ended = time.perf_counter()
        recorder.close()
        waited_s = time.perf_counter() - ended
        status = recorder.status()
        counted = count(folder / "set", blocks)
    result = Result(rows=_rows(jitter, overruns, counted, status.dropped, lag_s, waited_s, blocks * seconds))
    for row in result.rows:
        row.wall_s, row.cpu_s = took.wall_s, took.cpu_s
    if status.problem:
        result.notes.append(status.problem)
    streams = f"2 cameras {SIZE[1]}x{SIZE[0]} at {CAMERA_HZ:g} Hz, H.264, joints at {RATE_HZ:g} Hz"
    result.notes.append(f"{blocks} episodes of {seconds:g} s, {streams}; blocks without recording between them")
    result.notes.append(f"skew: {counted.skew}; data set {counted.megabytes:.0f} MB; lag is the age of the oldest frame that is not encoded yet")
    return result


class _Counted:
    """What lies in the data set."""

    rows = videos = 0
    lost: dict[str, int]
    skew = ""
    megabytes = 0.0


def count(root: Path, episodes: int) -> _Counted:
    """Count rows, encoded images, and images of each camera that were captured while recording and are not in any row."""
    from robopolicy.data import layout, video
    from robopolicy.data.episodes import read_parquet
    from robopolicy.data.recording_streams import Skew

    out = _Counted()
    out.lost = dict.fromkeys(CAMERAS, 0)
    times: dict[str, list[np.ndarray]] = {name: [] for name in ("action", "observation.state", *CAMERAS)}
    for number in range(episodes):
        at = layout.file_number(number)
        table = read_parquet(layout.data_file(root, at))
        for name, found in times.items():
            found.append(table[layout.CAPTURE + name].to_numpy())
        out.rows += table.num_rows
        for name in CAMERAS:
            stamps = np.unique(times[name][-1])
            out.lost[name] += round((stamps[-1] - stamps[0]) * 1e-9 * CAMERA_HZ) + 1 - len(stamps)
            out.videos += video.count_frames(layout.video_file(root, name, at))
    rows = np.concatenate(times.pop("action"))
    skews = {name: Skew.of(rows, np.concatenate(found)) for name, found in times.items()}
    out.skew = ", ".join(f"{name} mean {s.mean_ms:.1f} p99 {s.p99_ms:.1f} max {s.max_ms:.1f} ms" for name, s in skews.items())
    out.megabytes = sum(file.stat().st_size for file in layout.content_files(root)) / 1e6
    return out


def _merge(into: Latency, other: Latency) -> None:
    into.count += other.count
    into.total_s += other.total_s
    into.max_s = max(into.max_s, other.max_s)
    into._bins += other._bins


def _rows(
    jitter: dict[bool, Latency], overruns: dict[bool, int], counted: _Counted, dropped: dict[str, int], lag_s: float, waited_s: float, seconds: float
) -> list[Row]:
    lost, images = sum(counted.lost.values()), 2 * counted.rows
    out = [
        Row("rows recorded", counted.rows, "rows", target=0.99 * CAMERA_HZ * seconds),
        Row("images captured that are in no row", lost, "images", target=0, better="lower"),
        Row("images of rows that were not encoded", images - counted.videos, "images", target=0, better="lower"),
        Row("samples that found no room on the way to the recorder", sum(dropped.values()), "samples", target=0, better="lower"),
        Row("encode lag, largest", 1e3 * lag_s, "ms", target=500, better="lower"),
        Row("after the last episode, until everything was on the disk", 1e3 * waited_s, "ms", target=2000, better="lower"),
    ]
    for label, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        on, off = (1e3 * (jitter[side].quantile(q) if q < 1 else jitter[side].max_s) for side in (True, False))
        out.append(Row(f"control jitter while recording, {label}", on, "ms", "without recording", off, 1.5 if label == "p99" else None, "lower"))
    out.append(Row("missed ticks while recording", overruns[True], "ticks", "without recording", overruns[False], None, "lower"))
    return out
