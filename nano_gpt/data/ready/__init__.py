"""Token files that are ready: those of other programs, here or on the hub."""
