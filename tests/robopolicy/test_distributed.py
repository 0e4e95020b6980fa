"""Two processes that share each batch do what one does: the same data, the same losses, one voice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from policies.spec import InputError
from robopolicy.config import dump_yaml
from robopolicy.training.demonstrations import open_demonstrations
from robopolicy.training.imitation import train
from robopolicy.training.launch import launch
from robopolicy.training.log import read_log
from robopolicy.training.run_folder import RunFolder, find_checkpoint
from tests.robopolicy.small_runs import recipe, start

ROOT = Path(__file__).resolve().parents[2]


def train_together(wanted, processes: int = 2) -> list[int | None]:
    """Train in several processes at once; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [start(wanted, {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]
    for process in running:
        process.join(90)
    return [process.exitcode for process in running]


def test_two_processes_draw_the_batches_of_one():
    wanted = recipe(Path("unused"), batch_size=16)
    found = open_demonstrations(wanted, False, pytest.fail)
    sampler = found.sampler(wanted, found.spec)
    for step in (0, 1, 37, 10_000):
        whole, keys = sampler.batch(step)
        parts = [sampler.batch(step, rank, 2) for rank in (0, 1)]
        for name in whole:
            np.testing.assert_array_equal(whole[name], np.concatenate([part[name] for part, _ in parts]))
        np.testing.assert_array_equal(keys, np.concatenate([k for _, k in parts]))


def test_losses_of_two_processes_are_those_of_one(tmp_path):
    shape = {"steps": 50, "log_every": 1, "checkpoint_every": 25}
    train(recipe(tmp_path / "one", **shape), progress=False)
    two = recipe(tmp_path / "two", **shape)
    assert train_together(two) == [0, 0], Path(f"{two.output}.txt").read_text()
    one_rows, two_rows = (list(read_log(tmp_path / name, "train")) for name in ("one", "two"))
    assert [row["step"] for row in one_rows] == [row["step"] for row in two_rows] == list(range(1, 51))
    for name in ("loss", "grad_norm", "lr"):
        np.testing.assert_allclose([row[name] for row in two_rows], [row[name] for row in one_rows], rtol=0, atol=1e-5)
    assert one_rows[-1]["loss"] < one_rows[0]["loss"]
    assert next(read_log(tmp_path / "two", "begin"))["processes"] == 2
    assert len(list(read_log(tmp_path / "two", "begin"))) == 1, "both processes wrote the log"


def test_a_run_of_two_processes_goes_on_with_one(tmp_path):
    wanted = recipe(tmp_path / "run", steps=30)
    assert train_together(wanted) == [0, 0]
    folder = RunFolder(wanted.output)
    newest = folder.states_newest_first()
    newest[0][1].unlink()
    notes: list[str] = []
    assert train(wanted, progress=False, note=notes.append).resumed_from == newest[1][0] == 28
    assert notes == ["the run was begun with processes 2, now 1: it goes on, equal up to rounding instead of bit for bit"]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"training\.batch_size=16 cannot be shared by 3 processes: choose a multiple of 3"):
        train(recipe(tmp_path / "run"), progress=False)


@pytest.fixture
def command(tmp_path):
    """The command that trains a recipe of 40 steps, and its run folder."""
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(recipe(tmp_path / "run", steps=40).to_dict()))
    return [sys.executable, "-m", "robopolicy", "train", str(file)], tmp_path / "run"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_processes_option(command):
    words, run = command
    done = subprocess.run([*words, "--processes", "2"], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1 and find_checkpoint(run).name == "step_000040"
    assert next(read_log(run, "begin"))["processes"] == 2


@pytest.mark.soak
def test_processes_option_with_bad_input(command):
    words, _ = command
    bad = subprocess.run([*words, "data.path=nowhere", "output=elsewhere", "--processes", "2"], capture_output=True, text=True, env=environment(), timeout=120)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and "data set nowhere does not exist" in bad.stderr


@pytest.mark.soak
@pytest.mark.parametrize(
    "launcher", [["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], ["accelerate.commands.launch", "--cpu", "--num_processes", "1"]]
)
def test_other_launchers(command, launcher):
    words, run = command
    done = subprocess.run([sys.executable, "-m", *launcher, *words[1:]], capture_output=True, text=True, env=environment(), timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("checkpoint: ") == 1 and find_checkpoint(run).name == "step_000040"
    assert next(read_log(run, "begin"))["processes"] == (2 if "2" in launcher else 1)


# The launcher itself --------------------------------------------------------------------------------------------------


def test_launcher_places_every_process(tmp_path):
    place = "' '.join(os.environ[k] for k in ('LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'))"
    code = f"import os; open(r'{tmp_path}/' + os.environ['RANK'], 'w').write({place})"
    assert launch([sys.executable, "-c", code], 3) == 0
    words = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [w[:3] for w in words] == [[str(rank), "3", "127.0.0.1"] for rank in range(3)]
    assert len({w[3] for w in words}) == 1


def test_launcher_ends_the_others_when_one_fails(capfd):
    code = "import os, sys, time\nif os.environ['RANK'] == '1': print('cause', file=sys.stderr); sys.exit(7)\ntime.sleep(60)"
    began = time.monotonic()
    assert launch([sys.executable, "-c", code], 2) == 7
    assert time.monotonic() - began < 30 and "cause" in capfd.readouterr().err


def test_launcher_lets_the_first_speak(capfd):
    assert launch([sys.executable, "-c", "import sys; print('bad input', file=sys.stderr); sys.exit(2)"], 2) == 2
    assert capfd.readouterr().err == "bad input\n"


def test_launcher_passes_a_stop_on_once(tmp_path):
    child = "import signal, sys, time\nhits = []\nsignal.signal(signal.SIGINT, lambda *a: hits.append(1))\n"
    child += (
        f"open(r'{tmp_path}/' + __import__('os').environ['RANK'], 'w').write('up')\nwhile not hits: time.sleep(0.01)\ntime.sleep(0.5)\nsys.exit(40 + len(hits))"
    )
    parent = f"import sys\nfrom robopolicy.training.launch import launch\nsys.exit(launch([sys.executable, '-c', {child!r}], 2))"
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment())
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 41


def test_launched_processes_die_with_their_parent(tmp_path):
    child = f"import os, time; open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import sys\nfrom robopolicy.training.launch import launch\nlaunch([sys.executable, '-c', {child!r}], 2)"
    process = subprocess.Popen([sys.executable, "-c", parent], env=environment())
    while not all((tmp_path / rank).is_file() and (tmp_path / rank).read_text() for rank in "01"):
        time.sleep(0.01)
    process.kill()
    process.wait()
    for rank in "01":
        pid, deadline = int((tmp_path / rank).read_text()), time.monotonic() + 10
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
