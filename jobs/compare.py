"""Ensembles side by side, paired over the samples they share. `python -m jobs.compare RUN RUN`."""

from collections.abc import Sequence
from pathlib import Path

import salcore
from jobs import command
from salcore.errors import UserError
from salcore.report import compare as compared
from salcore.report import comparison_page, comparison_table
from salcore.storage import Store, is_remote

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
    where = "where the page goes, a file or a URI (default: %(default)s)"
    parser.add_argument("--page", metavar="FILE", default="runs/compare.html", help=where)
    given = parser.parse_args(arguments)
    if len(given.runs) < 2:
        raise UserError("RUN", "two or more run directories", given.runs)
    command.check_lasting(given.page, "--page")
    try:
        found = compared([salcore.open(run) for run in given.runs])
    except UserError:
        raise
    except ValueError as error:
        raise UserError("RUN", f"finished runs that share samples and methods ({error})") from None
    place = _write(given.page, comparison_page(found))
    print(comparison_table(found))
    print(f"page     {place}")
    return 0


def _write(page: str, content: str) -> str:
    """Write the page to a file or a URI; returns where it is."""
    if is_remote(page):
        folder, _, name = page.rpartition("/")
        store = Store(folder)
        store.write(name, content.encode())
        return store.path(name)
    file = Path(page).absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return str(file)


if __name__ == "__main__":
    command.main(compare)
