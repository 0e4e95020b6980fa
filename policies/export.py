"""Export to ONNX: a policy as one graph of fixed steps that a robot runs without torch.

The walk from noise to a plan is unrolled: step lists are constants of the graph, normalisation and action transforms are
inside, observations go in as they are measured and actions come out in robot units. Random numbers are inputs: policies
draw them by name (row key, draw index), so the robot makes the same ones with ``policies.noise.NumpyNoise``.

A policy that differentiates inside (an energy, a vector-Jacobian product) is traced through its own backward pass, for one
batch size. What decides by the value of a tensor how many steps to take cannot be a fixed graph and is refused. What a policy
remembers (``policies.networks.memory``) is an input and an output; other states, such as a method's last plan, are refused.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, NamedTuple

import torch

from policies.learnt import LearntPolicy
from policies.noise import Noise
from policies.spec import InputError

#: Where the description of a policy stands in the file's metadata, and its version: 2 where a state goes in and comes out.
METADATA, FORMAT, STATEFUL_FORMAT = "robopolicy", 1, 2
_EXAMPLE_ROWS = 3  # of the observations that the graph is traced with; any number but 0 and 1, which would be constants


class Draw(NamedTuple):
    """One call of a policy for random numbers: ``normal``, ``uniform`` or ``integers`` (below ``high``), (B, *shape)."""

    number: int
    kind: str
    shape: tuple[int, ...]
    high: int = 0


class _Recorder(Noise):
    """Noise that remembers what was drawn."""

    def __init__(self, keys: torch.Tensor) -> None:
        super().__init__(keys)
        self.draws: list[Draw] = []

    def normal(self, *shape: int) -> torch.Tensor:
        self.draws.append(Draw(self.draw, "normal", shape))
        return super().normal(*shape)

    def uniform(self, *shape: int) -> torch.Tensor:
        self.draws.append(Draw(self.draw, "uniform", shape))
        return super().uniform(*shape)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        self.draws.append(Draw(self.draw, "integers", shape, high))
        return super().integers(high, *shape)


class _Given(Noise):
    """Noise that was drawn before, handed out in the order in which it was recorded."""

    def __init__(self, keys: torch.Tensor, draws: Sequence[torch.Tensor]) -> None:
        self.keys, self.draw = keys, 0
        self._left = iter(draws)

    def normal(self, *shape: int) -> torch.Tensor:
        return next(self._left)

    def uniform(self, *shape: int) -> torch.Tensor:
        return next(self._left)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        return next(self._left)


class _Graph(torch.nn.Module):
    """The policy as a function of tensors alone: observations, states, random numbers -> actions, what the plan says beside them, states."""

    def __init__(self, policy: LearntPolicy, names: tuple[str, ...], carried: tuple[str, ...]) -> None:
        super().__init__()
        self.policy, self.names, self.carried = policy, names, carried

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        obs, rest = dict(zip(self.names, tensors, strict=False)), tensors[len(self.names) :]
        state, draws = dict(zip(self.carried, rest, strict=False)), rest[len(self.carried) :]
        plan, state = self.policy.act(obs, state, _Given(tensors[0].flatten(1)[:, 0], draws))
        return (plan.actions, *(plan.info[name] for name in sorted(plan.info)), *(state[name] for name in self.carried))


def to_onnx(policy: LearntPolicy, about: Mapping[str, Any]) -> bytes:
    """Return ``policy`` (in eval mode, on the CPU) as an ONNX file; needs the packages onnx and onnxscript.

    Inputs are the observation fields (B, To, *shape), ``state.NAME`` (B, *shape) of a policy that remembers, zeros at first, and
    ``noise.0``, ``noise.1``, ... (B, *shape); outputs ``actions`` (B, Ta, Da) in robot units, ``info.NAME`` (B,) and
    ``next.NAME``, the states to give next. The metadata entry ``robopolicy`` holds, as JSON, what else is needed to act:
    ``spec``, ``n_obs_steps``, ``horizon``, ``n_action_steps``, ``network_calls``, ``batch`` (null: any), ``state``, ``noise`` and
    ``about``.

    Args:
        policy: What to export.
        about: More for the metadata, JSON-ready, e.g. name and fingerprint of the checkpoint.

    Raises:
        InputError: one line, if the policy carries another state than a memory from call to call, or cannot be a fixed graph.
    """
    name = type(policy).__name__
    state = policy.initial_state(_EXAMPLE_ROWS)
    if state and not getattr(policy, "recurrent", False):
        carried = ", ".join(policy.initial_state(1))
        raise InputError(f"export: {name} carries {carried} from call to call, which a fixed graph cannot; export the policy alone or serve the checkpoint")
    obs = example_observations(policy, _EXAMPLE_ROWS)
    recorder = _Recorder(torch.arange(_EXAMPLE_ROWS))
    plan, _ = policy.act(obs, state, recorder)
    description = {
        "format": STATEFUL_FORMAT if state else FORMAT,
        "spec": policy.spec.to_dict(),
        "spec_fingerprint": policy.spec.fingerprint(),
        "fields": list(obs),
        "n_obs_steps": policy.n_obs_steps,
        "horizon": policy.horizon,
        "n_action_steps": policy.n_action_steps,
        "network_calls": float(plan.info["network_calls"].max()),  # for one observation; each plan says its own
        "state": [{"name": n, "shape": list(v.shape[1:]), "dtype": str(v.dtype).removeprefix("torch.")} for n, v in state.items()],
        "noise": [{"name": f"noise.{i}", **draw._asdict()} for i, draw in enumerate(recorder.draws)],
        "info": sorted(plan.info),
        "about": dict(about),
    }
    graph = _Graph(policy, tuple(obs), tuple(state))
    inputs = (*obs.values(), *state.values(), *replay(recorder.draws, recorder.keys))
    attempts: tuple[tuple[int | None, Callable[[], Any]], ...] = (
        (None, lambda: _export(graph, inputs, description, any_batch=True)),
        (1, lambda: _export(_traced(graph, tuple(x[:1] for x in inputs)), tuple(x[:1] for x in inputs), description, any_batch=False)),
    )
    causes = []
    for batch, attempt in attempts:
        description["batch"] = batch
        try:
            with _quiet():
                return attempt()
        except ImportError:
            raise
        except Exception as error:  # the exporter raises errors of every kind, some with pages of text
            causes.append(_first_line(error))
    raise InputError(f"export: {name} cannot be a fixed graph: {causes[-1]}; serve its checkpoint instead") from None


def example_observations(policy: LearntPolicy, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return observations (rows, To, *shape) of the right kinds with random contents, robot units."""
    noise = Noise(torch.arange(rows) + (seed << 32))
    out = {}
    for name, field in policy.spec.observation.fields.items():
        shape = (policy.n_obs_steps, *field.shape)
        out[name] = noise.integers(256, *shape).to(torch.uint8) if field.dtype == "uint8" else noise.normal(*shape).to(getattr(torch, field.dtype))
    return out


