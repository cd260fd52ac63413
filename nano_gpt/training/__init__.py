"""The loop, and everything that hangs on it. `setup.train` is the way in."""
