"""``robopolicy install``: pinned lists, pip or uv, one line when it fails, nothing to do the second time."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from policies.spec import InputError
from robopolicy import install
from robopolicy.cli import main

ROOT = Path(__file__).resolve().parents[2]


def wheel(folder: Path, name: str, version: str) -> Path:
    """Write a real, installable wheel of one empty module."""
    import base64
    import hashlib
    import zipfile

    contents = {
        f"{name}.py": b"",
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: a-package-that-clashes\n".encode(),
        f"{name}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode() for path, data in contents.items()}
    record = "".join(f"{path},sha256={digests[path]},{len(data)}\n" for path, data in contents.items())
    contents[f"{name}-{version}.dist-info/RECORD"] = f"{record}{name}-{version}.dist-info/RECORD,,\n".encode()
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, data in contents.items():
            archive.writestr(file, data)
    return path


def test_every_list_is_exact_and_begins_with_its_suite() -> None:
    assert install.suite_names() == ["gym-aloha", "metaworld"]
    for name in install.suite_names():
        pins = install.suite(name).pins
        assert pins[0][0] == name
        assert all(version and version[0].isdigit() for _, version in pins)
        assert len({distribution for distribution, _ in pins}) == len(pins)


def test_the_lists_agree_with_the_pins_of_make_setup() -> None:
    constraints = dict(install.read_pins((ROOT / "robopolicy/pins/constraints.txt").read_text()))
    for name in install.suite_names():
        for distribution, version in install.suite(name).pins[1:]:
            assert constraints.get(distribution, version) == version


def test_comments_and_blanks_are_no_pins() -> None:
    assert install.read_pins("# a\n\nfoo==1.0  # why\nbar==2\n") == (("foo", "1.0"), ("bar", "2"))


def test_only_the_suite_must_be_exact() -> None:
    here = install.installed_version("numpy")
    assert install.Suite("x", here or "", (("numpy", here or ""), ("pydantic", "0.0.1"))).missing == ()
    assert install.Suite("x", "0.0.1", (("numpy", "0.0.1"), ("pydantic", "0.0.1"))).missing == ("numpy==0.0.1",)
    assert install.Suite("x", "1", (("no-such-distribution", "1"), ("nor-this", "2"))).missing == ("no-such-distribution==1", "nor-this==2")


def test_an_unknown_suite_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "metaword"]) == 2
    assert capsys.readouterr().err.splitlines() == ["error: suite 'metaword' is not one that can be installed; did you mean 'metaworld'?"]


@pytest.mark.parametrize("spelling", ["gym-aloha", "GYM_ALOHA", " Gym-Aloha "])
def test_spelling_is_forgiven(spelling: str) -> None:
    assert install.suite(spelling).name == "gym-aloha"


@pytest.fixture
def small_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> install.Suite:
    """A suite of two wheels on this disk, installed into an environment made for the test."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "tinysuite", "1.2.3")
    wheel(wheels, "tinyneed", "4.5")
    pins = tmp_path / "pins"
    pins.mkdir()
    (pins / "tinysuite.txt").write_text("tinysuite==1.2.3\ntinyneed==4.5\n")
    monkeypatch.setattr(install, "_PINS", pins)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    return install.suite("tinysuite")


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_pip_and_uv_install_the_list_without_its_dependencies(tool: str, small_suite: install.Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    command = install.installer(small_suite.missing) if tool == "pip" else _without_pip(small_suite, monkeypatch)
    assert command[:3] == [sys.executable, "-m", tool]
    # The same command, aimed at the new environment: pip runs from here and installs there.
    aimed = [str(python) if word == sys.executable and index else word for index, word in enumerate(command)]
    aimed = [*aimed[:3], "--python", str(python), *aimed[3:]] if tool == "pip" else aimed
    subprocess.run(aimed, check=True, capture_output=True)
    done = subprocess.run([python, "-c", "import tinysuite, tinyneed, importlib.metadata as m; print(m.version('tinysuite'))"], capture_output=True, text=True)
    assert done.stdout.strip() == "1.2.3"


def _without_pip(suite: install.Suite, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    find_spec = install.importlib.util.find_spec
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name, *rest: None if name == "pip" else find_spec(name, *rest))
    return install.installer(suite.missing)


def test_neither_pip_nor_uv_is_one_line(small_suite: install.Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda *_: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="needs pip or uv"):
        install.installer(small_suite.missing)


def test_an_index_that_cannot_be_reached_is_one_line(small_suite: install.Suite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setattr(install, "_FOUNDATION", ())
    assert main(["install", "tinysuite"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "the package index cannot be reached" in lines[0] and "PIP_FIND_LINKS" in lines[0]


def test_without_the_sim_extra_it_says_so(small_suite: install.Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_FOUNDATION", ("no_such_engine",))
    with pytest.raises(InputError, match=r"stands on no_such_engine.*pip install 'robopolicy\[sim\]'"):
        install.install("tinysuite")


def test_what_is_there_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "numpy.txt").write_text(f"numpy=={install.installed_version('numpy')}\n")
    monkeypatch.setattr(install, "_PINS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # a call of pip would fail
    assert install.install("numpy") == ()
    assert main(["install", "numpy"]) == 0
    assert "is installed already" in capsys.readouterr().out
