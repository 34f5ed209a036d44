"""The README's table is that of the recorded rows, and leaves out none that misses its goal."""

from tests.benchmarks import readme


def test_the_readme_has_the_figures_that_were_recorded():
    page = readme.README.read_text()
    assert readme.BETWEEN.search(page), "the table's place"
    assert readme.written(page) == page, "run python -m tests.benchmarks.readme"


def test_no_row_that_misses_its_goal_is_left_out():
    missed = {name for name, row in readme.known().items() if row.goal and not row.met}
    assert missed - set(readme.ROWS) == set()
