"""Models on disk: the plain GPT-2 folder, a run's checkpoints, and how users refer to either."""
