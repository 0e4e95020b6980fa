"""Oracles: planners that solve a task with the simulator in hand, to record demonstrations from."""
