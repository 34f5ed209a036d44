"""What an ERASER data set holds, from a folder or from an archive of one, which is read and never unpacked."""

import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from salcore.errors import UserError
from salcore.paths import expanded

TRAIN, VALIDATION, TEST = "train.jsonl", "val.jsonl", "test.jsonl"
DOCUMENT_LINES, DOCUMENTS = "docs.jsonl", "docs/"
FILES = TRAIN, VALIDATION, TEST, DOCUMENT_LINES


def contents(argument: str) -> dict[str, bytes]:
    """The bytes of `FILES` and of everything below docs/, by path below the folder that has train.jsonl.

    Raises UserError where PATH is no folder or archive, or has no train.jsonl.
    """
    path = expanded(argument)
    if not path.exists():
        raise UserError("data.name", "eraser:PATH of a folder or a .tar, .tar.gz or .tgz archive that exists", argument)
    try:
        return _of_folder(path) if path.is_dir() else _of_archive(path)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError("data.name", "eraser:PATH of a readable folder or archive", f"{path}: {error}") from error


def _of_folder(top: Path) -> dict[str, bytes]:
    if not (top / TRAIN).is_file():
        raise UserError("data.name", f"a file {TRAIN} in {top}", _some([path.name for path in top.iterdir()]))
    found = [top / name for name in FILES if (top / name).is_file()]
    found += [path for path in (top / DOCUMENTS).rglob("*") if path.is_file()]
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in found}


def _of_archive(path: Path) -> dict[str, bytes]:
    with tarfile.open(path, "r:*", encoding="utf-8") as archive:
        members = {str(PurePosixPath(member.name)): member for member in archive if member.isfile()}
        tops = [name.removesuffix(TRAIN) for name in members if PurePosixPath(name).name == TRAIN]
        if not tops:
            raise UserError("data.name", f"a file {TRAIN} in {path}", _some([*members]))
        top = min(tops, key=len)
        wanted = {name.removeprefix(top): member for name, member in members.items() if name.startswith(top)}
        return {
            name: file.read()
            for name, member in wanted.items()  # in the order of the archive, so that it is read in one go
            if (name in FILES or name.startswith(DOCUMENTS)) and (file := archive.extractfile(member)) is not None
        }


def _some(names: list[str]) -> str:
    first = ", ".join(sorted(names)[:4]) or "nothing"
    return first + (f" and {len(names) - 4} more" if len(names) > 4 else "")
