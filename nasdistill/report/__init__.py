"""A study as one HTML page. The only package that imports Plotly."""

from nasdistill.report.page import write_report

__all__ = ["write_report"]
