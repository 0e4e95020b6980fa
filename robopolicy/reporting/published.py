"""Figures that others have published for tasks that are here, with their protocols: shown beside ours, never mixed with them.

They are not ours to vouch for. Where the protocol differs from ours (human demonstrations, other data, more steps), it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Source:
    """Where figures are from.

    Attributes:
        key: Short name, for tables.
        text: Authors, year, title, table.
        protocol: How they were measured.
    """

    key: str
    text: str
    protocol: str


@dataclass(frozen=True)
class Published:
    """One figure.

    Attributes:
        task: Registered name of the task here.
        method: As the source calls it.
        value: As printed there.
        quantity: ``success`` (per cent), ``coverage`` (share of what counts as solved, see its source) or ``return``.
        source: Key of its :class:`Source`.
        data: Name of the data set it was learnt from, empty for learning by trial.
        deviation: Over training seeds, where the source gives one.
    """

    task: str
    method: str
    value: float
    quantity: Literal["success", "coverage", "return"]
    source: str
    data: str = ""
    deviation: float | None = None

    @property
    def text(self) -> str:
        """The figure as the source prints it."""
        return f"{self.value:g}" + ("%" if self.quantity == "success" else "") + (f" ± {self.deviation:g}" if self.deviation is not None else "")


SOURCES = {
    source.key: source
    for source in (
        Source(
            "Diffusion Policy",
            "Chi et al. 2023, Diffusion Policy: visuomotor policy learning via action diffusion, table 1 (state)",
            "206 human demonstrations; best coverage of an episode over 0.95, at most 1, mean of the last 10 checkpoints, 3 training seeds x 50 initial states",
        ),
        Source(
            "OGBench", "Park et al. 2024, OGBench: benchmarking offline goal-conditioned RL", "the suite's own data, 1M updates, 8 seeds, mean of five goals"
        ),
        Source("OTA", "figures of the method OTA (option-aware temporally abstracted value) in OGBench's protocol", "as OGBench"),
        Source("SAW", "figures of the method SAW (subgoal advantage-weighted policy bootstrapping) in OGBench's protocol", "as OGBench"),
        Source("FQL", "Park et al. 2025, Flow Q-learning", "OGBench's single-task offline RL with rewards, mean of five tasks, 8 seeds"),
        Source("Tianshou", "Tianshou's MuJoCo benchmark", "Gymnasium v3 environments, 1M steps, 10 seeds, deterministic evaluation"),
        Source("DSAC-T", "Duan et al. 2023, DSAC-T: distributional soft actor-critic with three refinements", "v3 environments, 30M environment steps"),
        Source("CleanRL", "CleanRL's benchmark of PPO on dm_control", "8M steps, 10 seeds"),
    )
}

_STATE = {"LSTM-GMM": 0.61, "IBC": 0.84, "BET": 0.70, "DP-C": 0.91, "DP-T": 0.79}

_GOAL_METHODS = ("GCBC", "GCIVL", "GCIQL", "QRL", "CRL", "HIQL", "OTA", "SAW")
#: data set -> success in per cent of the methods above; None: not given.
_GOALS: Mapping[str, Sequence[float | None]] = {
    "pointmaze-large-navigate": (29, 45, 34, 86, 39, 58, 85, None),
    "pointmaze-giant-navigate": (1, 0, 0, 68, 27, 46, 72, None),
    "pointmaze-giant-stitch": (0, 0, 0, 50, 0, 0, 52, None),
    "antmaze-large-navigate": (24, 16, 34, 75, 83, 91, 92, 90),
    "antmaze-giant-navigate": (0, 0, 0, 14, 16, 65, 77, 73),
    "antmaze-giant-stitch": (0, 0, 0, 0, 0, 2, 37, None),
    "antmaze-large-explore": (0, 10, 0, 0, 0, 4, 75, None),
    "humanoidmaze-large-navigate": (1, 2, 2, 5, 24, 49, 83, 46),
    "humanoidmaze-giant-navigate": (0, 0, 0, 1, 3, 12, 92, 35),
    "cube-single-play": (6, 53, 68, 5, 19, 15, None, 72),
    "cube-double-play": (1, 36, 40, 1, 10, 6, None, 40),
    "scene-play": (5, 42, 51, 5, 19, 38, None, 63),
    "puzzle-3x3-play": (2, 6, 95, 1, 3, 12, None, None),
    "puzzle-4x4-play": (0, 13, 26, 0, 0, 7, None, None),
}
#: task -> success in per cent of IQL, ReBRAC and FQL.
_SINGLE_TASK = {
    "cube-single": (83, 91, 96),
    "cube-double": (7, 12, 29),
    "scene": (28, 41, 56),
    "humanoidmaze-medium": (33, 22, 58),
    "humanoidmaze-large": (2, 2, 4),
    "antsoccer-arena": (8, 0, 60),
    "puzzle-4x4": (7, 14, 17),
    "antmaze-large": (53, 81, 79),
}
_LOCOMOTION = ("ant", "half-cheetah", "hopper", "walker2d", "humanoid")
_RETURNS: Mapping[str, Sequence[float]] = {
    "SAC": (5850, 12139, 3542, 5007, 5489),
    "TD3": (5116, 10201, 3472, 3982, 5190),
    "PPO": (3258, 5784, 2609, 3589, 787),
}
_SAC_DEVIATION = (476, 1049, 52, 252, 81)
_DSACT = {"humanoid": (10829, 243), "ant": (7086, 261), "half-cheetah": (17025, 157), "walker2d": (6424, 147), "hopper": (3660, 533)}
_PPO_CONTROL: Mapping[str, tuple[float, float | None]] = {
    "cheetah-run": (433, 83),
    "walker-walk": (393, 56),
    "walker-run": (126, 10),
    "walker-stand": (564, 235),
    "hopper-stand": (2.7, None),
    "ball-in-cup-catch": (901, None),
    "cartpole-swingup": (641, None),
}


def _all() -> Iterator[Published]:
    for method, value in _STATE.items():
        yield Published("pusht", method, value, "coverage", "Diffusion Policy", "human demonstrations")
    for data, row in _GOALS.items():
        for method, success in zip(_GOAL_METHODS, row, strict=True):
            if success is not None:
                source = method if method in SOURCES else "OGBench"
                yield Published(f"ogbench/{data.rpartition('-')[0]}", method, success, "success", source, data.rpartition("-")[2])
    for task, values in _SINGLE_TASK.items():
        for method, success in zip(("IQL", "ReBRAC", "FQL"), values, strict=True):
            yield Published(f"ogbench/{task}", method, success, "success", "FQL", "single task")
    for method, returns in _RETURNS.items():
        for i, (robot, value) in enumerate(zip(_LOCOMOTION, returns, strict=True)):
            yield Published(f"gymnasium/{robot}", method, value, "return", "Tianshou", "", _SAC_DEVIATION[i] if method == "SAC" else None)
    for robot, (value, deviation) in _DSACT.items():
        yield Published(f"gymnasium/{robot}", "DSAC-T", value, "return", "DSAC-T", "", deviation)
    for task, (value, spread) in _PPO_CONTROL.items():
        yield Published(f"dmcontrol/{task}", "PPO", value, "return", "CleanRL", "", spread)


PUBLISHED: tuple[Published, ...] = tuple(_all())


def of_task(task: str) -> list[Published]:
    """Return what is published for a task, by its registered name; empty for none."""
    return [one for one in PUBLISHED if one.task == task]
