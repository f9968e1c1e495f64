"""Fixtures of the report's tests."""

from reported_study import page, record

__all__ = ["page", "record"]
