"""The page of a data set: spans by hand, what is shown is what was recorded, and a browser can go through an episode."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from policies.spec import ActionSpec, Field, InputError, ObservationSpec, Spec
from robopolicy.data.collect import collect
from robopolicy.data.dataset import Dataset
from robopolicy.data.view import DatasetViewer, robot_of, spans, strip
from robopolicy.data.writer import DatasetWriter
from tests.browser import opened, served

ROOT = Path(__file__).resolve().parents[2]
CAMERA = "observation.images.top"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("view") / "<set>"  # a name that a page must not take for a tag
    fields = {"observation.state": Field((2,), names=("x", "y")), CAMERA: Field((16, 16, 3), "uint8", "px", kind="image")}
    spec = Spec(ObservationSpec(fields, 10.0), ActionSpec({"velocity": Field((2,), low=(-1.0, -1.0), high=(1.0, 1.0), kind="velocity")}, 10.0))
    with DatasetWriter(path, spec, 10.0, "none", "<b>push</b>") as writer:
        for episode, length in enumerate((12, 7)):
            for t in range(length):
                shown = {"observation.state": np.array([t, episode], np.float32), CAMERA: np.full((16, 16, 3), 20 * t, np.uint8)}
                extras = {"takeover": 3 <= t < 5, "next.success": t == length - 1}
                writer.add_frame(shown, np.array([0.1 * t, -0.1], np.float32), {"observation": t * 10**8}, extras)
            writer.save_episode(success=episode == 0)
    return Dataset.open(path)


def test_spans_by_hand():
    assert spans(np.array([1, 1, 0, 1, 0, 0, 1], bool)) == [(0, 2), (3, 4), (6, 7)]
    assert spans(np.zeros(3, bool)) == [] and spans(np.ones(2, bool)) == [(0, 2)] and spans(np.zeros(0, bool)) == []


def test_the_strip_says_who_acted_and_where_success_was():
    html = strip(np.array([0, 1, 1, 0], bool), np.array([0, 0, 0, 1], bool), 2)
    assert 'title="a person: 1 to 2" style="position:absolute;left:25.00%;width:50.00%' in html
    assert 'title="success: 3 to 3" style="position:absolute;left:75.00%;width:25.00%' in html and "left:50.00%;width:2px" in html


def test_what_is_shown_is_what_was_recorded(recorded):
    viewer = DatasetViewer(recorded, 0)
    try:
        assert viewer._at.max == 11 and viewer._chosen.max == 1
        viewer.seek(4)
        assert "a person acts" in viewer._told.content and "17% taken over" in viewer._told.content and "&lt;b&gt;push" in viewer._told.content
        assert abs(int(viewer._pictures[CAMERA].image.mean()) - 80) < 4  # the video is not lossless
        assert "| observation.state | 4, 0 |" in viewer._numbers.content and "| action | 0.4, -0.1 |" in viewer._numbers.content
        seconds, whole, so_far = viewer._plots["observation.state"][0].data[:3]
        assert seconds[-1] == pytest.approx(1.1) and whole.tolist() == list(range(12)) and so_far.tolist() == [0, 1, 2, 3, *[4] * 8]
        viewer.show(1)
        assert (viewer.episode, viewer.frame, viewer.length) == (1, 0, 7) and "failure" in viewer._told.content
        viewer.seek(99)
        assert viewer.frame == 6 and "a person acts" not in viewer._told.content
        assert set(viewer._plots) == {"action", "observation.state", "next.success"}
    finally:
        viewer.close()


def test_an_episode_that_is_not_there_is_named(recorded):
    with pytest.raises(InputError, match="has episodes 0 to 1, not 2"):
        DatasetViewer(recorded, 0, 2)


def test_the_robot_of_a_collected_task_stands_as_recorded(tmp_path):
    collect("arm/reach", tmp_path / "arm", 1, workers=1, progress=False)
    dataset = Dataset.open(tmp_path / "arm")
    model, joints = robot_of(dataset, None)
    assert len(joints) == 7 and "<mujoco" in model
    viewer = DatasetViewer(dataset, 0, model=model, joints=joints)
    try:
        from policies.kinematics import Kinematics

        viewer.seek(20)
        field, columns = viewer._columns
        arm = Kinematics(model, list(joints))
        arm.forward(np.asarray(dataset.arrays[field][20], np.float64)[columns])
        for geom, handle in viewer._scene._handles.items():
            np.testing.assert_allclose(handle.position, arm.data.geom_xpos[geom], atol=1e-6)
    finally:
        viewer.close()
    (tmp_path / "other.xml").write_text("<mujoco><worldbody><body><joint name='elsewhere'/><geom size='1'/></body></worldbody></mujoco>")
    with pytest.raises(InputError, match="elsewhere"):
        robot_of(dataset, str(tmp_path / "other.xml"))
    with pytest.raises(InputError, match="cannot be read"):
        robot_of(dataset, str(tmp_path / "none.xml"))


def test_in_a_browser_an_episode_is_gone_through(recorded, tmp_path):
    with served(["data", "view", str(recorded.path)], tmp_path) as url, opened(url, height=700) as page:
        page.get_by_text(re.compile("episode 0 of 2")).first.wait_for()
        assert page.locator("img").count() >= 1
        page.get_by_label("Play").first.check()
        page.get_by_text(re.compile("a person acts")).first.wait_for()
