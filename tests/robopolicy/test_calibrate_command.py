"""``robopolicy calibrate`` on rendered pictures: what was planted is found; and where a calibration travels: data, checkpoints, runs."""

import json
import shutil
import threading
import time
from contextlib import ExitStack, closing

import numpy as np
import pytest

from policies import checkpoint
from policies.spec import InputError
from real.calibration import Calibration
from real.telemetry import Telemetry
from real.telemetry_wire import Record
from robopolicy.calibration.board import Board
from robopolicy.calibration.collect import Collector, collect
from robopolicy.calibration.hand_eye import HandEye, solve_hand_eye
from robopolicy.calibration.intrinsics import Intrinsics
from robopolicy.calibration.joints import hands_of
from robopolicy.calibration.poses import between, from_dict
from robopolicy.calibration.rehearsal import ACTUATION_S, CAMERA_S, rehearse
from robopolicy.calibration.scene import FRAME, Scene
from robopolicy.calibration.store import store
from robopolicy.calibration.views import View, Views, read_views
from robopolicy.cli import main
from robopolicy.data.layout import read_spec
from robopolicy.data.writer import DatasetWriter
from robopolicy.deployment import load_run_config, run
from tests.real.toy import Process, ReachPolicy
from tests.require import require
from tests.robopolicy.recording import add_episode, make_spec


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    """Sixteen rendered views of a camera on a hand, whose arm's readings are wrong by planted offsets."""
    require("egl")
    require("libgl")
    folder = tmp_path_factory.mktemp("calibrate") / "views"
    rehearse(folder, "in-hand", 16, seed=2)
    return folder


def planted(folder):
    return json.loads((folder / "planted.json").read_text())


def command(*words) -> int:
    return main(["calibrate", *map(str, words)])


def test_what_was_planted_is_found_from_rendered_pictures(views, tmp_path, capsys):
    out, truth = tmp_path / "calibration.json", planted(views)
    assert command("hand-eye", views, "--out", out) == 2
    assert "calibrate camera FOLDER --name wrist" in capsys.readouterr().err or not out.exists()
    assert command("camera", views, "--out", out) == 0
    found = Calibration.load(out).camera("wrist", "intrinsics")
    for name, within in (("fx", 1.0), ("fy", 1.0), ("cx", 1.5), ("cy", 1.5)):
        assert found[name] == pytest.approx(truth["camera"][name], abs=within), name
    np.testing.assert_allclose(found["distortion"][:2], truth["camera"]["distortion"][:2], atol=0.03)
    np.testing.assert_allclose(found["distortion"][2:4], truth["camera"]["distortion"][2:4], atol=1e-3)
    assert found["rms_px"] < 0.15 and found["views"] == 16

    assert command("hand-eye", views, "--out", out) == 0
    assert "is much: zeros of joints" in capsys.readouterr().err, "readings are wrong by up to a degree: the residual tells"
    assert command("joints", views, "--out", out) == 0
    joints = Calibration.load(out).contents["joints"]
    assert joints["held"] == ["joint1", "joint7"] and joints["rms_before_px"] > 2 and joints["rms_px"] < 0.2
    assert joints["offsets"] == pytest.approx({name: truth["offsets"][name] for name in joints["offsets"]}, abs=5e-4), "rad"
    assert command("hand-eye", views, "--out", out, "--json", tmp_path / "mount.json") == 0
    assert "with the joint offsets of" in capsys.readouterr().out
    mount = Calibration.load(out).camera("wrist", "mount")
    distance, angle = between(from_dict(mount), from_dict(truth["mount"]))
    assert distance < 1e-3 and angle < np.radians(0.15) and mount["rms_px"] < 0.2 and mount["frame"] == "hand"
    assert json.loads((tmp_path / "mount.json").read_text())["position"] == mount["position"]

    assert command("show", out, out) == 0
    moved = store(tmp_path / "moved.json", ("cameras", "wrist", "mount"), {**mount, "position": [0.1, 0.0, 0.0]})
    assert moved.contents["cameras"]["wrist"]["mount"]["date"].endswith("+00:00")
    assert command("show", out, tmp_path / "moved.json") == 2
    assert "its mounting has moved by" in capsys.readouterr().err


def test_a_camera_beside_the_robot_is_found(tmp_path):
    require("egl")
    require("libgl")
    scene = Scene("to-hand")
    try:
        joints = scene.postures(12, seed=3)
        seen = [scene.board.detect(scene.picture(q)) for q in joints]
    finally:
        scene.close()
    assert all(one is not None and len(one.ids) >= 15 for one in seen)
    found = solve_hand_eye(scene.board, scene.camera, seen, hands_of(scene.kinematics, FRAME, joints), "to-hand")
    distance, angle = between(found.mount, scene.mount)
    assert distance < 1.5e-3 and angle < np.radians(0.15) and found.rms_px < 0.15, (distance, angle, found.rms_px)


