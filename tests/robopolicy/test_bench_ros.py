"""The benchmark of ROS 2: its cameras really run, its rows from results that are given, its cells go on where they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robopolicy.bench import harness, ros, ros_cameras, ros_run
from robopolicy.bench.cells import Cells
from robopolicy.bench.harness import Result
from robopolicy.evaluation.statistics import paired_difference


def test_it_is_a_benchmark_and_its_parts_are_not() -> None:
    assert "ros" in harness.names() and not {"ros_run", "ros_cameras"} & set(harness.names())


def test_marks_survive_in_the_pixels_of_a_picture() -> None:
    from real.ros import api

    ring = ros_cameras.pictures(1)
    assert len(ring) == ros_cameras.RING and bytes(ring[0]) != bytes(ring[1])
    ros_cameras._MARK.pack_into(ring[0], ros_cameras.pixels_at(ring[0]), 7, 123456789)
    found = api.deserialize(bytes(ring[0]), api.message("sensor_msgs/msg/Image"))
    assert (found.height, found.width, found.encoding, len(found.data)) == (480, 640, "rgb8", 480 * 640 * 3)
    assert ros_cameras._MARK.unpack_from(bytes(found.data)) == (7, 123456789)


def test_two_cameras_between_two_processes() -> None:
    """A second of it; what is lost on a busy machine is counted, nothing comes twice."""
    row = ros_run.cameras(1.0)
    assert 2 <= row["sent"] <= 62 and 0 <= row["lost"] < row["sent"] and row["doubled"] == 0
    assert row["delay_ms"]["count"] == row["sent"] - row["lost"] and row["joint_states"] > 0
    result = Result()
    ros._camera_rows(result, row)
    assert [(r.name.rpartition(": ")[2], r.value) for r in result.rows[:2]] == [("frames sent", row["sent"]), ("frames lost", row["lost"])]
    assert result.rows[1].reached == (row["lost"] == 0)


def loops(outcomes: dict[str, list[bool]], block: int) -> tuple[Cells, dict[str, list]]:
    count = len(next(iter(outcomes.values())))
    cells = {t: [ros._loop(t, {"policy": "p"}, first, min(block, count - first)) for first in range(0, count, block)] for t in ros.TRANSPORTS}
    rows = {}
    for transport, found in cells.items():
        for cell in found:
            seeds = range(cell.settings["seed0"], cell.settings["seed0"] + cell.settings["count"])
            rows[cell.key] = {"success": {str(seed): outcomes[transport][seed - ros.REPORT] for seed in seeds}}
    return Cells(rows, []), cells


def test_the_same_episodes_are_compared_in_pairs() -> None:
    ours, theirs = [True] * 9 + [False], [True] * 7 + [False, False, True]
    found, cells = loops({"ROS 2": ours, "ZeroMQ": theirs}, 3)
    result = Result()
    ros._loop_rows(result, found, cells, 10)
    values = {row.name: row.value for row in result.rows}
    difference, low, high = paired_difference(10, 2, 1)
    assert values["success over ROS 2, 10 paired episodes"] == 0.9 and result.rows[0].peer_value == 0.8
    assert (values["paired difference of success"], values["paired difference, lower end of 95 %"]) == (difference, low)
    assert values["paired difference, upper end of 95 %"] == high
    assert "9/10" in result.notes[0] and "8/10" in result.notes[1] and "lies within the interval" in result.notes[2]


def test_a_difference_that_is_none_is_told_from_one_that_is() -> None:
    found, cells = loops({"ROS 2": [False] * 40, "ZeroMQ": [True] * 40}, 10)
    result = Result()
    ros._loop_rows(result, found, cells, 40)
    assert "NOT within" in result.notes[2] and result.rows[1].value == -1


def test_episodes_that_only_one_side_has_are_not_compared() -> None:
    found, cells = loops({"ROS 2": [True] * 6, "ZeroMQ": [True] * 6}, 3)
    del found.rows[cells["ROS 2"][0].key]
    result = Result()
    ros._loop_rows(result, found, cells, 6)
    assert result.rows[0].name == "success over ROS 2, 3 paired episodes" and "3 of 6 episodes" in result.notes[2]
    empty = Result()
    ros._loop_rows(empty, Cells({}, []), cells, 6)
    assert not empty.rows


def test_two_benchmarks_never_share_a_domain() -> None:
    with ros_run.free_domain() as first, ros_run.free_domain() as second:
        assert first != second and {first, second} <= set(range(1, 100))


@pytest.mark.soak
def test_the_whole_benchmark_and_again_from_its_results(tmp_path: Path) -> None:
    """A quarter of a minute of each part, then nothing is measured twice."""
    policy = ros_run.checkpoint(tmp_path, small=True)
    result = ros.measure(policy, tmp_path, 5.0, 3.0, 2, 1)
    assert not result.missing, result.missing
    before = (tmp_path / "results.jsonl").read_text()
    assert len(before.splitlines()) == 7 and ros.measure(policy, tmp_path, 5.0, 3.0, 2, 1).rows == result.rows
    assert (tmp_path / "results.jsonl").read_text() == before
    json.dumps(harness.to_json("ros", result, {}), allow_nan=False)
