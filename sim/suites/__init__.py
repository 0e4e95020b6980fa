"""Suites: each file lists its tasks without importing the suite, and makes batches of worlds from it."""
