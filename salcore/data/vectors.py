"""Word vectors from any GloVe text file, and vectors for words that it does not know."""

import gzip
import hashlib
import zlib
from collections.abc import Collection, Iterator, Sequence
from io import BufferedReader
from pathlib import Path

import numpy as np

from salcore.data.streams import normal
from salcore.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"


def embed(words: Sequence[str], path: Path, *, trained: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(V, E)`, float32, of V words, and which of them `(V,)` the file knows, as written or in lower case.

    A word that it does not know has a vector of its own, N(0, s^2) with s the standard deviation of all values of known
    words among the first `trained`, drawn from a hash of the word. Raises UserError where none of those is known.
    """
    found = read_vectors(path, {form for word in words for form in (word, word.lower())})
    rows = [found.get(word, found.get(word.lower())) for word in words]
    known = np.array([row is not None for row in rows], bool)
    if not known[:trained].any():
        some = ", ".join(map(repr, words[:3]))
        raise UserError("data.vectors", f"vectors of the texts' words in {path}", f"none of {trained}, such as {some}")
    vectors = np.empty((len(words), next(iter(found.values())).size), np.float32)
    vectors[known] = [row for row in rows if row is not None]
    deviation = np.float32(vectors[:trained][known[:trained]].std(dtype=np.float64))
    unknown = [word for word, row in zip(words, rows, strict=True) if row is None]
    vectors[~known] = deviation * _of_hashes(unknown, vectors.shape[1])
    return vectors, known


def read_vectors(path: Path, words: Collection[str]) -> dict[str, np.ndarray]:
    """Vectors `(E,)`, float32, of those words that the file holds: a word and E numbers a line, between blanks.

    Plain or gzip; a first line "V E" (word2vec, fastText) is passed over, and words may contain blanks (GloVe 840B). Of
    a word that stands there twice the first counts. Raises UserError naming the first line that does not fit; the
    numbers themselves are read, and checked, of the words that are asked for.
    """
    wanted = {_encoded(word): word for word in words}
    found: dict[str, np.ndarray] = {}
    width = 0
    for number, line in _lines(path):
        if not width:
            width = _width(line)
            if width and _is_header(line):
                continue
        parted = _parted(line, width) if width else None
        if parted is None:
            expected = f"a word and {width or 'its'} numbers in line {number} of {path}"
            raise UserError("data.vectors", expected, _shown(line))
        word, values = parted
        if word in wanted:
            found.setdefault(wanted[word], _numbers(values, f"line {number} of {path}"))
    if not width:
        raise UserError("data.vectors", f"words and their numbers in {path}", "nothing")
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers from 1 and contents of lines, without blanks at the end; empty ones are passed over."""
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                if stripped := line.rstrip():
                    yield number, stripped
    except (OSError, EOFError, zlib.error) as error:
        raise UserError("data.vectors", "a readable file of word vectors", f"{path}: {error}") from error


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP_MAGIC
    return gzip.open(path, "rb") if packed else path.open("rb")


def _is_header(line: bytes) -> bool:
    fields = line.split(b" ")
    return len(fields) == 2 and all(field.isdigit() for field in fields)


def _width(line: bytes) -> int:
    """How many numbers follow a word, by the first line: what its header says, or the numbers at its end."""
    if _is_header(line):
        return int(line.split(b" ")[1])
    fields = line.split(b" ")[1:]
    words = [place for place, field in enumerate(fields, start=1) if not _is_number(field)]
    return len(fields) - max(words, default=0)


def _parted(line: bytes, width: int) -> tuple[bytes, bytes] | None:
    """The word and the text of its numbers; None if there are not so many."""
    if line.count(b" ") == width:
        word, _, values = line.partition(b" ")
        return word, values
    word, *numbers = line.rsplit(b" ", width)
    # Words with blanks are rare, and none ends in a number: that would be a vector with a number too many.
    if len(numbers) < width or _is_number(word.rpartition(b" ")[2]):
        return None
    return word, b" ".join(numbers)


def _numbers(values: bytes, place: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
            vector = np.array([float(value) for value in values.split(b" ")]).astype(np.float32)
    except ValueError as error:
        raise UserError("data.vectors", f"a word and its numbers in {place}", str(error)) from error
    if not np.isfinite(vector).all():
        raise UserError("data.vectors", f"finite numbers in {place}", _shown(values))
    return vector


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _of_hashes(words: Sequence[str], width: int) -> np.ndarray:
    """N(0, 1) `(V, width)`, float32, from each word's SHAKE-256, which gives as many bits as are asked for."""
    even = width + width % 2
    bits = b"".join(hashlib.shake_256(_encoded(word)).digest(8 * even) for word in words)
    return normal(np.frombuffer(bits, "<u8").reshape(len(words), even))[:, :width]


def _encoded(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


def _shown(line: bytes) -> str:
    text = line[:40].decode("utf-8", "replace")
    return text if len(line) <= 40 else f"{text}..."
