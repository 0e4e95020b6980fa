"""Sums over processes that learn by trial together: what two have is what one would have had."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.spec import InputError
from robopolicy.training.launch import launch
from robopolicy.training.trial_processes import Processes, processes

#: Runs in every process: minibatches of a linear model whose rows are shared, statistics, flags.
PROGRAM = """
import json, os, sys
import torch
from robopolicy.training.trial_processes import processes

torch.manual_seed(0)
rows, wanted = torch.randn(12, 3) * 5 + 100, torch.randn(12)
weight, unused = torch.nn.Parameter(torch.randn(3)), torch.nn.Parameter(torch.ones(2))
with processes() as others:
    mine = others.worlds(12)
    mine = slice(mine.start, mine.stop)
    loss = ((rows[mine] @ weight - wanted[mine]).square()).sum() / 12
    loss.backward()
    if others.first:
        (unused.sum() * 3).backward()
    told = loss.detach().reshape(1).clone()
    others.sum_gradients([weight, unused], [told])
    found = others.moments(rows[mine])
    flags = [others.any(False), others.any(others.rank == others.count - 1)]
    others.wait()
    if others.first:
        values = {"loss": told.item(), "gradient": weight.grad.tolist(), "unused": unused.grad.tolist(), "count": found.count,
                  "mean": found.mean.tolist(), "variance": found.variance.tolist(), "flags": flags, "processes": others.count}
        open(sys.argv[1], "w").write(json.dumps(values))
"""


def test_sums_over_processes_are_those_of_one(tmp_path: Path) -> None:
    count, program, out = 3, tmp_path / "program.py", tmp_path / "out.json"
    program.write_text(PROGRAM)
    assert launch([sys.executable, str(program), str(out)], count) == 0
    found = json.loads(out.read_text())
    torch.manual_seed(0)
    rows, wanted = torch.randn(12, 3) * 5 + 100, torch.randn(12)
    weight = torch.nn.Parameter(torch.randn(3))
    loss = (rows @ weight - wanted).square().mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    assert found["processes"] == count
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
    np.testing.assert_allclose(found["gradient"], gradient.numpy(), rtol=1e-6)
    assert found["unused"] == [3.0, 3.0]
    assert found["count"] == 12
    np.testing.assert_allclose(found["mean"], rows.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["variance"], rows.double().var(0, correction=0), rtol=1e-9)
    assert found["flags"] == [False, True]


def test_every_world_belongs_to_one_process() -> None:
    for total, count in ((2, 2), (7, 3), (64, 4), (100, 7)):
        parts = [Processes(rank, count).worlds(total) for rank in range(count)]
        assert [world for part in parts for world in part] == list(range(total))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_more_processes_than_worlds_are_refused() -> None:
    with pytest.raises(InputError, match=r"training\.worlds=2 cannot be shared by 3 processes: choose at least 3"):
        Processes(0, 3).worlds(2)


def test_one_process_sends_nothing() -> None:
    with processes() as alone:
        assert (alone.rank, alone.count, alone.first) == (0, 1, True)
        value = torch.ones(2)
        alone.sum_(value)
        assert value.tolist() == [1.0, 1.0]
        assert alone.any(True) and not alone.any(False)
