"""Reads and writes data sets with LeRobot's own code, in a throw-away environment beside ours.

Usage::

    python tests/parity/lerobot_reader.py read OUT DATASET...      OUT/NAME.npz: every frame, as LeRobotDataset gives it
    python tests/parity/lerobot_reader.py write DATASET IN.npz     a new data set by LeRobot's writer
    python tests/parity/lerobot_reader.py setup                    only make the environment

The environment is made once, in ``$ROBOPOLICY_LEROBOT_VENV`` or in ``lerobot`` of the running environment: LeRobot without
its dependencies (it pins an older torch) and the few that its data set classes import; torch, numpy, pyarrow and av come
from the Python that runs this script. Exit code 3: the packages could not be installed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

#: Installed as they are, without dependencies.
ALONE = ("lerobot==0.4.4", "torchvision==0.25.0")
#: Installed with what they need and the running Python lacks.
WITH_DEPENDENCIES = ("datasets==4.8.5", "huggingface_hub==0.35.3", "pandas>=2.2", "requests>=2.32", "tqdm", "pillow", "accelerate>=1.10")
NOT_INSTALLED = 3
ROOT = Path(__file__).resolve().parents[2]
_STAMP = "made.txt"


def environment() -> Path:
    """Return the folder of the throw-away environment."""
    inside = Path(sys.prefix) if sys.prefix != sys.base_prefix else ROOT / ".pytest_cache"
    return Path(os.environ.get("ROBOPOLICY_LEROBOT_VENV") or inside / "lerobot")


def is_made(folder: Path) -> bool:
    """Whether the environment is there, whole, and for this Python and these versions."""
    stamp = folder / _STAMP
    return stamp.is_file() and stamp.read_text() == _wanted()


def _wanted() -> str:
    return "\n".join([*ALONE, *WITH_DEPENDENCIES, sys.executable, sys.version])


def make_environment(folder: Path) -> Path:
    """Make the environment unless it is there, and return its Python. Raises OSError if pip fails."""
    python = folder / "bin" / "python"
    if is_made(folder):
        return python
    venv.create(folder, clear=True, with_pip=True, symlinks=True)
    inside = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True)
    ours = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    # a .pth file comes after the environment's own packages on the path, so these win over ours
    (Path(inside.stdout.strip()) / "zz_robopolicy_parity.pth").write_text("\n".join(ours) + "\n")
    for arguments in (["--no-deps", *ALONE], list(WITH_DEPENDENCIES)):
        done = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments], capture_output=True, text=True)
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
    (folder / _STAMP).write_text(_wanted())
    return python


def dataset_class() -> Any:
    """Return the class LeRobotDataset."""
    sys.path.insert(0, str(ROOT))
    from robopolicy.bench.lerobot import imported

    return imported("lerobot.datasets.lerobot_dataset").LeRobotDataset


def read(root: Path, out: Path) -> None:
    """Write every frame that LeRobotDataset yields, and what its metadata says, to ``out``.

    Images are (F, H, W, 3) uint8. With ``delta.`` before them: the window of the two latest frames of observations and
    of the next four actions, as LeRobot's own loader makes it for training.
    """
    import numpy as np
    import torch

    lerobot = dataset_class()
    dataset = lerobot("local/parity", root=root, video_backend="pyav")
    delta = {name: [-1 / dataset.fps, 0.0] for name in dataset.features if name.startswith("observation.")}
    delta["action"] = [i / dataset.fps for i in range(4)]
    windows = lerobot("local/parity", root=root, video_backend="pyav", delta_timestamps=delta)
    columns: dict[str, list[Any]] = {}
    for prefix, source, names in (("", dataset, None), ("delta.", windows, [*delta, *(f"{n}_is_pad" for n in delta)])):
        for i in range(len(source)):
            item = source[i]
            for name in names or item:
                value = item[name]
                if name in dataset.meta.camera_keys:
                    value = (value.movedim(-3, -1) * 255).round().to(torch.uint8)
                columns.setdefault(prefix + name, []).append(value.numpy() if isinstance(value, torch.Tensor) else value)
    meta: dict[str, Any] = {
        "fps": dataset.fps,
        "num_frames": dataset.num_frames,
        "num_episodes": dataset.num_episodes,
        "robot_type": dataset.meta.robot_type or "",
        "lengths": [int(n) for n in dataset.meta.episodes["length"]],
        "tasks": [str(t) for t in dataset.meta.tasks.index],
        "version": str(dataset.meta._version),
    }
    for field, one in (dataset.meta.stats or {}).items():
        meta.update({f"stats.{field}.{name}": value for name, value in one.items()})
    np.savez(
        out, **{f"frame.{n}": np.stack([np.asarray(v) for v in rows]) for n, rows in columns.items()}, **{f"meta.{n}": np.asarray(v) for n, v in meta.items()}
    )
    print(f"{root}: LeRobot read {dataset.num_frames} frames of {dataset.num_episodes} episodes, fields {', '.join(sorted(dataset.features))}")


def write(source: Path, root: Path) -> None:
    """Record a data set with LeRobot's writer from ``fps``, ``lengths``, ``tasks`` (one an episode) and field arrays."""
    import numpy as np

    lerobot = dataset_class()
    arrays = dict(np.load(source, allow_pickle=False))
    fps, lengths, tasks = int(arrays.pop("fps")), arrays.pop("lengths"), arrays.pop("tasks")
    features: dict[str, Any] = {}
    for name, array in arrays.items():
        image = array.dtype == np.uint8 and array.ndim == 4
        names = ["height", "width", "channels"] if image else [f"{name.rpartition('.')[2]}_{i}" for i in range(array.shape[1])]
        features[name] = {"dtype": "video" if image else str(array.dtype), "shape": tuple(array.shape[1:]), "names": names}
    dataset = lerobot.create("local/parity", fps, features, root=root, robot_type="parity", use_videos=True, video_backend="pyav", vcodec="h264")
    start = 0
    for length, task in zip(lengths, tasks, strict=True):
        for i in range(start, start + int(length)):
            dataset.add_frame({name: array[i] for name, array in arrays.items()} | {"task": str(task)})
        dataset.save_episode(parallel_encoding=False)
        start += int(length)
    dataset.finalize()
    print(f"{root}: LeRobot wrote {start} frames of {len(lengths)} episodes")


def main() -> int:
    """Run one sub-command, in the throw-away environment; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    reading, writing = commands.add_parser("read"), commands.add_parser("write")
    reading.add_argument("out", type=Path)
    reading.add_argument("dataset", type=Path, nargs="+")
    writing.add_argument("dataset", type=Path)
    writing.add_argument("source", type=Path)
    commands.add_parser("setup")
    arguments = parser.parse_args()
    if "ROBOPOLICY_IN_LEROBOT" not in os.environ:
        try:
            python = make_environment(environment())
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"LeRobot could not be installed into {environment()}: {error}", file=sys.stderr)
            return NOT_INSTALLED
        inside = os.environ | {"ROBOPOLICY_IN_LEROBOT": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(environment() / "datasets-cache")}
        inside.pop("PYTHONPATH", None)
        return subprocess.run([python, *sys.argv], env=inside).returncode
    if arguments.command == "read":
        for root in arguments.dataset:
            read(root, arguments.out / f"{root.name}.npz")
    elif arguments.command == "write":
        write(arguments.source, arguments.dataset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
