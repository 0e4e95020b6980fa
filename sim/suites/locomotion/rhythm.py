"""An expert that beats time: joints follow sine waves, corrected by what the body feels, through torques of a PD law.

Central pattern generators in their simplest form: Ijspeert 2008, "Central pattern generators for locomotion control in animals
and robots". The phase is the time of the episode, so what it does depends on the present state alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rhythm:
    """Sine waves of J joints and how F felt numbers move their middles.

    Attributes:
        frequency: Of all waves, Hz.
        middle: (J,) rad.
        swing: (J,) amplitudes, rad.
        phase: (J,) rad.
        stiffness: Torque, of 1, for each rad off.
        damping: Torque, of 1, for each rad/s.
        feedback: (J, F) rad for each unit of what is felt.
        steer: (J,) share of the amplitude for each rad off the course, to the left.
    """

    frequency: float
    middle: tuple[float, ...]
    swing: tuple[float, ...]
    phase: tuple[float, ...]
    stiffness: float
    damping: float
    feedback: tuple[tuple[float, ...], ...] = ()
    steer: tuple[float, ...] = ()

    def torques(
        self, time: np.ndarray, joints: np.ndarray, velocities: np.ndarray, felt: np.ndarray | None = None, course: np.ndarray | None = None
    ) -> np.ndarray:
        """Return actions (N, J) in [-1, 1].

        Args:
            time: (N,) s since the beginning.
            joints: (N, J) rad.
            velocities: (N, J) rad/s.
            felt: (N, F), or None without feedback.
            course: (N,) rad that the body heads to the left of where it should, or None without steering.
        """
        wave = np.asarray(self.swing) * np.sin(2 * np.pi * self.frequency * time[:, None] + np.asarray(self.phase))
        if course is not None and self.steer:
            wave = wave * np.clip(1.0 + course[:, None] * np.asarray(self.steer), 0.0, 1.5)
        wanted = np.asarray(self.middle) + wave
        if felt is not None and self.feedback:
            wanted = wanted + (felt[:, None, :] * np.asarray(self.feedback)).sum(axis=2)
        return np.clip(self.stiffness * (wanted - joints) - self.damping * velocities, -1.0, 1.0)
