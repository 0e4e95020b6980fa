"""Joint impedance: torques that make each joint a spring and a damper around a target, gravity carried apart.

tau = K (q_d - q) - D q' + bias (Hogan 1985, "Impedance Control"), cut to what the drive takes and to how fast it may change.
Array code over (N, n), each row on its own. Torch-free.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from policies.spec import InputError


class JointImpedance:
    """Springs and dampers on n joints.

    With a constant target and no limit reached, the energy of arm and spring only falls: the joint is passive.

    Args:
        stiffness: K (n,), N m/rad (N/m on slides).
        damping: D (n,), N m s/rad.
        torque: Largest magnitude (n,), N m.
        torque_rate: Largest change per second (n,), N m/s.
        rate_hz: Rate of :meth:`step`.

    Raises:
        InputError: if a number is negative or not finite, or a limit is not positive.
    """

    def __init__(self, stiffness: ArrayLike, damping: ArrayLike, torque: ArrayLike, torque_rate: ArrayLike, rate_hz: float) -> None:
        given = {"stiffness": stiffness, "damping": damping, "torque": torque, "torque_rate": torque_rate}
        arrays = dict(zip(given, np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, np.float64)) for v in given.values())), strict=True))
        for name, array in arrays.items():
            least = 0 if name in ("stiffness", "damping") else np.finfo(float).tiny
            wrong = ~(array >= least) | (np.isinf(array) if name in ("stiffness", "damping") else False)
            if wrong.any():
                joint = int(np.flatnonzero(wrong)[0])
                raise InputError(f"impedance: {name} of joint {joint}: expected a number {'from' if least == 0 else 'above'} 0, found {array[joint]:g}")
        if not rate_hz > 0:
            raise InputError(f"impedance: expected a rate above 0 Hz, found {rate_hz:g}")
        self.stiffness, self.damping, self.torque = arrays["stiffness"], arrays["damping"], arrays["torque"]
        self.torque_step = arrays["torque_rate"] / rate_hz

    def start(self, bias: np.ndarray) -> np.ndarray:
        """Return the state (N, n) of drives that carry ``bias`` (N, n), N m, and nothing else: the torque sent last."""
        return np.clip(np.array(bias, np.float64), -self.torque, self.torque)

    def step(self, state: np.ndarray, target: np.ndarray, position: np.ndarray, velocity: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the torques (N, n) of this tick, and the state after it.

        Args:
            state: (N, n) of the tick before.
            target: Positions q_d (N, n), rad.
            position: Measured (N, n), rad.
            velocity: Measured (N, n), rad/s.
            bias: Gravity, Coriolis and centrifugal torques (N, n) of the measured state, N m; zeros where the drive carries them.

        Raises:
            ValueError: if a number is not finite or a shape is not the state's.
        """
        for name, array in (("target", target), ("position", position), ("velocity", velocity), ("bias", bias)):
            if np.shape(array) != state.shape:
                raise ValueError(f"impedance: {name}: expected shape {state.shape}, found {np.shape(array)}")
            if not np.isfinite(array).all():
                raise ValueError(f"impedance: {name}: expected finite numbers")
        wanted = self.stiffness * (target - position) - self.damping * velocity + bias
        torque = np.clip(np.clip(wanted, -self.torque, self.torque), state - self.torque_step, state + self.torque_step)
        return torque, torque


def critical_damping(stiffness: np.ndarray, inertia: np.ndarray, ratio: float = 1.0) -> np.ndarray:
    """Return D = 2 ratio sqrt(K M) (n,) for stiffness K (n,), N m/rad, and the diagonal of the inertia M (n,), kg m^2."""
    return 2 * ratio * np.sqrt(np.asarray(stiffness, np.float64) * np.asarray(inertia, np.float64))
