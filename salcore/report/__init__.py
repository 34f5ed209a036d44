"""The report of a run, and of runs side by side, as self-contained HTML pages.

>>> import salcore
>>> page = build(salcore.open("runs/fashion"))  # doctest: +SKIP
"""

from salcore.report.compare import Comparison, Difference, compare
from salcore.report.compare_page import comparison_page, comparison_table
from salcore.report.facts import Facts, gather
from salcore.report.page import build

__all__ = ["Comparison", "Difference", "Facts", "build", "compare", "comparison_page", "comparison_table", "gather"]
