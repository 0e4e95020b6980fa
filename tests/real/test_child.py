"""Processes that a run starts run this installation's code, wherever one stands."""

import subprocess

from real.child import environment, module_command


def test_a_folder_of_foreign_packages_is_not_run(tmp_path, monkeypatch):
    for name in ("real", "policies"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign code was run')\n")
    monkeypatch.setenv("PYTHONPATH", ".")
    for module in ("real.drive_server", "real.blackbox"):
        done = subprocess.run([*module_command(module), "--help"], cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0 and "usage" in done.stdout, done.stderr
