"""Data loading: samples a second for states and video, share of a training step, opening a million frames.

Sets are made for the occasion: states as Meta-World's (21 numbers, 4 actions), random walks; 96x96 video of moving
blocks. Peers read the same frames: one sample at a time through torch's DataLoader, and LeRobot's own reader where it
is installed. Batches are 256 windows (64 with video) of 2 observations and 16 actions; one torch thread.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from policies.spec import ActionSpec, Field, ObservationSpec, Spec
from robopolicy.bench.harness import Elapsed, Result, Row, measured
from robopolicy.data import layout
from robopolicy.data.atomic import write_json
from robopolicy.data.dataset import Dataset
from robopolicy.data.episodes import episode_row, write_episodes, write_parquet, write_tasks
from robopolicy.data.frames import frame_columns, to_table
from robopolicy.data.writer import DatasetWriter

RATE_HZ, EPISODE, SIDE = 10.0, 200, 96
BATCH, IMAGE_BATCH = 256, 64  # windows; Diffusion Policy's for states and for images
WINDOW = (2, 16, 8)  # To, Tp, Ta
CAMERA = "observation.images.top"
_FILE_FRAMES = 500_000
_OPEN = (
    "import sys, time, numpy\n"
    "from robopolicy.data.dataset import Dataset\n"
    "from robopolicy.bench.harness import peak_memory_mb as peak\n"
    "before, began = peak(), time.perf_counter()\n"
    "dataset = Dataset.open(sys.argv[1])\n"
    "print(time.perf_counter() - began, peak(), before, dataset.num_frames)\n"
)


def state_spec() -> Spec:
    """Return the spec of the state sets."""
    fields = {"observation.state": Field((4,)), "observation.environment_state": Field((17,))}
    return Spec(ObservationSpec(fields, RATE_HZ), ActionSpec({"action": Field((4,), low=(-1,) * 4, high=(1,) * 4)}, RATE_HZ))


def write_states(root: Path, frames: int, seed: int = 0) -> None:
    """Write ``frames`` state frames, a multiple of ``EPISODE``, in few large files, as compacting makes them."""
    rng, spec, episodes = np.random.default_rng(seed), state_spec(), frames // EPISODE
    features = {**layout.spec_features(spec, RATE_HZ, {}), **layout.frame_features()}
    rows = []
    for number, first in enumerate(range(0, episodes, _FILE_FRAMES // EPISODE)):
        count = min(_FILE_FRAMES // EPISODE, episodes - first)
        columns = {"action": np.tanh(rng.standard_normal((count * EPISODE, 4), np.float32))}
        for name, field in spec.observation.fields.items():
            steps = 0.01 * rng.standard_normal((count, EPISODE, field.size), np.float32)
            columns[name] = steps.cumsum(1).reshape(-1, field.size)
        parts = [frame_columns(first + e, (first + e) * EPISODE, EPISODE, RATE_HZ, 0) for e in range(count)]
        columns |= {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        path = layout.data_file(root, layout.file_number(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, to_table(columns, features))
        new = [episode_row(e, e * EPISODE, EPISODE, ["walk"], layout.file_number(number), [], RATE_HZ, None, None) for e in range(first, first + count)]
        rows += [row | {"meta/episodes/file_index": 0, "meta/episodes/chunk_index": 0} for row in new]
    write_episodes(layout.episodes_file(root, (0, 0)), rows)
    write_tasks(root, ["walk"])
    write_json(root / layout.OWN, {"format": 1, "spec": spec.to_dict(), "streams": [], "extras": {}, "encoder": "", "provenance": {}})
    write_json(root / layout.INFO, layout.new_info(features, RATE_HZ, "none", episodes, episodes * EPISODE, 1))


def write_video(root: Path, episodes: int) -> Elapsed:
    """Record ``episodes`` of 100 frames with one 96x96 camera; return what recording cost."""
    spec = state_spec()
    spec = Spec(ObservationSpec({**spec.observation.fields, CAMERA: Field((SIDE, SIDE, 3), "uint8", "px", kind="image")}, RATE_HZ), spec.action)
    rng = np.random.default_rng(1)
    with measured() as took, DatasetWriter(root, spec, RATE_HZ, "none", "watch") as writer:
        for _ in range(episodes):
            scene = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            for t in range(100):
                state = {"observation.state": np.full(4, t, np.float32), "observation.environment_state": np.zeros(17, np.float32)}
                writer.add_frame(state | {CAMERA: np.roll(scene, t, 1)}, rng.uniform(-1, 1, 4))
            writer.save_episode()
    return took


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes under two minutes."""
    return measure(10_000, 1_000_000, *((8, 3.0) if quick else (40, 15.0)))


