"""Late plans: catching a ball when plans take 0 to 4 steps to come, with naive switching, real-time chunking and BID.

A flow and a diffusion policy are trained for seconds on the catch task (``robopolicy.bench.catch``), whose demonstrators
swing to either side. A plan is asked for every 4 steps and played from ``delay`` steps after its observation on. All
methods use the same weights, the same episodes and, for their first sample, the same noise. One torch thread.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from robopolicy.bench import catch
from robopolicy.bench.harness import Result, Row, measured

DELAYS, EVERY = (0, 1, 2, 3, 4), 4  # steps
NAIVE = "naive switching"
_SEED = 2_000_000  # of the first reported episode


def run(quick: bool) -> Result:
    """Measure; ``quick`` takes under two minutes."""
    return measure(1000, 200) if quick else measure(4000, 1000)


def measure(train_steps: int, episodes: int, kinds: tuple[str, ...] = ("flow", "diffusion"), calls: int = 30) -> Result:
    """Train a policy of each of ``kinds`` for ``train_steps``, play ``episodes`` with every method at every delay, time ``calls`` plans."""
    import torch

    from robopolicy.evaluation.statistics import wilson

    torch.set_num_threads(1)
    result, seeds = Result(), _SEED + np.arange(episodes)
    for kind in kinds:
        with measured() as took:
            policy, loss = train(kind, train_steps)
        result.rows.append(Row(f"{kind}: training loss, mean of the last tenth", loss, "1", better="lower", wall_s=took.wall_s, cpu_s=took.cpu_s))
        naive: list[catch.Outcome] = []
        for name, method in methods(policy).items():
            with measured() as took:
                outcomes = [catch.play(method, delay, EVERY, seeds) for delay in DELAYS]
            naive = naive or outcomes
            _report(f"{kind}, {name}", outcomes, naive if name != NAIVE else None, took.wall_s, took.cpu_s, result)
            result.rows.append(Row(f"{kind}, {name}: one plan, batch 1, p50", plan_ms(method, calls), "ms", better="lower"))
    low, high = wilson(round(0.9 * episodes), episodes)
    result.notes.append(f"{episodes} episodes a figure: 95 % Wilson interval of a rate of 0.9: {low:.3f} to {high:.3f}; seeds from {_SEED}")
    result.notes.append("fall: least-squares slope of the rate over the delays 0 to 4; jumps: between commands at a change of plan, mean over delays 1 to 4")
    return result


def _report(name: str, outcomes: list[catch.Outcome], naive: list[catch.Outcome] | None, wall_s: float, cpu_s: float, result: Result) -> None:
    """Add the rows of one method; ``naive`` is what it is compared with."""

    def row(what: str, figures: list[float], unit: str, better: Any, target: float | None = None) -> None:
        value, other = figures[0], figures[1] if naive is not None else None
        peer = NAIVE if naive is not None else None
        result.rows.append(Row(f"{name}: {what}", value, unit, peer, other, target if naive is not None else None, better, wall_s, cpu_s))

    both = [outcomes] if naive is None else [outcomes, naive]
    for i, delay in enumerate(DELAYS):
        row(f"caught, delay {delay}", [float(o[i].caught.mean()) for o in both], "share", "higher")
    falls = [-float(np.polyfit(DELAYS, [o.caught.mean() for o in found], 1)[0]) for found in both]
    row("fall of the rate per step of delay", falls, "share", "lower", 1.0)
    row("jumps", [float(np.mean([o.jumps.mean() for o in found[1:]])) for found in both], "m/s^2", "lower", 1.0)
    changes = [float(np.mean([(np.diff(o.sides, axis=1) != 0).sum(1).mean() for o in found])) for found in both]
    row("changes of side per episode", changes, "1", "lower")


def methods(policy: Any) -> dict[str, Any]:
    """Return name -> the policy executed with that method; the first is switching without regard for the last plan."""
    from policies.realtime.bid import Bid, BidConfig
    from policies.realtime.rtc import Rtc, RtcConfig

    return {
        NAIVE: Rtc(RtcConfig(beta=0.0), policy),
        "rtc vjp": Rtc(RtcConfig(), policy),
        "rtc vjp, deviation 0.3, beta 20": Rtc(RtcConfig(deviation=0.3, beta=20.0), policy),
        "rtc identity": Rtc(RtcConfig(form="identity"), policy),
        "bid": Bid(BidConfig(), policy),
    }


def plan_ms(method: Any, calls: int) -> float:
    """Return the median milliseconds of one plan for one robot that has a plan already."""
    import torch

    from policies.base import Execution
    from policies.noise import Noise, row_keys

    obs = {name: torch.from_numpy(value) for name, value in catch.Catch(np.zeros(1, np.int64)).observation().items()}
    state, took = method.initial_state(1), []
    for call in range(calls + 3):
        began = time.perf_counter()
        _, state = method.act(obs, state, Noise(row_keys(1, call)), Execution(2, 2, EVERY))
        took.append(time.perf_counter() - began)
    return 1e3 * float(np.median(took[3:]))


def visited(episodes: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return observations (N, 1, 2) of demonstrators who change their minds every few steps, and centre and swing (N, Tp, 1) of plans there."""
    rng = np.random.default_rng(seed)
    fields: dict[str, list[np.ndarray]] = {name: [] for name in catch.SPEC.observation.fields}
    centres, swings = [], []
    for every in range(1, 9):
        world = catch.Catch(np.arange(episodes) + every * episodes)
        plan, start, offset = np.zeros((episodes, catch.HORIZON, 1)), 0, 0
        while not world.over:
            obs = world.observation()
            centre, swing = catch.plans(obs["observation.state"][:, 0].astype(np.float64), obs["observation.environment_state"][:, 0].astype(np.float64))
            for name, value in obs.items():
                fields[name].append(value)
            centres.append(centre)
            swings.append(swing)
            if world.step % every == 0:
                plan, start = catch.demonstrate(centre, swing, rng), world.step
                offset = int(rng.integers(0, 5))  # as if the plan came late
            world.advance(plan[:, min(world.step - start + offset, catch.HORIZON - 1)])
    return {name: np.concatenate(v) for name, v in fields.items()}, np.concatenate(centres), np.concatenate(swings)


