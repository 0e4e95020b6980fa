"""The policy of the arm's benchmarks: a flow that pushes, plans of 16 actions, trained once and kept."""

from __future__ import annotations

from pathlib import Path

TASK = "arm/push"
CHUNK, HORIZON = 16, 32  # actions executed of a plan at most; steps predicted
_SMALL = ("data.collect=4", "training.steps=20", "training.checkpoint_every=20", "policy.mlp.width=64", "policy.mlp.blocks=1")


def checkpoint(folder: Path, small: bool = False) -> Path:
    """Return the checkpoint in ``folder``, trained there if it is not: three minutes of one core; ``small``: seconds, and it cannot push.

    Raises:
        InputError: if ``folder`` holds another run.
    """
    from robopolicy.recipe import load_recipe
    from robopolicy.training.imitation import train

    given = ["data.collect=100", f"data.path={folder}/data/{{task}}", f"output={folder}/run", f"policy.horizon={HORIZON}", f"policy.n_action_steps={CHUNK}"]
    given += ["training.steps=4000", "evaluation.episodes=50", *(_SMALL if small else ())]
    return train(load_recipe("imitation/arm_push", given, note=lambda text: None)).checkpoint
