"""What Bullet's contacts do not know of joints: the inertia of rotors (``armature``), and damping taken implicitly.

Bullet answers a tick's forces with the constraint forces c (contacts, limits, dry friction) of links whose inertia is M. The robot's is
H = M + R, with R the rotors and the timestep times the damping of each joint. With the joint forces

    f(c) = f0 - R H^-1 c,    f0 = what gives MuJoCo's acceleration where nothing touches,

Bullet's tick is that of the robot, for the c of this same tick: a fixed point. Where a contact holds, the last tick's c is it already;
where one begins or ends, the tick is repeated with better guesses. Each repetition alone comes nearer by R / (M + R) only (a foot of
0.02 kg m2 behind a rotor of 0.1 takes dozens), so they are extrapolated: Anderson 1965, "Iterative procedures for nonlinear integral
equations".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TRIES = 14
SETTLED = 2e-3  # m/s and rad/s by which velocities may be wrong
SETTLED_SHARE = 0.01  # of what the constraints do to them
_HISTORY = 5  # guesses that are extrapolated from
_WORSE = 2.0  # times the best: begin anew from that

#: One tick of worlds (A,) with joint forces (A, nv) from the state that it began with: returns the velocities (A, nv) after it.
Tick = Callable[[np.ndarray, np.ndarray], np.ndarray]


def rotor_inertia(model: Any, armature: np.ndarray, damping: np.ndarray, bias: np.ndarray, gear: np.ndarray) -> np.ndarray:
    """Return R (N, nv), kg m2 or kg, of N worlds: armature, and what MuJoCo's integrator takes implicitly of joints and their servos.

    Args:
        model: ``mujoco.MjModel``.
        armature: (N, nv).
        damping: (N, nv).
        bias: (N, nu, 10) ``actuator_biasprm``.
        gear: (N, nu, 6).
    """
    import mujoco

    mj: Any = mujoco
    flags, step = mj.mjtDisableBit, float(model.opt.timestep)
    euler = model.opt.integrator == int(mj.mjtIntegrator.mjINT_EULER)
    implicit = not (euler and model.opt.disableflags & int(flags.mjDSBL_EULERDAMP)) and not model.opt.disableflags & int(flags.mjDSBL_DAMPER)
    out = armature + (step if implicit else 0.0) * damping
    joint = np.flatnonzero(model.actuator_trntype == int(mj.mjtTrn.mjTRN_JOINT))
    if joint.size and not euler and not model.opt.disableflags & int(flags.mjDSBL_ACTUATION):
        for k in joint.tolist():  # a joint may have several servos
            out[:, model.jnt_dofadr[model.actuator_trnid[k, 0]]] += step * np.maximum(-bias[:, k, 2], 0.0) * gear[:, k, 0] ** 2
    free = model.jnt_type[model.dof_jntid] == int(mj.mjtJoint.mjJNT_FREE) if model.nv else np.zeros(0, bool)
    return np.where(free, 0.0, out)


def settle(tick: Tick, again: Callable[[np.ndarray], None], inertia: np.ndarray, rotors: np.ndarray, force: np.ndarray, bias: np.ndarray,
           before: np.ndarray, reaction: np.ndarray, timestep: float) -> np.ndarray:  # fmt: skip
    """Advance K worlds by a tick of their robots; returns the generalized forces (K, nv) of the constraints in it.

    Args:
        tick: Bullet's.
        again: Takes back the last tick of worlds (A,).
        inertia: M (K, nv, nv).
        rotors: R (K, nv).
        force: f0 (K, nv).
        bias: (K, nv) of gravity, Coriolis and centrifugal forces.
        before: (K, nv) velocities.
        reaction: (K, nv) the first guesses, of the tick before.
        timestep: s.
    """
    total, eye = inertia.copy(), np.arange(inertia.shape[1])
    total[:, eye, eye] += rotors
    whole = np.linalg.inv(total)  # H^-1
    wrongs = timestep * np.einsum("kij,kj,kjl->kil", np.linalg.inv(inertia), rotors, whole)  # of a force: what it does to velocities by being wrong
    out, searches, rows, guess = np.zeros_like(force), {}, np.arange(len(force)), reaction
    for number in range(TRIES):
        sent = force[rows] - rotors[rows] * np.einsum("kij,kj->ki", whole[rows], guess)
        after = tick(rows, sent)
        answer = np.einsum("kij,kj->ki", inertia[rows], (after - before[rows]) / timestep) + bias[rows] - sent
        out[rows] = answer
        off = answer - guess
        wrong = np.abs(np.einsum("kij,kj->ki", wrongs[rows], off)).max(axis=1, initial=0.0)
        small = SETTLED + SETTLED_SHARE * timestep * np.abs(np.einsum("kij,kj->ki", whole[rows], answer)).max(axis=1, initial=0.0)
        left = np.flatnonzero(wrong >= small)
        if number == TRIES - 1 or not left.size:
            break
        rows = rows[left]
        again(rows)
        found = []
        for k, row in zip(left, rows.tolist(), strict=True):
            search = searches.setdefault(row, _Search(whole[row]))
            found.append(search.next(guess[k], off[k], float(wrong[k]), last=number == TRIES - 2))
        guess = np.array(found)
    return out


class _Search:
    """The guesses of one world in one tick, and what they were off by; ``whole`` is H^-1 (nv, nv)."""

    def __init__(self, whole: np.ndarray) -> None:
        self.whole, self.scale = whole, np.sqrt(np.diag(whole))
        self.guesses: list[np.ndarray] = []
        self.offs: list[np.ndarray] = []
        self.least, self.best = np.inf, np.zeros(len(whole))

    def next(self, guess: np.ndarray, off: np.ndarray, wrong: float, last: bool) -> np.ndarray:
        """Take in a guess (nv,), what it was off by (nv,), how ``wrong`` velocities were with it; return the next, or the best as ``last``."""
        worse = wrong > _WORSE * self.least
        if wrong < self.least:
            self.least, self.best = wrong, guess
        if last:
            return self.best
        self.guesses, self.offs = [*self.guesses[-_HISTORY + 1 :], guess], [*self.offs[-_HISTORY + 1 :], off]
        if worse:
            k = int(np.argmin([np.abs(self.whole @ one).max() for one in self.offs]))
            self.guesses, self.offs = [self.guesses[k]], [self.offs[k]]
            return self.guesses[0] + self.offs[0]
        if len(self.guesses) == 1:
            return guess + off
        moved, changed = np.diff(self.guesses, axis=0), np.diff(self.offs, axis=0)
        share = np.linalg.lstsq((changed * self.scale).T, off * self.scale, rcond=1e-6)[0]
        return guess + off - share @ (moved + changed)