def replay(draws: Sequence[Draw], keys: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the random numbers that rows with ``keys`` (B,) draw, each (B, *shape)."""
    out = []
    for draw in draws:
        noise = Noise(keys, draw=draw.number)
        out.append(noise.integers(draw.high, *draw.shape) if draw.kind == "integers" else getattr(noise, draw.kind)(*draw.shape))
    return tuple(out)


def _export(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], description: dict[str, Any], any_batch: bool) -> bytes:
    """Return the file of one module over ``inputs``."""
    states = [one["name"] for one in description["state"]]
    names = [*description["fields"], *(f"state.{name}" for name in states), *(draw["name"] for draw in description["noise"])]
    outputs = ["actions", *(f"info.{name}" for name in description["info"]), *(f"next.{name}" for name in states)]
    shapes = (tuple({0: torch.export.Dim("batch")} for _ in inputs),) if any_batch else None
    with torch.no_grad():
        exported = torch.export.export(module, inputs, dynamic_shapes=shapes)
        program = torch.onnx.export(exported, input_names=names, output_names=outputs, dynamo=True, verbose=False)
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(description)
    return program.model_proto.SerializeToString()


def _traced(graph: _Graph, inputs: tuple[torch.Tensor, ...]) -> torch.nn.Module:
    """Return the graph of plain tensor operations that ``graph`` runs, those of its own backward passes included."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        return make_fx(graph, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress report and warnings to itself."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _first_line(error: BaseException) -> str:
    """Return the first line that says what happened, of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