def train(kind: str, steps: int, rows: int = 256) -> tuple[Any, float]:
    """Return a policy trained on plans drawn anew at visited states, and the mean loss of the last tenth of ``steps``."""
    import torch

    from policies import registry
    from policies.noise import Noise, row_keys
    from policies.statistics import RunningStats

    obs, centre, swing = visited(64)
    rng, base = np.random.default_rng(1), registry.policy_class(kind)
    settings: dict[str, Any] = {"n_obs_steps": 1, "horizon": catch.HORIZON, "n_action_steps": catch.HORIZON}
    settings["mlp"] = {"width": 128, "blocks": 2, "clock_features": 32}
    config, stats = base.Config(**settings), {}
    for name, values in {**{n: v[:, 0] for n, v in obs.items()}, "action": catch.demonstrate(centre, swing, rng).reshape(-1, 1)}.items():
        running = RunningStats((values.shape[1],))
        running.update(values.astype(np.float32))
        stats[name] = running.result()
    torch.manual_seed(0)
    policy = registry.create(kind, config, catch.SPEC, base.fit_normalizer(config, catch.SPEC, stats, []))
    optimizer = torch.optim.AdamW(policy.parameter_groups(1e-6), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    policy.train()
    for step in range(steps):
        chosen = rng.integers(0, len(centre), rows)
        action = catch.demonstrate(centre[chosen], swing[chosen], rng).astype(np.float32)
        batch = {name: torch.from_numpy(value[chosen]) for name, value in obs.items()} | {"action": torch.from_numpy(action)}
        loss, _ = policy.loss(batch, Noise(row_keys(0, step * rows + np.arange(rows))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return policy.eval(), float(np.mean(losses[-max(steps // 10, 1) :]))
