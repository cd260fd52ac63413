"""Text out of a model: sampling functions, the engine that steps a batch, and text in and out of it."""