def measure(small: int, large: int, videos: int, seconds: float) -> Result:
    """Measure with sets of ``small`` and ``large`` state frames and ``videos`` episodes of video, about ``seconds`` a figure."""
    import torch

    torch.set_num_threads(1)
    result, folder = Result(), Path(tempfile.mkdtemp(prefix="robopolicy-bench-"))
    try:
        write_states(folder / "small", small)
        write_states(folder / "large", large)
        recording = write_video(folder / "video", videos)
        _opening(folder / "large", large, result)
        sets = [Dataset.open(folder / name) for name in ("small", "large", "video")]
        rate = 100 * videos / recording.wall_s
        result.rows.append(Row("recording and committing 96x96 video", rate, "frames/s", wall_s=recording.wall_s, cpu_s=recording.cpu_s))
        _loading(sets[1], f"states, {large:,} frames", False, seconds, result)
        _loading(sets[2], "96x96 video", True, seconds, result)
        _training(sets[0], sets[1], sets[2], seconds, result)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _opening(root: Path, frames: int, result: Result) -> None:
    with measured() as took:
        Dataset.open(root)
    result.rows.append(Row(f"making the arrays of {frames:,} frames, once", took.wall_s, "s", better="lower", wall_s=took.wall_s, cpu_s=took.cpu_s))
    found = []
    with measured() as took:
        for _ in range(3):
            out = subprocess.run([sys.executable, "-c", _OPEN, str(root)], capture_output=True, text=True, check=True)
            found.append([float(v) for v in out.stdout.split()])
    seconds, rss, before, _ = np.median(found, axis=0)
    result.rows.append(Row(f"opening {frames:,} frames", float(seconds), "s", target=1.0, better="lower", wall_s=took.wall_s, cpu_s=took.cpu_s))
    result.rows.append(Row("memory of a process that opened them", float(rss), "MB", target=200.0, better="lower"))
    result.notes.append(f"memory is the peak resident size of the process; {before:.0f} MB of it is Python with numpy and the reader imported")


def _sampler(dataset: Dataset, images: bool) -> Any:
    from robopolicy.data.windows import WindowSampler

    spec = dataset.spec.observation
    batch = IMAGE_BATCH if images else BATCH
    return WindowSampler(dataset, list(spec.fields if images else spec.state_names), *WINDOW, batch_size=batch, seed=0)


def _rate(batches: Iterator[Any], batch: int, seconds: float) -> tuple[float, Elapsed]:
    """Return samples a second over about ``seconds``, after one batch that does not count."""
    next(batches)
    count, until = 0, time.perf_counter() + seconds
    with measured() as took:
        while time.perf_counter() < until:
            next(batches)
            count += batch
    return count / took.wall_s, took


def _loading(dataset: Dataset, what: str, images: bool, seconds: float, result: Result) -> None:
    sampler = _sampler(dataset, images)

    def batches() -> Iterator[Any]:
        step = 0
        while True:
            yield sampler.batch(step)
            step += 1

    value, took = _rate(batches(), sampler.batch_size, seconds)
    peer, _ = _rate(_one_by_one(dataset, images), sampler.batch_size, seconds)
    result.rows.append(Row(f"loader, {what}", value, "samples/s", "torch DataLoader, sample by sample", peer, None, "higher", took.wall_s, took.cpu_s))
    lerobot, why = _attempt(lambda: _rate(_lerobot(dataset, sampler.batch_size), sampler.batch_size, seconds)[0])
    if lerobot is None:
        result.missing.append(f"LeRobot's reader, {what}: {why}")
    else:
        result.rows.append(Row(f"loader, {what}", value, "samples/s", "LeRobot's reader", lerobot))


def _attempt(measure: Callable[[], float]) -> tuple[float | None, str]:
    """Return a peer's figure, or None and one line why there is none: a peer may fail in any way of its own."""
    try:
        return measure(), ""
    except ModuleNotFoundError as error:
        return None, f"not installed ({error.name})"
    except Exception as error:
        lines = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {lines[0] if lines else ''}"


