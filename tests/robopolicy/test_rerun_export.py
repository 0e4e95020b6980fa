"""A data set as a Rerun recording, read back with Rerun's own tool."""

import re
import subprocess
import sys

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.cli import main
from robopolicy.data.dataset import Dataset
from robopolicy.data.rerun_export import entity, export, times
from tests.require import require
from tests.robopolicy.recording import CAMERA, action, length, record, stamp


def tool(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "rerun", "rrd", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def chunks(printed: str, path: str) -> str:
    """What Rerun prints of the chunks of one entity."""
    parts = re.split(r"(?m)^Chunk\(", printed)
    return "".join(part for part in parts if f" - /{path} - " in part.partition("\n")[0])


def test_rerun_reads_what_was_recorded(tmp_path, capsys):
    require("rerun")
    record(tmp_path / "set", 2, images=True)
    out = tmp_path / "set.rrd"
    assert main(["data", "export", str(tmp_path / "set"), "--to", "rerun", str(out), "--episodes", "1"]) == 0
    assert "1 episodes" in capsys.readouterr().out and not list(tmp_path.glob("*.tmp"))
    tool("verify", str(out))
    printed = tool("print", "-vvv", str(out))
    assert "episode_000000" not in printed
    rows = re.findall(r"┆ (\d+)\s+┆ \S+\s+┆ \[([-\d.e, ]+)\]", chunks(printed, entity(1, "action")))
    assert [int(frame) for frame, _ in rows] == list(range(length(1)))
    read = np.array([[float(v) for v in values.split(",")] for _, values in rows])
    np.testing.assert_allclose(read, [action(1, t) for t in range(length(1))], atol=1e-7)
    assert "[vx, vy]" in chunks(printed, entity(1, "action")), "elements keep their names"
    pictures = chunks(printed, entity(1, CAMERA))
    assert pictures.count("image/jpeg") >= length(1)
    assert "success; seed 101" in chunks(printed, "episode_000001")
    with pytest.raises(InputError, match="exists already; give another name"):
        export(tmp_path / "set", out)


def test_time_is_that_of_capture_where_it_is_known(tmp_path):
    dataset = Dataset.open(record(tmp_path / "set", 1, images=True))
    episode = dataset.episode(0)
    np.testing.assert_array_equal(times(episode, "observation.images.top", 10.0), [stamp(0, t) - stamp(0, 0) for t in range(length(0))])
    np.testing.assert_array_equal(times(episode, "action", 10.0), 100_000_000 * np.arange(length(0)))


def test_what_cannot_be_exported_is_one_line(tmp_path, capsys):
    record(tmp_path / "set", 1)
    for words, told in (
        (("--to", "reurn", "a.rrd"), "format 'reurn' is unknown; did you mean 'rerun'"),
        (("--to", "rerun", str(tmp_path / "a.txt")), "expected a name that ends in .rrd"),
        (("--to", "rerun", str(tmp_path / "a.rrd"), "--episodes", "7"), "7"),
    ):
        assert main(["data", "export", str(tmp_path / "set"), *words]) == 2
        assert told in capsys.readouterr().err
    assert not list(tmp_path.glob("*.rrd*"))
