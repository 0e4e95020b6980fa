"""Settings that were chosen for so many worlds, scaled to another number of them.

After Beukman et al. 2026, "Preventing Learning Stagnation in PPO by Scaling to 1 Million Parallel Environments": more worlds
lower both what stalls on-policy learning, the noise of an update (more samples between two policies) and its size (each
sample is one of more that pull, against the same regularisation), as long as the inner loop stays as it was: minibatches of
the same size, the same learning rate, rollout, passes and clip. So for s = worlds / reference_worlds

    minibatches' = max(1, round(s minibatches)),      lr' = lr sqrt(s minibatches / minibatches')

and updates per environment step stay what they were. To keep the number of minibatches instead (the naive way) makes them s
times as large, and s times fewer updates of the same step from the same steps of experience. The root is 1 wherever s gives
whole minibatches; with fewer worlds than fill one minibatch it keeps the noise of Adam's steps, which goes with lr^2 / batch
(Malladi et al. 2022). The same factor scales the range of an adaptive learning rate.
"""

from __future__ import annotations

import math

from robopolicy.training.on_policy_config import OnPolicyTraining


def scaled(training: OnPolicyTraining) -> OnPolicyTraining:
    """Return ``training`` for its own number of worlds, if it says for how many its settings were chosen.

    What is returned was chosen for its own number: scaling it again changes nothing, and as part of a resolved recipe it
    trains the same again.
    """
    reference, worlds = training.reference_worlds, training.worlds
    if reference is None or reference == worlds:
        return training
    wanted = training.minibatches * worlds / reference
    minibatches = max(1, math.floor(wanted + 0.5))
    size = math.sqrt(wanted / minibatches)  # root of the ratio of the minibatches' sizes
    low, high = training.lr_range
    return training.model_copy(
        update={"minibatches": minibatches, "lr": training.lr * size, "lr_range": (low * size, high * size), "reference_worlds": worlds},
    )


def minibatch_size(training: OnPolicyTraining) -> float:
    """Return the mean number of samples of a minibatch, over all processes."""
    return training.worlds * training.rollout / training.minibatches


def updates_per_step(training: OnPolicyTraining) -> float:
    """Return gradient steps per environment step."""
    return training.epochs * training.minibatches / (training.worlds * training.rollout)
