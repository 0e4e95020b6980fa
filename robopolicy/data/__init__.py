"""Data sets on disk (LeRobot v3 layout plus true capture times), and the windows that training reads from them."""
