"""A policy from an ONNX file, without torch: what ``robopolicy export`` wrote, run by ONNX Runtime.

The file says itself what it reads and commands (its metadata), and its random numbers are made here from the row keys, as
torch would make them: a robot plans the same actions, up to rounding, as the checkpoint that the file came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policies.base import Execution, Plan, State, select_rows
from policies.noise import NumpyNoise
from policies.spec import InputError, Spec

_METADATA, _FORMATS = "robopolicy", (1, 2)
_KEYS = ("spec", "n_obs_steps", "horizon", "n_action_steps", "about", "noise", "batch")  # of what a file says of itself, whatever its format


class OnnxPolicy:
    """The policy protocol over numpy arrays; see ``policies.base.Policy``.

    Args:
        path: The file.
        threads: That one call may use; for small networks one is the fastest.

    Attributes:
        fingerprint: Of the checkpoint that was exported; empty if the file does not say.
        name: What was exported, e.g. ``flow step_20000``.
        draws: The random numbers that the graph takes: ``name``, ``number``, ``kind``, ``shape`` and ``high`` of each.
        batch: Rows that the graph takes at a time; None: any number.

    Raises:
        InputError: one line, if the file is missing, no ONNX file, or not one of ours.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        import onnxruntime

        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has exceptions of its own for every cause
            raise InputError(f"{path}: cannot be read as an ONNX file: {' '.join(str(error).split())[:200]}") from error
        about = _description(path, self._session.get_modelmeta().custom_metadata_map)
        self.spec = Spec.from_dict(about["spec"])
        self.n_obs_steps, self.horizon, self.n_action_steps = about["n_obs_steps"], about["horizon"], about["n_action_steps"]
        self.name, self.fingerprint = about["about"].get("name", path.stem), about["about"].get("fingerprint", "")
        self.draws, self.batch, self._carried = about["noise"], about["batch"], about.get("state", [])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def initial_state(self, batch: int) -> State:
        """Return the state of ``batch`` streams: an empty memory, of a policy that remembers."""
        return {one["name"]: np.zeros((batch, *one["shape"]), one["dtype"]) for one in self._carried}

    def reset(self, state: State, mask: np.ndarray) -> State:
        """Return ``state`` with the rows of ``mask`` (B,) bool begun anew."""
        return select_rows(state, mask, self.initial_state(len(mask)))

    def act(self, obs: Mapping[str, np.ndarray], state: State, noise: np.ndarray, execution: Execution = Execution()) -> tuple[Plan, State]:
        """Plan for B streams from field -> (B, To, *shape), robot units, and row keys (B,); see ``policies.base.Policy.act``."""
        keys = np.asarray(noise, np.int64)
        self.spec.observation.validate(obs, (len(keys), self.n_obs_steps))
        feeds = {name: np.ascontiguousarray(obs[name]) for name in self.spec.observation.fields}
        feeds |= {f"state.{one['name']}": np.ascontiguousarray(state[one["name"]]) for one in self._carried}
        for draw in self.draws:
            numbers = NumpyNoise(keys, draw["number"])
            first = (draw["high"],) if draw["kind"] == "integers" else ()
            feeds[draw["name"]] = getattr(numbers, draw["kind"])(*first, *draw["shape"])
        step = self.batch or max(len(keys), 1)  # a file for one batch size is asked as often as it takes
        parts = [self._session.run(None, {n: v[i : i + step] for n, v in feeds.items()}) for i in range(0, len(keys), step)]
        found = dict(zip(self._outputs, (np.concatenate(v) for v in zip(*parts, strict=True)), strict=True))
        info = {name[len("info.") :]: value for name, value in found.items() if name.startswith("info.")}
        return Plan(found["actions"], info), {one["name"]: found[f"next.{one['name']}"] for one in self._carried} if self._carried else state


def _description(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what the file says of itself. Raises InputError."""
    if _METADATA not in metadata:
        raise InputError(f"{path}: an ONNX file, but not one that robopolicy export wrote: it has no metadata {_METADATA!r}")
    try:
        about = json.loads(metadata[_METADATA])
    except ValueError as error:
        raise InputError(f"{path}: its metadata {_METADATA!r} is damaged: {error}; export again") from error
    if not isinstance(about, dict):
        raise InputError(f"{path}: its metadata {_METADATA!r} is damaged: expected a mapping; export again")
    if about.get("format") not in _FORMATS:
        read = ", ".join(map(str, _FORMATS))
        raise InputError(f"{path}: format {about.get('format')!r} is not one that this version reads ({read}); export again or update robopolicy")
    if lacking := [key for key in _KEYS if key not in about]:
        raise InputError(f"{path}: its metadata {_METADATA!r} is damaged: it lacks {lacking[0]!r}; export again")
    return about
