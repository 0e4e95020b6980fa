"""The policy of a run: the client of a server, an exported file, or a checkpoint in this process.

Torch is imported for a checkpoint alone.
"""

from __future__ import annotations

from pathlib import Path

from policies.base import Policy
from policies.spec import InputError
from real.policy import AsyncPolicy
from robopolicy.teleoperation import NOBODY


def open_policy(policy: str, threads: int = 1, method: str | None = None, keys: str | None = None) -> AsyncPolicy:
    """Return the client of a server address, or the exported file or checkpoint (or a run's last) loaded into this process.

    Args:
        policy: Address, file or folder.
        threads: Of a policy in this process.
        method: How a checkpoint is executed (``robopolicy.execution``); None: as it says.
        keys: Folder of this robot's keys (``robopolicy keys``), for a server on another machine.

    Raises:
        InputError: if there is no policy.
    """
    if "://" in policy:
        from real.client import PolicyClient

        return PolicyClient(policy, keys=keys)
    from real.policy import LocalPolicy

    return LocalPolicy(load_local(policy, threads, method)[0])


def load_local(path: str | Path, threads: int = 1, method: str | None = None, device: str = "cpu", weights: str | None = None) -> tuple[Policy, str]:
    """Return the policy of an exported file, or of a checkpoint (or a run's last), and what it is called.

    Args:
        path: File ``*.onnx``, which needs no torch, or folder.
        threads: Of one call.
        method: How a checkpoint is executed (``robopolicy.execution``); None: as it says.
        device: Torch device of a checkpoint.
        weights: Number format of a checkpoint's weights on the CPU (``policies.inference``); None: as trained.

    Raises:
        InputError: if there is no policy, or a file is asked for what only a checkpoint can do.
    """
    if str(path).endswith(".onnx"):
        if method is not None or weights is not None or device != "cpu":
            asked = f"method {method}" if method is not None else f"weights {weights}" if weights is not None else f"device {device}"
            raise InputError(f"{path}: an exported file runs on the CPU and as it was exported, not with {asked}; serve its checkpoint")
        from real.onnx import OnnxPolicy

        exported = OnnxPolicy(path, threads)
        return exported, f"{exported.name} {exported.fingerprint}"
    from policies.checkpoint import fingerprint
    from robopolicy.execution import load_policy, policy_name
    from robopolicy.training.run_folder import find_checkpoint

    folder = find_checkpoint(path)  # says what is wrong with the folder before torch is loaded
    name = f"{policy_name(folder, method)} {folder.name} {fingerprint(folder)}{f' {weights}' if weights else ''}"
    import torch

    torch.set_num_threads(threads)
    return load_policy(folder, device, method, weights), name


def require_there(policy: str) -> None:
    """Raise InputError, one line, unless the file or folder ``policy`` is there; who is at an address is found out by asking."""
    if "://" in policy or policy == NOBODY:
        return
    if policy.endswith(".onnx"):
        if not Path(policy).is_file():
            raise InputError(f"{policy}: no such file")
    else:
        from robopolicy.training.run_folder import find_checkpoint

        find_checkpoint(policy)
