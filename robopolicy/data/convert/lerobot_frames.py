"""LeRobot v3 sets frame by frame, for those that store images one by one: here they become video."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robopolicy.data import layout
from robopolicy.data.convert import source
from robopolicy.data.dataset import Dataset


class LeRobotFrames:
    """An opened LeRobot v3 set; the attributes are :class:`robopolicy.data.convert.source.Source`'s."""

    def __init__(self, path: Path) -> None:
        """Decode the set at ``path``. Raises InputError if it is damaged."""
        self._cache = tempfile.TemporaryDirectory(prefix="robopolicy-convert-")
        try:
            self._dataset = Dataset.open(path, cache=self._cache.name)
        except BaseException:
            self._cache.cleanup()
            raise
        info = layout.read_info(path)
        self.spec, self.fps, self.num_episodes = self._dataset.spec, self._dataset.fps, self._dataset.num_episodes
        self.robot_type, self.task = str(info.get("robot_type") or "unknown"), self._dataset.tasks[0]
        known = {*self.spec.observation.fields, "action", "task_index"}
        others = {n: a for n, a in self._dataset.arrays.items() if n not in known}
        self._extras = [n for n, a in others.items() if a[0].size == 1]
        self.notes = [f"{n!r} was left out: {a.dtype}{list(a.shape[1:])} is not one number a frame" for n, a in others.items() if n not in self._extras]
        unread = [n for n, f in info["features"].items() if f["dtype"] in layout.TEXT_DTYPES or (f.get("info") or {}).get("video.is_depth_map")]
        self.notes += [f"{n!r} was left out: text and depth videos are not read" for n in unread]
        images = [n for n in self.spec.observation.image_names if info["features"][n]["dtype"] == "image"]
        self.notes.append(f"images were stored one by one, are video now: {', '.join(images)}")

    def close(self) -> None:
        """Remove the decoded frames."""
        self._cache.cleanup()

    def episodes(self) -> Iterator[source.SourceEpisode]:
        """Yield every episode in order."""
        for index in range(self.num_episodes):
            frames = self._dataset.episode(index)
            task = self._dataset.tasks[int(frames["task_index"][0].item())]
            if len(tasks := np.unique(frames["task_index"])) > 1:
                self.notes.append(f"episode {index} has {len(tasks)} tasks; the first stands for all of it: {task!r}")
            success, seed = int(self._dataset.success[index]), int(self._dataset.seeds[index])
            yield source.SourceEpisode(
                f"episode {index}",
                {name: frames[name] for name in self.spec.observation.fields},
                np.asarray(frames["action"]).reshape(len(frames["action"]), -1),
                {name: frames[name].reshape(-1) for name in self._extras},
                success=None if success < 0 else bool(success),
                seed=None if seed < 0 else seed,
                task=task,
            )
