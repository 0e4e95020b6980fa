"""What people read of evaluations and runs: a page, tables, curves, a leaderboard, and published figures beside our own."""
