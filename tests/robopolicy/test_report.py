"""The report's page: what it says, that it loads nothing, and that a browser shows it and plays its videos."""

from __future__ import annotations

import html.parser
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.spec import InputError
from robopolicy.evaluation import records, videos
from robopolicy.evaluation.records import Episode, Evaluation
from robopolicy.evaluation.statistics import mcnemar, paired_difference, wilson
from robopolicy.reporting import plots, report
from tests.require import require

#: (label, policy, successes wanted of 100, network calls per chunk, ms per chunk)
SIDES = (("flow", "flow", 88, 10, 21.0), ("diffusion", "diffusion", 84, 100, 190.0), ("regression", "regression", 47, 1, 2.4), ("expert", "expert", 95, 0, 0.0))


def made(
    label: str, policy: str, rate: int, calls: int, ms: float, *, n: int = 100, task: str = "metaworld/peg-insert-side", purpose: str = "report"
) -> Evaluation:
    """Return an evaluation as a rollout leaves it; the harder states are the same for every policy."""
    n, rng = 100, np.random.default_rng(rate)
    difficulty = np.random.default_rng(7).permutation(n) + rng.normal(0, 8, n)
    success = np.argsort(np.argsort(difficulty)) < rate * n // 100
    seed0 = 2_000_000 if purpose == "report" else 1_000_000
    episodes = []
    for i in range(n):
        length = int(80 + 60 * rng.random()) if success[i] else 300
        chunks = length if policy == "expert" else -(-length // 8)
        episodes.append(Episode(i, seed0 + i, bool(success[i]), float(length), length, float(success[i]), float(calls * chunks), chunks, {}))
    latency = [] if policy == "expert" else (ms * rng.lognormal(0, 0.08, 50)).tolist()
    return Evaluation(
        label=label, policy=policy, checkpoint=None if policy == "expert" else f"runs/{label}/checkpoints/step_005000",
        checkpoint_hash=None if policy == "expert" else f"{rate:016x}", task=task, suite_version="metaworld 3.0.0, mujoco 3.3.7", purpose=purpose, seed0=seed0,
        noise_seed=0, block=50, workers=2, threads=1, device="cpu", env={"observations": "state"}, max_episode_steps=300, rate_hz=12.5, horizon=16,
        n_action_steps=8, episodes=episodes, latency_ms=latency, seconds=61.0, time="2026-01-02T03:04:05+00:00",
        machine={"cpu": "Some CPU @ 2 GHz", "cores": 2}, packages={"python": "3.11.9", "mujoco": "3.3.7"},
    )  # fmt: skip


def film(path: Path, colour: int) -> None:
    """Write 30 frames of a square that moves."""

    def frames() -> object:
        for t in range(30):
            picture = np.full((120, 160, 3), 235, np.uint8)
            picture[40:70, 4 * t : 4 * t + 30] = (colour, 110, 200 - colour)
            yield picture

    assert videos.write_mp4(path, frames(), 12.5) == 30  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the demo leaves it: three runs, four evaluations, videos of two of them."""
    rng = np.random.default_rng(0)
    for label, policy, rate, calls, ms in SIDES:
        evaluation = made(label, policy, rate, calls, ms)
        place = tmp_path / "evaluations" / label
        if label in ("flow", "regression"):
            for kind in ("best", "worst"):
                e = evaluation.episodes[int(np.argmax([x.success == (kind == "best") for x in evaluation.episodes]))]
                film(place / "videos" / f"{kind}.mp4", rate + 100)
                video = {"file": f"videos/{kind}.mp4", "kind": kind, "index": e.index, "seed": e.seed, "success": e.success}
                evaluation.videos.append({**video, "length": e.length, "score": e.score})
        evaluation.save(place)
        if policy == "expert":
            continue
        run = tmp_path / "runs" / label
        run.mkdir(parents=True)
        (run / "recipe.yaml").write_text(f"task: metaworld/peg-insert-side\npolicy: {{type: {policy}}}\n")
        rows = [{"event": "begin", "step": 0}]
        for step in range(50, 5001, 50):
            rows.append({"event": "train", "step": step, "loss": float(0.9 * np.exp(-step / 1500) + 0.05 + 0.02 * rng.random()) * (1 + calls / 100)})
            if step % 1000 == 0:
                k = rate * step // 5000 // 4
                rows.append({"event": "evaluation", "step": step, "success": k / 25, "low": wilson(k, 25)[0], "high": wilson(k, 25)[1]})
        (run / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"event": "tr')
    return tmp_path


class Reader(html.parser.HTMLParser):
    """Checks that elements nest, and collects text and attributes."""

    VOID = ("meta", "br", "link", "img", "input", "hr", "line", "circle", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> tuple[Reader, str]:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader, " ".join(" ".join(reader.text).split())


def test_the_page_says_what_was_measured(folder: Path) -> None:
    page = report.write_report(folder)
    assert page == folder / "report.html"
    reader, text = read(page)
    for label, _, rate, _, _ in SIDES:
        low, high = wilson(rate, 100)
        assert label in text and f"{rate}.0%" in text and f"{100 * low:.1f} to {100 * high:.1f}" in text
    assert reader.counts["video"] == 4 and reader.counts["svg"] == 5
    for word in (
        "Success over time",
        "Latency",
        "Network calls per chunk",
        "Success against network calls",
        "Failures, the worst first",
        "Paired comparison",
        "Training loss",
        "Success during training",
        "Some CPU",
    ):
        assert word in text


def test_what_was_measured_twice_counts_once_whatever_it_was_called(tmp_path: Path) -> None:
    """A checkpoint is "flow" alone and "flow (run)" beside another: it stood twice in the tables, and was paired with itself in Holm's correction."""
    for place, (label, policy, rate) in enumerate([("flow", "flow", 88), ("flow (run)", "flow", 88), ("peer: a", "peer", 70), ("peer: b", "peer", 70)]):
        evaluation = made(label, policy, rate, 10, 1.0)
        evaluation.time = f"2026-01-02T03:04:0{place}+00:00"
        evaluation.checkpoint_hash = None if policy == "peer" else evaluation.checkpoint_hash
        evaluation.save(tmp_path / str(place))
    found = report.gather(tmp_path)
    assert sorted(e.label for e in found.evaluations) == ["flow (run)", "peer: a", "peer: b"] and found.older == 1


def test_the_paired_table_is_that_of_the_tests(folder: Path) -> None:
    _, text = read(report.write_report(folder))
    flow, regression = (Evaluation.load(folder / "evaluations" / name) for name in ("flow", "regression"))
    b = sum(x.success and not y.success for x, y in zip(flow.episodes, regression.episodes, strict=True))
    c = sum(y.success and not x.success for x, y in zip(flow.episodes, regression.episodes, strict=True))
    difference, low, high = paired_difference(100, b, c)
    assert mcnemar(b, c) < 1e-6
    assert f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] +{b} −{c}, p < 0.0001" in text
    assert f"{-100 * difference:+.1f} [{-100 * high:+.1f}, {-100 * low:+.1f}] +{c} −{b}, p < 0.0001" in text


