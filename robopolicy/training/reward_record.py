"""What a learner does under a reward classifier, kept with the truth: the pictures that the next classifier should know.

A policy finds what a classifier takes for success before it finds success: pictures that no demonstration holds (Fu et al. 2018,
"Variational Inverse Control with Events"). Episodes recorded while it learns, with what the world says of every step, go to
``robopolicy reward`` beside the demonstrations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from policies.spec import Spec
from robopolicy.data.writer import DatasetWriter


class EpisodeRecord:
    """Writes whole episodes of several worlds to a data set; one that is begun anew before its end is dropped.

    Args:
        path: Data set; episodes are added.
        spec: Of the worlds, cameras included.
        task: What is done.
        worlds: N.
    """

    def __init__(self, path: str | Path, spec: Spec, task: str, worlds: int) -> None:
        self._writer = DatasetWriter(path, spec, spec.action.rate_hz, task, task)
        self._open: list[list[tuple[Mapping[str, np.ndarray], np.ndarray, bool]]] = [[] for _ in range(worlds)]
        self._still = spec.action.hold(np.zeros(spec.action.dim, np.float32))

    def begin(self, worlds: np.ndarray) -> None:
        """Forget what was open where ``worlds`` (N,) bool begin anew."""
        for row in np.flatnonzero(worlds):
            self._open[row].clear()

    def add(self, obs: Mapping[str, np.ndarray], action: np.ndarray, success: np.ndarray, next_obs: Mapping[str, np.ndarray], ended: np.ndarray) -> None:
        """Take a step of all worlds; those that ended are written.

        Args:
            obs: field -> (N, *shape), acted on.
            action: (N, Da) in robot units.
            success: (N,) bool, what was true after the step.
            next_obs: field -> (N, *shape), where it led: the last frame of an episode, in which the robot does nothing more.
            ended: (N,) bool.
        """
        for row, episode in enumerate(self._open):
            episode.append(({name: array[row].copy() for name, array in obs.items()}, action[row].copy(), bool(success[row])))
            if ended[row]:
                last = {name: array[row].copy() for name, array in next_obs.items()}
                self._write([*episode, (last, self._still, bool(success[row]))])
                episode.clear()

    def close(self) -> None:
        """Free the data set; may be called twice."""
        self._writer.close()

    def _write(self, episode: list[tuple[Mapping[str, np.ndarray], np.ndarray, bool]]) -> None:
        for t, (obs, action, success) in enumerate(episode):
            extras = {"next.reward": float(success), "next.success": success, "next.done": t == len(episode) - 1}
            self._writer.add_frame(obs, action, {"observation": round(t * 1e9 / self._writer.fps)}, extras)
        self._writer.save_episode(success=any(success for *_, success in episode))
