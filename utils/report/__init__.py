"""The scores as a single HTML page: a table, and the pictures to compare."""

from utils.report.page import write_report

__all__ = ["write_report"]