def test_only_evaluations_of_one_world_are_paired_and_told_apart(tmp_path: Path) -> None:
    plain, noisy = made("flow", "flow", 88, 10, 21.0), made("flow", "flow", 40, 10, 21.0)
    noisy.env, noisy.time = {**noisy.env, "perturb": [{"kind": "noise", "size": 0.02}]}, "2026-01-02T03:04:06+00:00"
    assert plain.conditions == "" and noisy.conditions == "noise 0.02" and not records.comparable(plain, noisy)
    with pytest.raises(InputError, match=r"noise 0\.02"):
        records.compare_evaluations(plain, noisy)
    shown = made("flow", "flow", 70, 10, 21.0)
    shown.env = {**shown.env, "observations": "image", "engine": "mujoco", "perturb": []}
    assert records.comparable(plain, shown), "what a policy is shown of the same world does not matter"
    plain.save(tmp_path / "plain")
    noisy.save(tmp_path / "noisy")
    _, text = read(report.write_report(tmp_path))
    assert "flow, noise 0.02" in text and "Paired comparison" not in text
    _, text = read(report.write_report(tmp_path / "noisy"))
    assert "flow, noise 0.02" in text, "alone, too"


def test_the_headline_is_of_report_seeds_and_of_the_tasks_own_world(tmp_path: Path) -> None:
    for label, rate, purpose, env in (("a", 50, "report", {}), ("b", 99, "selection", {}), ("c", 98, "report", {"engine": "bullet"}), ("d", 40, "report", {})):
        e = made(label, "flow", rate, 10, 21.0, purpose=purpose)
        e.env = env
        e.save(tmp_path / label)
    _, text = read(report.write_report(tmp_path))
    assert "a, the best of 2, solves 50.0%" in text and "solves 99" not in text and "solves 98" not in text


