"""Models for others: an export that proves itself, its model card, and the upload."""