class _Windows:
    """A map-style torch data set over the same arrays: what a reader without batched gathers does."""

    def __init__(self, dataset: Dataset, images: bool) -> None:
        self.sampler = _sampler(dataset, images)
        spec = dataset.spec.observation
        self.arrays = {n: dataset.field(n) for n in (spec.fields if images else spec.state_names)}
        self.actions = dataset.field("action")

    def __len__(self) -> int:
        return self.sampler.num_windows

    def __getitem__(self, window: int) -> dict[str, Any]:
        observed, horizon, _ = WINDOW
        start, length, time_ = (int(v[0]) for v in self.sampler.locate(np.array([window])))
        wanted = time_ - observed + 1 + np.arange(horizon)
        frames = start + np.clip(wanted, 0, length - 1)
        out = {name: array[frames[:observed]] for name, array in self.arrays.items()}
        return out | {"action": self.actions[frames], "action_is_pad": (wanted < 0) | (wanted >= length)}


def _one_by_one(dataset: Dataset, images: bool) -> Iterator[Any]:
    import torch

    windows = _Windows(dataset, images)
    loader = torch.utils.data.DataLoader(windows, windows.sampler.batch_size, shuffle=True, drop_last=True)  # type: ignore[arg-type]
    while True:
        yield from loader


def _lerobot(dataset: Dataset, batch: int) -> Iterator[Any]:
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]

    observed, horizon, _ = WINDOW
    times = [(k - observed + 1) / dataset.fps for k in range(horizon)]
    wanted = dict.fromkeys(dataset.spec.observation.fields, times[:observed]) | {"action": times}
    source = LeRobotDataset("local/bench", root=dataset.path, delta_timestamps=wanted)
    loader = torch.utils.data.DataLoader(source, batch, shuffle=True, drop_last=True)
    while True:
        yield from loader


class _Trainer:
    """A training step of the flow policy at its default size, with the time that loading takes kept apart."""

    def __init__(self, dataset: Dataset, images: bool) -> None:
        import torch

        from policies import registry

        kind, config = registry.policy_class("flow"), registry.config_class("flow")()
        spec = dataset.spec if images else dataset.spec.subset(dataset.spec.observation.state_names)
        torch.manual_seed(0)
        self.policy = registry.create("flow", config, spec, kind.fit_normalizer(config, spec, dataset.stats, iter(())))
        self.policy.train()
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), 1e-4)
        self.sampler, self.step = _sampler(dataset, images), 0

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.policy.parameters())

    def train(self) -> tuple[float, float]:
        """Make one step; return (seconds of loading, seconds in all)."""
        from policies.noise import Noise

        began = time.perf_counter()
        batch, keys = self.sampler.batch(self.step)
        loaded = time.perf_counter()
        loss, _ = self.policy.loss(batch, Noise(keys))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loaded - began, time.perf_counter() - began


def _training(small: Dataset, large: Dataset, video: Dataset, seconds: float, result: Result) -> None:
    trainers = {"small": _Trainer(small, False), "large": _Trainer(large, False), "video": _Trainer(video, True)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
    for trainer in trainers.values():
        trainer.train()
    with measured() as took:
        until = time.perf_counter() + 2 * seconds
        while time.perf_counter() < until:
            for name in ("small", "large", "large", "small"):  # in turn, so that what else the machine does falls on both
                times[name].append(trainers[name].train())
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(times["video"]) < 3:
            times["video"].append(trainers["video"].train())
    medians = {name: np.median(values, axis=0) for name, values in times.items()}
    share = {name: float(load / whole) for name, (load, whole) in medians.items()}
    cost: dict[str, Any] = {"wall_s": took.wall_s, "cpu_s": took.cpu_s}
    result.rows.append(Row("loading's share of a training step, states", share["large"], "1", target=0.03, better="lower", **cost))
    result.rows.append(Row("loading's share of a training step, 96x96 video", share["video"], "1", better="lower", **cost))
    rates = {name: float(1 / whole) for name, (_, whole) in medians.items()}
    result.rows.append(
        Row(f"training on {large.num_frames:,} frames", rates["large"], "steps/s", f"on {small.num_frames:,} frames", rates["small"], 0.95, **cost)
    )
    sizes = f"{trainers['large'].parameters:,} parameters with states, {trainers['video'].parameters:,} with video"
    result.notes.append(f"a training step is the flow policy's at its default size ({sizes}), batch {BATCH} ({IMAGE_BATCH} with video), one thread")
