"""The report of a run or a study as one self-contained HTML page."""

from medssl_monai.visualize.report.page import report_page

__all__ = ["report_page"]
