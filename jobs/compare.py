"""Ensembles side by side, paired over the samples they share. `python -m jobs.compare RUN RUN`."""

from collections.abc import Sequence
from pathlib import Path

import salcore
from jobs import command
from salcore.errors import UserError
from salcore.report import compare as compared
from salcore.report import comparison_page, comparison_table

DESCRIPTION = """\
Compare finished runs: debiased SNR of the methods they share, and accuracy. Samples are paired by their number in
the evaluation split; intervals over members say what a new ensemble would give, those over samples what other samples
would."""


def compare(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return command.guarded("compare", act, argv)


def act(arguments: list[str]) -> int:
    """Print the table and write the page."""
    parser = command.Parser(prog="python -m jobs.compare", description=DESCRIPTION)
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="run directories; the first one is what others are held against"
    )
    parser.add_argument(
        "--page", metavar="FILE", default="runs/compare.html", help="where the page goes (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    if len(given.runs) < 2:
        raise UserError("RUN", "two or more run directories", given.runs)
    try:
        found = compared([salcore.open(run) for run in given.runs])
    except UserError:
        raise
    except ValueError as error:
        raise UserError("RUN", f"finished runs that share samples and methods ({error})") from None
    page = Path(given.page)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(comparison_page(found))
    print(comparison_table(found))
    print(f"page     {page.absolute()}")
    return 0


if __name__ == "__main__":
    command.main(compare)
