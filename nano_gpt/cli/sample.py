from __future__ import annotations
def sample() -> None:
    """stub"""