def test_planted_delays_are_found_from_a_rendered_swing(tmp_path, capsys):
    require("egl")
    require("libgl")
    rehearse(tmp_path / "swing", moving_s=1.5)
    assert command("latency", tmp_path / "swing", "--out", tmp_path / "c.json") == 0
    found = Calibration.load(tmp_path / "c.json")
    assert found.camera("wrist", "latency")["seconds"] == pytest.approx(CAMERA_S, abs=0.002)
    assert found.contents["actuation"]["seconds"] == pytest.approx(ACTUATION_S, abs=0.001)
    assert found.latency_ms("wrist") == pytest.approx(45, abs=2), "what a camera of that name takes off its stamps"
    assert "camera 'wrist': 45." in capsys.readouterr().out or found.camera("wrist", "latency")["correlation"] > 0.99


def test_views_are_collected_while_somebody_else_moves_the_robot(views, tmp_path):
    """The telemetry of a run: the arm moves from view to view and stands still there; a picture is kept once in each."""
    import cv2

    there = read_views(views)
    pictures = [cv2.cvtColor(cv2.imread(str(view.image)), cv2.COLOR_BGR2RGB) for view in there.views[:3]]
    ready, over = threading.Event(), threading.Event()
    address = []

    def robot() -> None:
        now = [10_000_000_000]
        with closing(Telemetry(clock_ns=lambda: now[0])) as telemetry:
            address.append(telemetry.address)
            telemetry.info(robot="somebody's arm", joints=list(there.names), model=there.model)
            ready.set()
            tick = 0
            while not over.is_set():
                view = (tick // 100) % 3  # a second each, of which the first fifth is a move
                start, goal = there.views[(view - 1) % 3].joints, there.views[view].joints
                share = min((tick % 100) / 20, 1.0)
                telemetry.tick(measured=start + share * (goal - start), reference=goal)
                if tick % 10 == 0:
                    telemetry.observation({"observation.images.wrist": pictures[view]}, {"observation.images.wrist": now[0]})
                now[0] += 10_000_000
                tick += 1
                time.sleep(0.001)

    thread = threading.Thread(target=robot)
    thread.start()
    try:
        assert ready.wait(30)
        made = collect(address[0], tmp_path / "collected", Board(), "wrist", count=3, frame="hand")
    finally:
        over.set()
        thread.join()
    back = read_views(tmp_path / "collected")
    assert (back.robot, back.camera, back.frame, back.names) == ("somebody's arm", "wrist", "hand", there.names) and back.model == there.model
    expected = {tuple(np.round(view.joints, 6)) for view in there.views[:3]}
    assert {tuple(np.round(view.joints, 6)) for view in back.views} == expected and len(made.views) == 3
    assert back.look(Board()) == 3
    with pytest.raises(InputError, match="holds views already"):
        rehearse(tmp_path / "collected", count=1)


def test_a_calibration_goes_into_data_which_are_kept_apart(tmp_path):
    first, second = (Calibration({"kind": "robopolicy calibration", "format": 1, "actuation": {"seconds": s}}) for s in (0.02, 0.09))

    def recorded(calibration):
        made = make_spec()
        return type(made)(made.observation, made.action, {**made.meta, "calibration": calibration.text})

    with DatasetWriter(tmp_path / "data", recorded(first), 10.0) as writer:
        add_episode(writer, 0)
    assert read_spec(tmp_path / "data").meta["calibration"] == first.text
    with pytest.raises(InputError, match="actuation latency is 90 ms, was 20 ms; record into a data set of its own"):
        DatasetWriter(tmp_path / "data", recorded(second), 10.0)


def calibrated(folder, seconds: float):
    """A copy of small demonstrations, recorded with a calibration of so long an actuation latency."""
    from tests.robopolicy.small_runs import demonstrations

    calibration = Calibration({"kind": "robopolicy calibration", "format": 1, "actuation": {"seconds": seconds}})
    shutil.copytree(demonstrations(), folder)
    own = json.loads((folder / "meta/robopolicy.json").read_text())
    own["spec"]["meta"]["calibration"] = calibration.text
    (folder / "meta/robopolicy.json").write_text(json.dumps(own))
    return calibration


def test_a_checkpoint_carries_the_calibration_of_its_data(tmp_path):
    from robopolicy.recipe import recipe_from_dict
    from robopolicy.training.demonstrations import open_demonstrations
    from robopolicy.training.imitation import train
    from robopolicy.training.run_folder import find_checkpoint
    from tests.robopolicy.small_runs import recipe

    calibration = calibrated(tmp_path / "data", 0.02)
    values = recipe(tmp_path / "run", steps=2, checkpoint_every=2, batch_size=4, data={"path": str(tmp_path / "data")})
    train(values, progress=False)
    folder = find_checkpoint(tmp_path / "run")
    assert checkpoint.read_manifest(folder)["extra"]["calibration"] == calibration.fingerprint
    assert checkpoint.read_spec(folder).meta["calibration"] == calibration.text

    calibrated(tmp_path / "later", 0.09)
    both = {**values.to_dict(), "data": {"sets": [{"path": str(tmp_path / name)} for name in ("data", "later")]}}
    said: list[str] = []
    open_demonstrations(recipe_from_dict(both, "test"), False, said.append)
    assert any("recorded with another calibration" in line and "actuation latency is 90 ms, was 20 ms" in line for line in said)


def test_a_run_compares_the_policys_calibration_with_the_robots(tmp_path):
    from real.server import PolicyServer

    calibration = Calibration({"kind": "robopolicy calibration", "format": 1, "actuation": {"seconds": 0.02}})
    policy = ReachPolicy()
    policy.spec = type(policy.spec)(policy.spec.observation, policy.spec.action, {"calibration": calibration.text})
    store(tmp_path / "same.json", ("actuation",), {"seconds": 0.025})
    store(tmp_path / "other.json", ("actuation",), {"seconds": 0.125})
    over, lines = threading.Event(), []
    with ExitStack() as stack:
        twin = stack.enter_context(Process(tmp_path, "twin", "--lockstep", "--episodes", "1"))
        server = PolicyServer(policy, "tcp://127.0.0.1:0")
        thread = threading.Thread(target=server.serve, args=(over.is_set,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)

        def started(*words):
            given = ["robot=twin", f"robot.address={twin.address}", f"policy={server.address}", "preflight=false", "episodes=1", *words]
            return run(load_run_config(given), say=lines.append)

        with pytest.raises(InputError, match=r"^calibration: the robot is not as it was .*: actuation latency is 125 ms, was 20 ms; calibrate it anew"):
            started(f"robot.calibration={tmp_path / 'other.json'}")
        assert started(f"robot.calibration={tmp_path / 'same.json'}").episodes and not lines
        assert started().episodes and "the robot says none" in lines.pop()
        started(f"robot.calibration={tmp_path / 'other.json'}", "calibration_check=warn")
        assert "actuation latency is 125 ms, was 20 ms" in lines[0]


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "views.json").write_text('{"kind": "x"}')
    for words, told in (
        (("camera", tmp_path / "none"), "there is no such folder"),
        (("camera", tmp_path / "empty"), "expected views.json, or pictures"),
        (("camera", tmp_path / "bad"), "expected kind 'robopolicy calibration views' of format 1"),
        (("board", tmp_path / "b.txt"), "expected a name that ends in .pdf or .png"),
        (("collect", tmp_path / "new", "--telemetry", "tcp://8.8.8.8:1"), "loopback"),
        (("show", tmp_path / "none.json"), "cannot be read"),
    ):
        assert command(*words) == 2
        said = capsys.readouterr().err
        assert told in said and len(said.strip().splitlines()) == 1, said
    assert Intrinsics(1, 1, 1, 1, 0, 0).matrix.shape == (3, 3)


@pytest.mark.parametrize("given", ["pose", "joints"])
def test_offsets_are_said_to_be_in_where_readings_were_used_alone(tmp_path, monkeypatch, capsys, given):
    out, lens = tmp_path / "calibration.json", Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0)
    store(out, ("cameras", "wrist", "intrinsics"), lens.to_dict())
    store(out, ("joints",), {"offsets": {"joint1": 0.01}})
    view = View(tmp_path / "view.png", **{given: np.eye(4) if given == "pose" else np.zeros(1)})
    made, found = (
        Views(tmp_path, [view], ("joint1",), "hand", camera="wrist"),
        HandEye("in-hand", np.eye(4), np.eye(4), 0.1, np.ones(1), (0.0, 0.0), np.zeros(6)),
    )
    for target, stand_in in (
        ("views.read_views", lambda folder: made),
        ("views.Views.look", lambda self, board: 0),
        ("views.Views.kinematics", lambda self, model: None),
        ("joints.hands_of", lambda *_: []),
        ("hand_eye.solve_hand_eye", lambda *_: found),
    ):
        monkeypatch.setattr(f"robopolicy.calibration.{target}", stand_in)
    assert command("hand-eye", tmp_path, "--out", out) == 0
    said = capsys.readouterr().out
    assert ("without joint offsets: the views hold poses of the hand" in said) == (given == "pose")
    assert (f"with the joint offsets of {out}: joint1" in said) == (given == "joints")


def test_motion_that_nobody_told_is_one_line():
    collector = Collector(Board(), moving=True)
    collector.take(Record("info", 0, 0, 0, 0, {"joints": ["joint1"], "model": "", "robot": "toy"}))
    collector.take(Record("image", 0, 1, 0, 1, {"name": "wrist", "capture_ns": 1, "image": np.zeros((8, 8, 3), np.uint8)}))
    assert len(collector.views) == 1
    with pytest.raises(InputError, match="nothing of where the joints stand"):
        collector.motion()
