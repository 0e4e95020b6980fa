"""The tables of a report, for papers and spreadsheets: the same numbers as on the page, from report rows only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.spec import InputError
from robopolicy.evaluation.bootstrap import Estimate
from robopolicy.evaluation.records import Evaluation, comparable, compare_evaluations
from robopolicy.evaluation.statistics import holm
from robopolicy.reporting import suites
from robopolicy.reporting.tables import Table


def tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return ``results``, ``network-calls``, ``pairs`` and, of several tasks, ``tasks``, ``aggregates``, ``improvement`` and ``profiles``.

    Args:
        evaluations: Of :func:`robopolicy.reporting.report.gather`; those on other than report seeds are left out.

    Raises:
        InputError: if none is left.
    """
    reports = [e for e in evaluations if e.purpose == "report"]
    if not reports:
        raise InputError("export: no evaluation on report seeds; those for choosing are not for tables")
    out = [_results(reports), _network_calls(reports), _pairs(reports)]
    found = suites.methods(reports)
    if len({task for method in found for task in method.tasks}) > 1:
        out.append(_tasks(found))
        whole = suites.complete(found)
        out += [_aggregates(whole), _profiles(whole)] if whole else []
        out += [_improvement(whole)] if len(whole) > 1 else []
    return [table for table in out if table.rows]


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"


def _estimate(e: Estimate) -> str:
    return f"{100 * e.value:.1f} {_interval(e.low, e.high)}"


def _results(reports: Sequence[Evaluation]) -> Table:
    heads = ("task", "policy", "successes", "episodes", "success (%)", "95% interval (%)", "score", "return", "steps to success", "ms a plan", "checkpoint")
    rows = []
    for e in reports:
        steps = [x.length for x in e.episodes if x.success]
        numbers = (str(e.successes), str(len(e.episodes)), f"{100 * e.success_rate:.1f}", _interval(*e.interval), _or_empty(e.score, "{:.3f}"))
        mean = float(np.mean([x.return_ for x in e.episodes]))
        rest = (f"{mean:.4g}", f"{np.median(steps):.0f}" if steps else "", _or_empty(e.ms_per_chunk, "{:.2f}"), e.checkpoint_hash or "")
        rows.append((e.task, e.label, *numbers, *rest))
    return Table("results", "Success on report seeds with 95% Wilson intervals", heads, rows, texts=2)


def _or_empty(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _network_calls(reports: Sequence[Evaluation]) -> Table:
    heads = ("task", "policy", "calls a plan", "calls a step", "success (%)", "95% interval (%)")
    learnt = [e for e in reports if e.policy != "expert"]
    rows = [
        (e.task, e.label, f"{e.network_calls_per_chunk:.4g}", f"{e.network_calls_per_step:.3g}", f"{100 * e.success_rate:.1f}", _interval(*e.interval))
        for e in learnt
    ]
    return Table("network-calls", "Success against network calls", heads, rows, texts=2)


def _pairs(reports: Sequence[Evaluation]) -> Table:
    """Return every two policies of a task on the same initial states; p-values are adjusted for the pairs of that task."""
    heads = ("task", "first", "second", "states", "only first", "only second", "difference (points)", "95% interval", "p", "p (Holm)")
    rows = []
    for task in dict.fromkeys(e.task for e in reports):
        here = [e for e in reports if e.task == task]
        both = [(a, b, compare_evaluations(a, b)) for i, a in enumerate(here) for b in here[i + 1 :] if comparable(a, b)]
        for (a, b, p), adjusted in zip(both, holm([p.p_value for _, _, p in both]), strict=True):
            counts = (str(p.n), str(p.first_only), str(p.second_only), f"{100 * p.difference:+.1f}", _interval(p.low, p.high))
            rows.append((task, a.label, b.label, *counts, f"{p.p_value:.3g}", f"{adjusted:.3g}"))
    return Table("pairs", "Paired comparisons: exact McNemar tests, Tango intervals, Holm's correction within a task", heads, rows, texts=3)


def _tasks(found: Sequence[suites.Method]) -> Table:
    tasks = list(dict.fromkeys(task for method in found for task in method.tasks))
    rows = [(task, *(_rate(method, task) for method in found)) for task in tasks]
    return Table(
        "tasks",
        "Success (%) on every task with 95% Wilson intervals, all runs together",
        ("task", *(m.name for m in found)),
        rows,
    )


def _rate(method: suites.Method, task: str) -> str:
    if task not in method.tasks:
        return ""
    return _estimate(method.rate(task))


def _aggregates(found: Sequence[suites.Method]) -> Table:
    figures = suites.aggregates(found)
    heads = ("policy", "tasks", "runs", "IQM (%)", "mean (%)", "median (%)", "optimality gap (%)")
    names = ("iqm", "mean", "median", "optimality_gap")
    rows = [(m.name, str(len(m.tasks)), str(sum(map(len, m.tasks.values()))), *(_estimate(figures[m.name][key]) for key in names)) for m in found]
    return Table("aggregates", "Success over all tasks with 95% intervals by stratified bootstrap", heads, rows)


def _improvement(found: Sequence[suites.Method]) -> Table:
    rows = [(a, b, _estimate(e)) for (a, b), e in suites.improvements(found).items()]
    title = "Probability that a run of the first is better than one of the second, ties half, 95% intervals by stratified bootstrap"
    return Table("improvement", title, ("first", "second", "probability (%)"), rows, texts=2)


def _profiles(found: Sequence[suites.Method]) -> Table:
    rows = []
    for name, p in suites.profiles(found).items():
        for threshold, share, low, high in zip(p.thresholds, p.share, p.low, p.high, strict=True):
            rows.append((name, f"{threshold:.2f}", f"{share:.4f}", f"{low:.4f}", f"{high:.4f}"))
    heads = ("policy", "success rate", "share of runs above", "low", "high")
    return Table("profiles", "Performance profiles with pointwise 95% bands", heads, rows)