def test_states_for_choosing_are_marked_wherever_success_is_drawn(tmp_path: Path) -> None:
    made("a", "flow", 50, 10, 3.0).save(tmp_path / "a")
    made("b", "flow", 90, 20, 3.0, purpose="selection").save(tmp_path / "b")
    page = report.write_report(tmp_path).read_text()
    for title in ("Success", "Results", "Success over time", "Success against network calls"):
        [drawn] = re.findall(rf"<h3>{title}</h3>.*?</section>", page, flags=re.DOTALL)
        assert drawn.count("selection seeds</span>") == 1, title


def test_nothing_is_loaded_from_anywhere(folder: Path) -> None:
    page = report.write_report(folder)
    reader, _ = read(page)
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "srcset", "poster", "data", "action"):
            assert value.startswith(("data:video/mp4;base64,", "#")), f"<{tag} {name}={value[:60]}>"
    raw = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.read_text())
    assert not re.search(r"https?://|@import|url\(|<script|<link", raw)
    assert "default-src &#x27;none&#x27;" in raw


def test_what_people_write_is_text_not_markup(tmp_path: Path) -> None:
    evil = made('<script>alert(1)</script>"', "flow", 50, 1, 1.0)
    evil.notes.append("<b onclick=x>")
    evil.save(tmp_path)
    reader, text = read(report.write_report(tmp_path))
    assert "script" not in reader.counts and "<script>alert(1)</script>" in text and "<b onclick=x>" in text


def test_twins_are_told_apart_and_older_ones_left_out(tmp_path: Path) -> None:
    for seed in (0, 1):
        e = made("flow", "flow", 70 + seed, 10, 5.0)
        e.training = {"seed": seed, "step": 5000}
        e.save(tmp_path / str(seed))
    old = made("flow", "flow", 70, 10, 5.0)
    old.training, old.time = {"seed": 0, "step": 5000}, "2025-01-01T00:00:00+00:00"
    old.save(tmp_path / "old")
    found = report.gather(tmp_path)
    assert sorted(e.label for e in found.evaluations) == ["flow seed 0", "flow seed 1"] and found.older == 1
    assert "1 older evaluation" in read(report.write_report(tmp_path))[1]


def test_several_tasks_get_a_table_of_all(tmp_path: Path) -> None:
    for task in ("pusht", "two-route"):
        for label, policy, rate, calls, ms in SIDES[:2]:
            made(label, policy, rate, calls, ms, task=task).save(tmp_path / task / label)
    made("flow", "flow", 60, 10, 3.0, task="pusht", purpose="selection").save(tmp_path / "pusht" / "selection")
    _, text = read(report.write_report(tmp_path, tmp_path / "all.html"))
    assert "All tasks" in text and "Policies on pusht, two-route" in text and "selection seeds" in text


def test_a_run_that_is_being_replaced_is_not_shown(folder: Path) -> None:
    before = report.gather(folder)
    shutil.copytree(folder / "runs" / "flow", folder / "runs" / "flow" / ".replaced")
    found = report.gather(folder)
    assert [run.label for run in found.runs] == [run.label for run in before.runs] and len(before.runs) > 1


def test_one_evaluation_one_run_and_broken_files(folder: Path) -> None:
    assert "Paired" not in read(report.write_report(folder / "evaluations" / "flow"))[1]
    assert "Training loss" in read(report.write_report(folder / "runs" / "flow"))[1]
    (folder / "evaluations" / "flow" / "evaluation.json").write_text('{"format": 1')
    (folder / "runs" / "flow" / "log.jsonl").write_text('{"event": "train"}\n')
    text = read(report.write_report(folder))[1]
    assert "cannot be read as an evaluation" in text and "not a line of a training log" in text


