from __future__ import annotations
def eval_() -> None:
    """stub"""
