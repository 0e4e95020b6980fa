"""A checkpoint as an ONNX file: written as a whole or not at all, and only if it plans what the checkpoint plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from policies.noise import Noise, row_keys
from policies.spec import InputError
from robopolicy.data.atomic import publish, temporary
from robopolicy.execution import load_policy, policy_name
from robopolicy.training.run_folder import find_checkpoint

#: Largest deviation of an action from the checkpoint's, as a share of the largest action planned: rounding, not more.
TOLERANCE = 1e-4
_ROWS = 4


def export_onnx(checkpoint: str | Path, out: str | Path, method: str | None = None) -> dict[str, Any]:
    """Export ``checkpoint`` (a folder, or a run's last) to the file ``out``.

    Args:
        checkpoint: What to export.
        out: The file; an existing one is replaced.
        method: How the checkpoint is executed (``robopolicy.execution``); None: as it says.

    Returns:
        ``file``, ``bytes``, ``policy``, ``fingerprint``, ``network_calls``, ``batch`` (None: any), ``inputs`` and
        ``deviation``: the largest difference to the checkpoint's actions on random observations, robot units.

    Raises:
        InputError: one line, if there is no checkpoint, it cannot be a fixed graph, the file cannot be written, or it
            does not plan what the checkpoint plans.
    """
    from policies import checkpoint as checkpoints
    from policies.export import to_onnx

    folder, out = find_checkpoint(checkpoint), Path(out)
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: {'a folder, expected a file' if out.is_dir() else 'its folder does not exist'}")
    about = {"name": f"{policy_name(folder, method)} {folder.name}", "fingerprint": checkpoints.fingerprint(folder)}
    policy: Any = load_policy(folder, "cpu", method)
    body = to_onnx(policy, about)
    draft = temporary(out)
    try:
        draft.write_bytes(body)
        described = _compared(policy, draft)
        publish(out)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return {"file": str(out), "bytes": len(body), "policy": about["name"], "fingerprint": about["fingerprint"], **described}


def _compared(policy: Any, draft: Path) -> dict[str, Any]:
    """Return the deviation of the file's plans from the policy's, and what else it says of itself. Raises InputError."""
    import torch

    from policies.export import example_observations
    from real.onnx import OnnxPolicy

    exported, keys = OnnxPolicy(draft), row_keys(1, np.arange(_ROWS))
    states, deviation, largest = (policy.initial_state(_ROWS), exported.initial_state(_ROWS)), 0.0, 1.0
    network_calls = 0.0
    for call in range(2):  # the second with the state of the first
        obs = example_observations(policy, _ROWS, seed=1 + call)
        with torch.no_grad():
            wanted, carried = policy.act(obs, states[0], Noise(keys))
        plan, after = exported.act({name: value.numpy() for name, value in obs.items()}, states[1], keys)
        states, expected = (carried, after), wanted.actions.numpy()
        network_calls = float(np.max(plan.info["network_calls"]))
        deviation = max(deviation, float(np.abs(plan.actions - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not deviation <= TOLERANCE * largest:
        raise InputError(f"export: the graph plans other actions than {type(policy).__name__}: off by {deviation:.2g}; serve the checkpoint instead")
    inputs = {name: [exported.n_obs_steps, *field.shape] for name, field in exported.spec.observation.fields.items()}
    inputs |= {draw["name"]: draw["shape"] for draw in exported.draws}
    return {"network_calls": network_calls, "batch": exported.batch, "inputs": inputs, "deviation": deviation}
