from __future__ import annotations
def upload() -> None:
    """stub"""
