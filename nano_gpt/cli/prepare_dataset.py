from __future__ import annotations
def prepare_dataset() -> None:
    """stub"""
