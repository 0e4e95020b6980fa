"""Gymnasium's walking robots (v5) as batched worlds: the same models, observations and rewards, N at a time.

Half-cheetah, Ant and Humanoid: Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage
Estimation", and Tassa et al. 2012; Hopper and Walker: Erez et al. 2011. Definitions: the v5 environments of Towers et al. 2024,
"Gymnasium: A Standard Interface for Reinforcement Learning Environments", whose model files are read from that package.
"""

from sim.registry import Entry, modules_entries


def entries() -> list[Entry]:
    """Return the tasks of every module of this package."""
    return modules_entries(__name__)
