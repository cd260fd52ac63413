"""What one new token waits for on a CPU, in C: products of few rows (linear), attention of one query, a whole block."""
