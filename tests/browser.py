"""A browser without a screen, and pages that commands serve."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.require import require

ROOT = Path(__file__).resolve().parents[1]
_ARGUMENTS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a running browser of playwright; skips where there is none, see :func:`tests.require.require`."""
    require("chromium")
    from playwright.sync_api import sync_playwright

    executable = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS.split())
        yield browser
        browser.close()


@contextmanager
def opened(url: str, width: int = 900, height: int = 600) -> Iterator[Any]:
    """Yield the page at ``url`` in a browser of its own."""
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(90_000)
        page.goto(url)
        yield page


@contextmanager
def served(words: Sequence[str], folder: Path) -> Iterator[str]:
    """Run ``robopolicy WORDS`` as a server below ``folder`` and yield its address; it must end well when it is asked to."""
    require("chromium")
    address, said = folder / "address", folder / "out"
    command = [sys.executable, "-m", "robopolicy", *words, "--port", "0", "--announce", str(address), "--with-parent"]
    with said.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=folder)
    try:
        until = time.monotonic() + 90
        while not address.exists():
            assert process.poll() is None and time.monotonic() < until, said.read_text()
            time.sleep(0.05)
        yield address.read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 0, said.read_text()
