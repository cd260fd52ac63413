from __future__ import annotations
def config() -> None:
    """stub"""
