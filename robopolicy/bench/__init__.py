"""Benchmarks by name: ``robopolicy bench NAME`` runs ``robopolicy/bench/NAME.py``, a module with ``run(quick)``."""
