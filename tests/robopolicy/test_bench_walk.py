"""The bench of walking on a tiny training: its rows, and the policy that has learnt nothing."""

from __future__ import annotations

from pathlib import Path

from robopolicy.bench import walk

TINY = (
    *("training.steps=768", "training.worlds=16", "training.threads=1", "training.critic.hidden=[16]"),
    *("env.max_episode_steps=120", "env.threads=1", "policy.hidden=[16]"),
)


def test_tracking_is_measured_against_the_untrained_policy(tmp_path: Path) -> None:
    found = walk.measure(tmp_path, TINY, 4)
    rows = {row.name: row for row in found.rows}
    linear = rows["distance from the commanded velocity"]
    assert linear.unit == "m/s" and linear.peer == walk.UNTRAINED and linear.peer_value is not None
    assert 0 < linear.value < 1.0
    assert "scripted trot: off by" in "".join(found.notes)
    again = walk.measure(tmp_path, TINY, 4)
    assert [row.value for row in again.rows] == [row.value for row in found.rows], "a finished training was not found again"
