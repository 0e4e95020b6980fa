"""Worlds: batched simulated environments, their suites, scripted experts and rendering."""
