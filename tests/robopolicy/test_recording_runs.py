"""Whole runs that are recorded: a twin's episodes with their seeds, a person who takes over, and the benchmark in miniature."""

import numpy as np

from real.drive import Drive
from real.drive_handle import DriveHandle
from real.policy import LocalPolicy
from real.robots.twin import TwinConfig, TwinRobot
from real.runtime import Runtime
from robopolicy.bench.recording import measure
from robopolicy.data.check import check
from robopolicy.data.dataset import Dataset
from robopolicy.data.recording import read_reports
from robopolicy.deployment import load_run_config, run
from robopolicy.recording import RecordConfig, open_recorder
from tests.real.toy import Process, ReachPolicy


def test_a_run_in_lock_step_is_recorded_whole_with_its_seeds(tmp_path):
    said = []
    with Process(tmp_path, "twin", "--lockstep", "--episodes", 3, "--seed0", 4) as twin:
        arguments = [f"robot.address={twin.address}", "robot.timeout_s=20", f"record={tmp_path / 'set'}", "record.task=reach the point", "policy=reach"]
        summary = run(load_run_config([*arguments, "preflight=false"]), acting=LocalPolicy(ReachPolicy()), say=said.append)
    counted = summary.beside["recording"]
    assert counted["episodes"] == 3 and not any(counted["dropped"].values()) and counted["problem"] == "" and said == []
    data = Dataset.open(tmp_path / "set")
    assert data.success.tolist() == [1, 1, 1] and data.seeds.tolist() == [4, 5, 6] and data.tasks == ["reach the point"]
    assert np.diff(data.episode_starts).tolist() == [episode.steps for episode in summary.episodes]
    ends = data.episode_starts[1:] - 1
    success, done = np.ravel(data.arrays["next.success"]), np.ravel(data.arrays["next.done"])
    assert np.flatnonzero(success).tolist() == ends.tolist() == np.flatnonzero(done).tolist()
    assert not data.arrays["takeover"].any() and check(tmp_path / "set").ok
    # every row: the policy's action leads from where the row was towards the goal, a step of it further each row
    state, goal = data.arrays["observation.state"], data.arrays["observation.environment_state"]
    left = np.linalg.norm(goal - state, axis=1)
    assert all((np.diff(left[a:b]) < 0).all() for a, b in zip(data.episode_starts[:-1], data.episode_starts[1:], strict=True))


class Person:
    """Takes over from the third step to the fifth, and pulls to a corner."""

    def __init__(self):
        self.steps = 0

    def act(self, reading, policy_action):
        self.steps += 1
        return np.array([-0.9, -0.9], np.float32) if 3 <= self.steps <= 5 else None

    def ended(self, reading):
        self.steps = 0


def test_what_a_person_did_in_the_policys_place_is_marked(tmp_path):
    from contextlib import ExitStack

    with Process(tmp_path, "twin", "--lockstep", "--episodes", 1, "--seed0", 4) as twin, ExitStack() as stack:
        robot = stack.enter_context(DriveHandle(Drive(TwinRobot(TwinConfig(address=twin.address, timeout_s=20)))))
        policy = LocalPolicy(ReachPolicy())
        stack.callback(policy.close)
        recorder = open_recorder(RecordConfig(path=str(tmp_path / "set")), robot, stack, lambda line: None)
        Runtime(robot, policy, teleoperator=Person(), recorder=recorder).run(episodes=1)
        recorder.close()
    data = Dataset.open(tmp_path / "set")
    assert np.flatnonzero(data.arrays["takeover"]).tolist() == [2, 3, 4]
    assert np.allclose(data.arrays["action"][2:5], -0.9) and read_reports(tmp_path / "set")[0]["takeover"] == 3


def test_the_benchmark_in_miniature():
    result = measure(blocks=1, seconds=0.6)
    rows = {row.name: row for row in result.rows}
    assert rows["rows recorded"].value > 3  # of 18; how many more depends on what else runs here
    assert rows["images of rows that were not encoded"].value == 0
    assert rows["control jitter while recording, p99"].peer == "without recording" and rows["encode lag, largest"].value >= 0
    assert any("skew" in note for note in result.notes)
