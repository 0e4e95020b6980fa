"""The latched stop: what is written stays until an operator removes it, and what cannot be read is a stop."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.spec import InputError
from real.latch import FILE_NAME, Latch, robot_folder, state_folder
from real.ros.run_link import RunLink
from robopolicy.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_a_stop_is_kept_with_cause_time_and_who(tmp_path):
    latch = Latch(tmp_path / "arm")
    assert latch.read() is None
    record = latch.set("smoke\nfrom the elbow", "the night shift")
    assert (record.cause, record.who) == ("smoke from the elbow", "the night shift") and record.time.endswith("+00:00")
    assert json.loads(latch.path.read_text()) == {"cause": record.cause, "time": record.time, "who": record.who}
    assert Latch(tmp_path / "arm").read() == record, "another process, or this one after a restart"
    assert [p.name for p in latch.path.parent.iterdir()] == [FILE_NAME], "no temporary file is left"


def test_the_first_cause_stands(tmp_path):
    latch = Latch(tmp_path)
    first = latch.set("first", "a")
    assert latch.set("second", "b") == first == latch.read()


def test_clearing_says_what_it_was(tmp_path):
    latch = Latch(tmp_path)
    record = latch.set("test", "me")
    assert latch.clear() == record and latch.read() is None and latch.clear() is None


def test_it_sees_what_other_processes_do(tmp_path):
    latch, other = Latch(tmp_path), Latch(tmp_path)
    for cause in ("one", "two"):
        other.set(cause, "other")
        assert latch.read().cause == cause
        other.clear()
        assert latch.read() is None


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_whatever_the_file_holds_the_robot_is_stopped(tmp_path_factory, data):
    latch = Latch(tmp_path_factory.getbasetemp() / "damaged")
    latch.path.write_bytes(data)
    record = latch.read()
    assert record is not None and record.cause and "\n" not in record.line()


@pytest.mark.parametrize("data", ["", "{}", "[]", "null", '{"cause": "x"}', "[" * 60000])
def test_a_damaged_file_is_a_stop(tmp_path, data):
    latch = Latch(tmp_path)
    latch.path.write_text(data)
    assert "damaged" in latch.read().cause


def test_a_folder_in_its_place_is_a_stop(tmp_path):
    latch = Latch(tmp_path)
    latch.path.mkdir()
    assert "cannot be read" in latch.read().cause


def test_a_stop_asked_for_while_the_latch_cannot_be_looked_at_is_kept_or_said_not_to_be(tmp_path, monkeypatch):
    latch, stat = Latch(tmp_path), Path.stat

    def failing(path, **options):
        if path == latch.path:
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", failing)
    assert "cannot be looked at" in latch.read().cause
    assert latch.set("smoke", "anna").cause == "smoke"
    monkeypatch.undo()
    assert latch.read().cause == "smoke" and Latch(tmp_path).read().cause == "smoke"


def test_a_state_folder_that_takes_nothing_is_refused_before_anything_moves(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="emergency stop cannot be kept there"):
        Latch(tmp_path / "file" / "arm")


def test_the_state_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ROBOPOLICY_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder() == tmp_path / "xdg" / "robopolicy"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_folder() == Path.home() / ".local" / "state" / "robopolicy"
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path / "own"))
    assert robot_folder("twin of arm/reach") == tmp_path / "own" / "twin-of-arm-reach"
    for name in ("..", "../../etc", "/", "a/../b", "."):
        assert robot_folder(name, tmp_path).parent == tmp_path and robot_folder(name, tmp_path).name not in ("", ".", "..")


def test_a_kill_between_write_and_rename_latches_nothing_and_leaves_it_usable(tmp_path):
    (tmp_path / f".{FILE_NAME}.12345").write_text('{"cau')
    latch = Latch(tmp_path)
    assert latch.read() is None and latch.set("later", "me") == latch.read()


def test_a_stop_that_was_said_to_be_kept_survives_sigkill(tmp_path):
    code = "import os, sys; from pathlib import Path; from real.latch import Latch; Latch(Path(sys.argv[1])).set('killed', 'it'); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -9 and Latch(tmp_path).read().cause == "killed"


def test_the_command_stops_says_and_clears(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path))
    assert main(["estop"]) == 2 and "no robot has been driven" in capsys.readouterr().err
    arm, other = Latch(robot_folder("the arm")), Latch(robot_folder("other"))
    assert main(["estop", "--status"]) == 0
    assert main(["estop", "--cause", "a shout"]) == 0 and arm.read().cause == other.read().cause == "a shout"
    assert main(["estop", "--status"]) == 1 and "the-arm: stopped: a shout (by robopolicy estop" in capsys.readouterr().out
    assert main(["estop", "--clear"]) == 2 and "name the one to clear" in capsys.readouterr().err
    assert main(["estop", "the arm", "--clear"]) == 0 and arm.read() is None and other.read() is not None
    assert main(["estop", "othr"]) == 2 and "did you mean 'other'" in capsys.readouterr().err
    assert main(["estop", "--clear"]) == 0 and other.read() is None


def test_a_robot_whose_stop_cannot_be_kept_keeps_no_other_from_its_stop(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBOPOLICY_STATE", str(tmp_path))
    before, after = Latch(robot_folder("a")), Latch(robot_folder("z"))
    (robot_folder("broken") / f".{FILE_NAME}.{os.getpid()}").mkdir(parents=True)  # nothing can be written there
    assert main(["estop", "--cause", "a shout"]) == 2
    said = capsys.readouterr()
    assert before.read().cause == after.read().cause == "a shout" and "z: stopped: a shout" in said.out
    assert "broken" in said.err and "NOT stopped" in said.err and "a: " not in said.err and said.err.count("\n") == 1
    for latch in (before, after):
        latch.clear()
    assert "NOT stopped" in RunLink(str(tmp_path), "a ROS topic").stop()
    assert before.read() is not None and after.read() is not None
