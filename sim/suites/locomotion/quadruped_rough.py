"""The quadruped follows velocity commands on rough ground and sees the height of the ground around it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.episodes import Outcome
from sim.suites.locomotion import frames
from sim.suites.locomotion.quadruped import Quadruped
from sim.suites.locomotion.terrain import KINDS, LEVELS, RIM, make_terrain

SCAN_X = np.linspace(-0.6, 0.6, 13)  # m, forward
SCAN_Y = np.linspace(-0.4, 0.4, 9)  # m, left
SCAN = np.stack(np.meshgrid(SCAN_X, SCAN_Y, indexing="ij"), axis=-1).reshape(-1, 2)
FAR = 1.0  # m, beyond which a height is cut
BELOW = 1.0  # m, of the height field's own base


class QuadrupedRough(Quadruped):
    """As :class:`sim.suites.locomotion.quadruped.Quadruped`, on a patch of ground that the seed chooses by kind and by level.

    ``observation.environment_state`` (117,): height of the ground below the trunk's centre, m, on a grid of 13 x 9 points 0.1 m
    apart that turns with the heading, front last and left last; cut at 1 m.
    """

    task_name = "locomotion/quadruped-rough"
    description = "a quadruped follows velocity commands on rough ground that it sees as a height scan"
    tags = ("expert",)
    info_fields: ClassVar = {**Quadruped.info_fields, "kind": "int64", "level": "int64"}
    mirror = None  # the one map of the ground is not its own mirror image
    command_low, command_high = (-0.4, -0.2, -0.6), (0.6, 0.2, 0.6)

    def make_model(self) -> Any:
        """Return the robot of the flat task on a height field; the plane lies at the foot of its rim."""
        import mujoco

        self.terrain = make_terrain()
        spec = mujoco.MjSpec.from_file(str(self.xml_path()))  # type: ignore[attr-defined]
        elevation = self.terrain.elevation
        low, high = elevation.min(), elevation.max()
        rows, columns = elevation.shape
        field = spec.add_hfield(name="terrain", nrow=rows, ncol=columns, size=[*self.terrain.radius, high - low, BELOW])
        field.userdata = ((elevation - low) / (high - low)).ravel().tolist()
        ground = spec.geom("floor")
        ground.pos = [0.0, 0.0, -RIM]
        spec.worldbody.add_geom(
            name="terrain",
            type=mujoco.mjtGeom.mjGEOM_HFIELD,  # type: ignore[attr-defined]
            hfieldname="terrain",
            pos=[0.0, 0.0, low],
            rgba=[0.62, 0.6, 0.55, 1.0],
            contype=1,
            conaffinity=0,
        )
        return spec.compile()

    def observation_fields(self) -> dict[str, Field]:
        """Return the fields of the flat task and the scan."""
        scan = Field((len(SCAN),), unit="m", low=(-FAR,) * len(SCAN), high=(FAR,) * len(SCAN))
        return {**super().observation_fields(), "observation.environment_state": scan}

    def prepare(self) -> None:
        """Allocate what the seed chose."""
        super().prepare()
        self.kind, self.level = np.zeros((2, self.num_worlds), np.int64)

    def place(self, rows: np.ndarray, draws: Draws) -> np.ndarray:
        """Begin (K, 3) in the middle of a patch."""
        self.kind[rows], self.level[rows] = draws.integers(0, len(KINDS)), draws.integers(0, LEVELS)
        out = self.terrain.starts[self.kind[rows], self.level[rows]]
        out[:, :2] += draws.uniform(-0.2, 0.2, (2,))
        return out

    def ground(self, points: np.ndarray) -> np.ndarray:
        """Return the height (N, P), m, of the ground at ``points`` (N, P, 2)."""
        return self.terrain.heights(points)

    def scan(self) -> np.ndarray:
        """Return the heights (N, 117), m, of the ground around each robot, from the middle of its trunk."""
        cos, sin = frames.heading(frames.rotations(self.qpos[:, 3:7]))
        points = np.empty((self.num_worlds, len(SCAN), 2))
        points[..., 0] = self.qpos[:, :1] + cos[:, None] * SCAN[:, 0] - sin[:, None] * SCAN[:, 1]
        points[..., 1] = self.qpos[:, 1:2] + sin[:, None] * SCAN[:, 0] + cos[:, None] * SCAN[:, 1]
        return self.ground(points) - self.qpos[:, 2:3]

    def judge(self, action: np.ndarray) -> Outcome:
        """Judge as on flat ground, and say which ground it was."""
        outcome = super().judge(action)
        outcome.info.update(kind=self.kind, level=self.level)
        return outcome

    def observe(self, out: Observation) -> None:
        """Add the scan."""
        super().observe(out)
        if "observation.environment_state" in out:
            out["observation.environment_state"][:] = np.clip(self.scan(), -FAR, FAR)


TASKS = (QuadrupedRough,)
