"""The quadrotor that all tasks of the suite fly: its actions, the loop inside it, its observation, and what counts as crashed.

An action is a collective thrust and three body rates, what flight controllers take from whatever flies them: a policy need not be fast
enough to balance four rotors, and of the usual choices this one lost least between model and machine (Kaufmann, Bauersfeld and
Scaramuzza 2022, "A Benchmark Comparison of Learned Control Policies for Agile Quadrotor Flight"). A rate loop at 250 Hz, array code
over all worlds, makes rotor thrusts of it: rotor dynamics and saturation stay in the simulation.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np

from policies.spec import Field
from sim.draws import Draws
from sim.env import Observation
from sim.task import MujocoTask

RATE_HZ, SUBSTEPS = 50.0, 5  # of actions; turns of the rate loop per action
RATE_GAIN = 20.0  # 1/s, of the rate loop: torque per inertia and error of the rate
LARGEST_RATE = (8.0, 8.0, 4.0)  # rad/s
GRAVITY = 9.81  # m/s^2
LOWEST, FARTHEST = 0.12, 4.0  # m: nearer to the floor or farther from the origin the flight is over

_AHEAD, _BEHIND = [1, 2, 0], [2, 0, 1]  # of a cross product
ROTORS = ("rotor_fl", "rotor_rl", "rotor_rr", "rotor_fr")
_XYZ = ("x", "y", "z")
_NAMES = (
    *(f"position.{axis}" for axis in _XYZ), *(f"rotation.{row}{column}" for row in _XYZ for column in _XYZ),
    *(f"velocity.{axis}" for axis in _XYZ), *(f"rate.{axis}" for axis in _XYZ), *ROTORS,
)  # fmt: skip


class Airframe:
    """Mass, inertia and rotors of the body ``quadrotor`` of a model.

    Args:
        model: ``mujoco.MjModel``.

    Attributes:
        mass: kg.
        inertia: (3, 3) about the centre of mass, in the frame of the body, kg m^2.
        offset: (3,) of the centre of mass in that frame, m.
        largest: Thrust of one rotor, N.
        mixing: (4, 4): collective thrust, N, and torques about the centre of mass, N m, of the rotors' thrusts, N.
        unmixing: Its inverse.
        shares: Its inverse per largest thrust: controls (4,) of collective thrust and torques (4,).
        gain: (3, 1) torque per error of the body rates, N m s.
        gyration: (3, 1) w x J w is that times (w_y w_z, w_z w_x, w_x w_y): the body's axes are its principal ones.
    """

    def __init__(self, model: Any) -> None:
        import mujoco

        mj: Any = mujoco
        body = model.body("quadrotor").id
        turned = np.zeros(9)
        mj.mju_quat2Mat(turned, model.body_iquat[body])
        axes = turned.reshape(3, 3)
        self.mass, self.inertia = float(model.body_mass[body]), axes @ np.diag(model.body_inertia[body]) @ axes.T
        self.offset = model.body_ipos[body].copy()
        columns = []
        for name in ROTORS:
            gear, place = model.actuator(name).gear, model.site(name).pos - self.offset
            columns.append([gear[2], *(np.cross(place, gear[:3]) + gear[3:])])
        self.mixing = np.array(columns).T
        self.unmixing = np.linalg.inv(self.mixing)
        self.largest = float(model.actuator(ROTORS[0]).gainprm[0])
        self.shares = self.unmixing / self.largest
        moments = np.diag(self.inertia)
        self.gain, self.gyration = RATE_GAIN * moments[:, None], (moments[_BEHIND] - moments[_AHEAD])[:, None]


class Quadrotor(MujocoTask):
    """N quadrotors; a task says where to and what for.

    Action: ``thrust``, of all rotors together, N, and ``body_rate`` (3,), rad/s, about the body's x, y, z.
    ``observation.state`` (22,): position in m, rotation matrix by rows, velocity in m/s, body rates in rad/s, and the rotors' thrusts as
    shares of the largest.

    Attributes:
        airframe: See :class:`Airframe`.
    """

    tags = ("expert",)
    xml = "quadrotor.xml"
    rate_hz = RATE_HZ
    camera = "front"
    rewards = ("dense", "sparse")
    goals_shown = 1  # markers of goals in the scene

    def make_model(self) -> Any:
        """Return the ``mujoco.MjModel`` of the vehicle over its floor, with markers of goals and what the task adds."""
        import mujoco

        mj: Any = mujoco
        scene = mj.MjSpec.from_file(str(self.xml_path()))
        for k in range(self.goals_shown):
            marker = scene.worldbody.add_body(name=f"goal{k}", mocap=True)
            shade = 0.5 + 0.45 * k / max(self.goals_shown - 1, 1)
            marker.add_geom(type=mj.mjtGeom.mjGEOM_SPHERE, size=[0.06, 0, 0], rgba=[0.1, shade, 0.3, 0.7], contype=0, conaffinity=0)
        self.furnish(scene)
        return scene.compile()

    def furnish(self, scene: Any) -> None:
        """Add to the ``mujoco.MjSpec`` of the scene; nothing by default."""

    def observation_fields(self) -> dict[str, Field]:
        """Return the state of the vehicle."""
        return {"observation.state": Field((len(_NAMES),), unit="m, 1, m/s, rad/s", names=_NAMES)}

    def action_fields(self) -> dict[str, Field]:
        """Return collective thrust and body rates."""
        most = 4 * float(self.model.actuator(ROTORS[0]).gainprm[0])
        rates = tuple(-rate for rate in LARGEST_RATE)
        return {
            "thrust": Field((1,), unit="N", low=(0.0,), high=(most,), kind="effort", names=("thrust",)),
            "body_rate": Field((3,), unit="rad/s", low=rates, high=LARGEST_RATE, kind="velocity", names=("rate.x", "rate.y", "rate.z")),
        }

    def prepare(self) -> None:
        """Bind what is read after every step."""
        self.airframe = Airframe(self.model)
        self._thrusts = self.engine.bind("act")  # (N, 4) shares of the largest thrust
        self._frames = self.engine.bind("xmat").reshape(self.num_worlds, self.model.nbody, 9)
        self._body = self.model.body("quadrotor").id
        self._markers = self.engine.bind("mocap_pos") if self.model.nmocap else np.zeros((self.num_worlds, 0, 3))

    @property
    def position(self) -> np.ndarray:
        """(N, 3) of the body's frame, m."""
        return self.qpos[:, :3]

    @property
    def velocity(self) -> np.ndarray:
        """(N, 3) in the world, m/s."""
        return self.qvel[:, :3]

    @property
    def rates(self) -> np.ndarray:
        """(N, 3) in the frame of the body, rad/s."""
        return self.qvel[:, 3:6]

    @property
    def rotation(self) -> np.ndarray:
        """(N, 3, 3) from the body's frame to the world's."""
        return self._frames[:, self._body].reshape(-1, 3, 3)

    def begin_flight(self, rows: np.ndarray, draws: Draws, position: np.ndarray, tilt: float, speed: float) -> None:
        """Let worlds ``rows`` (K,) fly at ``position`` (K, 3), tilted and turned by up to ``tilt``, rad, up to ``speed``, m/s and rad/s."""
        half = 0.5 * draws.uniform(-tilt, tilt, (3,))
        self.qpos[rows, :3], self.qpos[rows, 4:7] = position, half
        self.qpos[rows, 3] = np.sqrt(1.0 - (half * half).sum(axis=1))
        self.qvel[rows, :6] = draws.uniform(-speed, speed, (6,))
        self.ctrl[rows] = self._thrusts[rows] = self.airframe.mass * GRAVITY / (4 * self.airframe.largest)

    def play(self, rows: np.ndarray | None, action: np.ndarray) -> None:
        """Close the rate loop over collective thrust and body rates ``action`` (N, 4); see :func:`rotor_shares`."""
        ticks = self.ticks // SUBSTEPS
        for substep in range(SUBSTEPS):
            self.ctrl[:] = rotor_shares(self.airframe, action, self.rates)
            self.engine.step(rows, ticks, self.fresh and substep == SUBSTEPS - 1)

    def crashed(self) -> np.ndarray:
        """Return which worlds (N,) bool have come near the floor, flown away or turned over."""
        position = self.position
        return (position[:, 2] < LOWEST) | (np.abs(position).max(axis=1) > FARTHEST) | (self._frames[:, self._body, 8] < 0.0)

    def observe(self, out: Observation) -> None:
        """Write the state of the vehicle."""
        state = out["observation.state"]
        state[:, :3], state[:, 3:12], state[:, 12:18], state[:, 18:] = self.position, self._frames[:, self._body], self.qvel[:, :6], self._thrusts


def rotor_shares(airframe: Airframe, action: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Return the rotors' controls (N, 4) in [0, 1] for ``action`` (N, 4), collective thrust and body rates, at ``rates`` (N, 3).

    The torque is that of a proportional controller of the rates plus what keeps the present rates, w x J w. Where rotors saturate,
    each is cut for itself.
    """
    rate, wanted = rates.T, action.T  # (3, N) and (4, N): long rows are fast, and sums by hand are the same bits for every N
    torque = airframe.gain * (wanted[1:] - rate) + airframe.gyration * (rate[_AHEAD] * rate[_BEHIND])
    share = airframe.shares
    out = share[:, 0:1] * wanted[0] + share[:, 1:2] * torque[0] + share[:, 2:3] * torque[1] + share[:, 3:4] * torque[2]
    return np.minimum(np.maximum(out, 0.0), 1.0).T
