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

#: One tick with joint forces (nv,) from the state that it began with: returns the velocities (nv,) after it.
Tick = Callable[[np.ndarray], np.ndarray]


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


def settle(
    tick: Tick, again: Callable[[], None], inertia: np.ndarray, rotors: np.ndarray, force: np.ndarray, bias: np.ndarray, before: np.ndarray,
    reaction: np.ndarray, timestep: float,
) -> np.ndarray:  # fmt: skip
    """Advance one world by a tick of its robot; returns the generalized force (nv,) of the constraints in it.

    Args:
        tick: Bullet's.
        again: Takes the last tick back.
        inertia: M (nv, nv).
        rotors: R (nv,).
        force: f0 (nv,).
        bias: (nv,) of gravity, Coriolis and centrifugal forces.
        before: (nv,) velocities.
        reaction: (nv,) the first guess, of the tick before.
        timestep: s.
    """
    whole: np.ndarray | None = None  # H^-1
    links: np.ndarray | None = None  # M^-1
    guesses: list[np.ndarray] = []
    offs: list[np.ndarray] = []
    best, chosen, guess, answer = np.inf, reaction, reaction, reaction
    for number in range(TRIES):
        if whole is None and guess.any():
            whole = np.linalg.inv(inertia + np.diag(rotors))
        sent = force if whole is None else force - rotors * (whole @ guess)
        answer = inertia @ (tick(sent) - before) / timestep + bias - sent
        off = answer - guess
        if number == TRIES - 1 or np.abs(off).max(initial=0.0) < 1e-9:
            break
        whole = np.linalg.inv(inertia + np.diag(rotors)) if whole is None else whole
        links = np.linalg.inv(inertia) if links is None else links
        wrong = timestep * float(np.abs(links @ (rotors * (whole @ off))).max())  # by how much the velocities are
        if wrong < SETTLED + SETTLED_SHARE * timestep * float(np.abs(whole @ answer).max()):
            break
        again()
        if wrong < best:
            best, chosen = wrong, guess
        if number == TRIES - 2:
            guess = chosen
            continue
        guesses, offs = [*guesses[-_HISTORY + 1 :], guess], [*offs[-_HISTORY + 1 :], off]
        guess, guesses, offs = _next(guesses, offs, whole, wrong > _WORSE * best)
    return answer


def _next(guesses: list[np.ndarray], offs: list[np.ndarray], whole: np.ndarray, worse: bool) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Return the next guess (nv,) and the guesses that stay, with what they were off by."""
    if worse:
        k = int(np.argmin([np.abs(whole @ off).max() for off in offs]))
        return guesses[k] + offs[k], [guesses[k]], [offs[k]]
    guess = guesses[-1] + offs[-1]
    if len(guesses) > 1:
        moved, changed = np.diff(guesses, axis=0), np.diff(offs, axis=0)
        scale = np.sqrt(np.diag(whole))
        share = np.linalg.lstsq((changed * scale).T, offs[-1] * scale, rcond=1e-6)[0]
        guess = guess - share @ (moved + changed)
    return guess, guesses, offs
