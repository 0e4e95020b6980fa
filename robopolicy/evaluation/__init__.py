"""Evaluation that can be believed: fixed seeds, padded blocks, intervals, paired tests, a ledger and a page."""