def test_nothing_to_show_is_one_line(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=re.escape(str(wrong))) as caught:
            report.write_report(wrong)
        assert "\n" not in str(caught.value)
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(InputError, match="expected a mapping"):
        report.write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def browser(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open ``page`` in headless Chromium with a profile of its own and no traffic of its own."""
    command = next(c for c in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if c)
    quiet = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--mute-audio")
    log = ("--enable-logging=stderr", "--log-level=0", "--autoplay-policy=no-user-gesture-required")
    call = [command, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *quiet, *log, *options, page.as_uri()]
    return subprocess.run(call, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(profile)})


PROBE = """<script>
window.addEventListener("error", e => document.title = "ERROR " + e.message);
setTimeout(() => {
  const videos = [...document.querySelectorAll("video")];
  document.body.dataset.played = JSON.stringify(videos.map(v => [v.currentTime > 0.2, v.readyState, v.videoWidth, v.error && v.error.message]));
  document.body.dataset.sideways = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.body.dataset.bar = getComputedStyle(document.querySelector(".bar")).backgroundColor;
}, 2500);
</script>"""


def test_a_browser_shows_it_and_plays_its_videos(folder: Path, tmp_path: Path) -> None:
    require("chromium")
    page = report.write_report(folder)
    probed = tmp_path / "probed.html"  # the page itself has no script, and its policy forbids any
    text = page.read_text().replace("default-src &#x27;none&#x27;", "default-src &#x27;none&#x27;; script-src &#x27;unsafe-inline&#x27;")
    probed.write_text(text.replace("</body>", PROBE + "</body>"))
    done = browser(probed, tmp_path / "profile", "--timeout=6000", "--virtual-time-budget=20000", "--window-size=390,800", "--dump-dom")
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr[-2000:]
    played = json.loads(re.search(r'data-played="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))  # type: ignore[index]
    assert len(played) == 4 and all(p[0] and p[1] >= 2 and p[2] == 160 and p[3] is None for p in played), played
    assert re.search(r'data-sideways="0"', done.stdout), "the page scrolls sideways on a phone"
    assert "rgb(0, 114, 178)" in done.stdout and "Paired comparison" in done.stdout and "<title>ERROR" not in done.stdout


def test_a_screenshot_is_drawn(folder: Path, tmp_path: Path) -> None:
    require("chromium")
    picture = tmp_path / "page.png"
    done = browser(report.write_report(folder), tmp_path / "profile", "--window-size=1200,1600", f"--screenshot={picture}")
    assert done.returncode == 0 and not [line for line in done.stderr.splitlines() if "CONSOLE" in line], done.stderr[-2000:]
    import cv2

    pixels = cv2.imread(str(picture))
    assert pixels.shape[:2] == (1600, 1200) and len(np.unique(pixels.reshape(-1, 3)[::50], axis=0)) > 20


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_linear_ticks_are_round_and_inside(low: float, span: float) -> None:
    ticks = plots.linear_ticks(low, low + span)
    assert 1 <= len(ticks) <= 12 and all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)


@given(st.floats(1e-6, 1e3), st.floats(1.6, 1e6))
def test_log_ticks_are_inside(low: float, ratio: float) -> None:
    assert all(low * (1 - 1e-6) <= t <= low * ratio * (1 + 1e-6) for t in plots.log_ticks(low, low * ratio))


def test_the_distribution_function_by_hand() -> None:
    x, y = plots.cumulative([3.0, 1.0])
    assert x.tolist() == [1, 1, 3] and y.tolist() == [0, 0.5, 1]


def test_smoothing_neither_lags_nor_bends_and_passes_over_gaps() -> None:
    ramp = np.arange(100.0)
    np.testing.assert_allclose(plots.smoothed(ramp, 0.1), ramp)
    np.testing.assert_allclose(plots.smoothed(np.array([2.0, np.nan, 2.0])), 2.0)
    np.testing.assert_allclose(plots.smoothed(np.array([0.0, 3.0, 0.0])), [0, 1, 0])


def test_a_gap_cuts_a_band_in_two() -> None:
    low, high = np.array([0.0, 1.0, math.nan, 2.0, 3.0]), np.array([1.0, 2.0, math.nan, 3.0, 4.0])
    line = plots.Line("x", np.arange(5.0), (low + high) / 2, 0, low, high)
    [band] = re.findall(r'class="band" d="([^"]*)"', plots.line_chart([line], plots.Axis("x"), plots.Axis("y"), "band"))
    corners = [piece.count(",") for piece in band.split("Z")]
    assert corners == [4, 4, 0] and band.count("M") == 2, band


def test_long_lines_are_thinned_and_keep_their_ends() -> None:
    line = plots.Line("a", np.arange(5000.0), np.arange(5000.0), 0)
    thin = plots.thinned(line)
    assert len(thin.x) == plots.MOST_POINTS and thin.x[0] == 0 and thin.x[-1] == 4999
