"""``robopolicy serve`` with everything on, in a process of its own; and the benchmark of serving in small."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from policies.base import Execution
from policies.spec import InputError
from real.client import PolicyClient
from real.keys import authorize, new_keys
from real.policy import act_numpy
from robopolicy.bench import serve as bench
from tests.real.toy import ROOT


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow policy for two-route with random weights."""
    import torch

    from policies import registry
    from policies.checkpoint import save
    from sim.registry import make

    spec = make("two-route").spec
    sizes = {"action": spec.action.dim, **{name: f.size for name, f in spec.observation.fields.items()}}
    stats = {name: {"min": -np.ones(size), "max": np.ones(size)} for name, size in sizes.items()}
    config = registry.config_class("flow")(steps=2)
    torch.manual_seed(0)
    made = registry.create("flow", config, spec, registry.policy_class("flow").fit_normalizer(config, spec, stats, []))
    folder = tmp_path_factory.mktemp("checkpoint") / "flow"
    save(folder, made, recipe={"env": {"observations": "state"}}, extra={})
    return folder


def test_keys_metrics_and_batching_from_the_command_line(checkpoint: Path, tmp_path: Path) -> None:
    from policies.checkpoint import load

    public, _ = new_keys(tmp_path / "server", "server")
    authorize(tmp_path / "server", new_keys(tmp_path / "robot", "arm-1")[0])
    shutil.copy(public, tmp_path / "robot")
    options = ["--bind", "tcp://0.0.0.0:0", "--keys", str(tmp_path / "server"), "--metrics-port", "0", "--batch-ms", "5", "--max-batch", "8"]
    command = [sys.executable, "-m", "robopolicy", "serve", str(checkpoint), *options, "--announce", str(tmp_path / "address"), "--with-parent"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            metrics = server.stdout.readline().split()[-1]
            assert "ready: flow" in server.stdout.readline()
            address = (tmp_path / "address").read_text().replace("0.0.0.0", "127.0.0.1")
            with pytest.raises(InputError, match="asks for keys"):
                PolicyClient(address, connect_s=1.0)
            policy, client = load(checkpoint), PolicyClient(address, keys=tmp_path / "robot", connect_s=30)
            obs = {name: np.full((1, policy.n_obs_steps, *f.shape), 0.3, f.dtype) for name, f in policy.spec.observation.fields.items()}
            served, _ = client.act(obs, client.initial_state(1), np.array([7]), Execution())
            local, _ = act_numpy(policy, obs, {}, np.array([7]))
            np.testing.assert_allclose(served.actions, local.actions, atol=1e-5)
            with urllib.request.urlopen(metrics, timeout=5) as answer:
                text = answer.read().decode()
            assert "robopolicy_ready 1" in text and "robopolicy_plans_total 1" in text and "robopolicy_sessions_open 1" in text
            with urllib.request.urlopen(metrics.replace("/metrics", "/healthz"), timeout=5) as answer:
                assert answer.read() == b"ready\n"
            client.close()
        finally:
            server.terminate()
        assert "ended: sessions" in server.stdout.read()
    assert server.returncode == 0


def test_beyond_loopback_without_keys_is_refused_at_once(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from robopolicy.cli import main

    for options, text in (
        (["--bind", "tcp://0.0.0.0:5555"], "only loopback is served and trusted"),
        (["--bind", "tcp://0.0.0.0:0", "--keys", str(tmp_path)], "server.key_secret: No such file"),
    ):
        assert main(["serve", str(checkpoint), *options]) == 2
        said = capsys.readouterr().err.strip()
        assert text in said and "\n" not in said


def test_every_figure_is_measured() -> None:
    rows = bench.measure(0.3, fleets=(3,)).rows
    assert len(rows) == 12 and all(row.value > 0 and row.peer_value is not None and row.peer_value > 0 for row in rows)
    targets = {row.name: row.target for row in rows if row.target is not None}
    assert targets == {"round trip, 640x480x3 observation, p50": 1.3, "round trip, 640x480x3 observation, p99": 2.0}
    assert [row.name for row in rows[-2:]] == ["3 robots on one server, plans", "3 robots on one server, p99"]
