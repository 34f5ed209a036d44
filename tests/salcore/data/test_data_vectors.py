"""Files of word vectors in all their shapes, and words that no file knows."""

import gzip

import numpy as np
import pytest
from scipy import stats

from salcore.data.vectors import embed, read_vectors
from salcore.errors import UserError

GLOVE = b"the 0.5 -1 2e-1\nThe 1 1 1\n. . 3 4 5\ncaf\xc3\xa9 7 8 9\nthe 9 9 9\n"


@pytest.fixture
def file(tmp_path):
    """Writes a file of vectors."""

    def write(content, name="vectors.txt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_words_are_found_as_they_stand_and_the_first_counts(file):
    found = read_vectors(file(GLOVE), {"the", "The", ". .", "café", "missing"})
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "the": [0.5, -1, np.float32(0.2)],
        "The": [1, 1, 1],
        ". .": [3, 4, 5],
        "café": [7, 8, 9],
    }
    assert all(vector.dtype == np.float32 for vector in found.values())


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(GLOVE),
        b"5 3\n" + GLOVE,
        GLOVE.replace(b"\n", b" \n"),
        GLOVE.replace(b"\n", b"\r\n"),
        GLOVE.rstrip(),
        GLOVE + b"\n\n",
    ],
    ids=["gzip", "header", "blanks at the end", "crlf", "no last newline", "empty lines"],
)
def test_every_variant_of_the_format_gives_the_same(file, content):
    words = {"the", ". .", "café"}
    found, plain = read_vectors(file(content), words), read_vectors(file(GLOVE, "plain"), words)
    assert {w: v.tolist() for w, v in found.items()} == {w: v.tolist() for w, v in plain.items()}


def test_a_word_with_blanks_may_come_first(file):
    found = read_vectors(file(b"at name@domain.com 1 2\nx 3 4\n"), {"at name@domain.com", "x", "at"})
    assert sorted(found) == ["at name@domain.com", "x"]


def test_one_number_and_words_that_are_numbers(file):
    found = read_vectors(file(b"a 1\n2000 4\n"), {"a", "2000"})
    assert {word: vector.tolist() for word, vector in found.items()} == {"a": [1], "2000": [4]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "words and their numbers in .*vectors.txt, got 'nothing'"),
        (b"\n \n", "got 'nothing'"),
        (b"hello world\n", "line 1 of .*got 'hello world'"),
        (b"the 1 2 3\nword\nx 1 2 3\n", "a word and 3 numbers in line 2 of .*vectors.txt, got 'word'"),
        (b"the 1 2 3\nof 1 2\n", "a word and 3 numbers in line 2 of .*got 'of 1 2'"),
        (b"the 1 2 3\nof 1 2 3 4\n", "a word and 3 numbers in line 2 of .*got 'of 1 2 3 4'"),
        (b"2 4\nthe 1 2 3\n", "a word and 4 numbers in line 2"),
        (b"the 1 nan 3\n", "finite numbers in line 1 of .*vectors.txt"),
        (b"the 1 1e50 3\n", "finite numbers in line 1"),
        (b"of 1 2 3\nthe 1 two 3\n", "a word and its numbers in line 2 of .*two"),
        (b"PK\x03\x04\x00\xff\n", "line 1 of"),
        (gzip.compress(GLOVE)[:-9], "a readable file of word vectors"),
        (b"\x1f\x8bnonsense", "a readable file of word vectors"),
    ],
)
def test_what_is_no_glove_file_is_refused_by_its_line(file, content, told):
    with pytest.raises(UserError, match=told) as caught:
        read_vectors(file(content), {"the"})
    assert caught.value.key == "data.vectors"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"data\.vectors: expected a readable file of word vectors"):
        read_vectors(tmp_path / name, {"the"})


def test_words_are_looked_up_as_written_then_in_lower_case(file):
    vectors, known = embed(["The", "the", "THE", "Café", "new"], file(GLOVE), trained=5)
    assert known.tolist() == [True, True, True, True, False]
    np.testing.assert_array_equal(vectors[0], [1, 1, 1])
    np.testing.assert_array_equal(vectors[1], vectors[2])
    np.testing.assert_array_equal(vectors[3], [7, 8, 9])


def test_an_unknown_word_has_one_vector_wherever_it_stands(file):
    path = file(GLOVE)
    first, _ = embed(["the", "new", "newer"], path, trained=3)
    second, _ = embed(["other", "new", "the"], path, trained=3)
    np.testing.assert_array_equal(first[1], second[1])
    assert len({vector.tobytes() for vector in (*first, *second)}) == 4
    assert first.dtype == np.float32


def test_unknown_vectors_are_normal_with_the_deviation_of_known_training_values(file):
    path = file(b"a 3 -3 3\nb -3 3 -3\nlate 1000 1000 1000\n")
    words = [f"word {number}" for number in range(3000)]
    vectors, known = embed(["a", "b", *words, "late"], path, trained=3002)
    assert known.sum() == 3
    own = vectors[2:-1].astype(np.float64)
    assert stats.kstest(own.ravel() / 3, "norm").pvalue > 0.01
    assert abs(np.corrcoef(own.T) - np.eye(3)).max() < 0.06


@pytest.mark.parametrize(("words", "trained"), [(["new", "newer"], 2), (["new", "the"], 1)])
def test_a_vocabulary_without_a_known_word_is_refused(file, words, trained):
    with pytest.raises(
        UserError, match=rf"texts' words in .*vectors.txt, got .none of {trained}, such as 'new'"
    ) as got:
        embed(words, file(GLOVE), trained=trained)
    assert got.value.key == "data.vectors"


def test_the_real_file_is_read_as_numpy_reads_it(test_data):
    path = test_data / "glove_twitter_25d" / "glove.twitter.27B.25d.subset.txt.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.split() for line in lines]
    found = read_vectors(path, {row[0] for row in rows})
    assert len(found) == 11_925
    np.testing.assert_array_equal([found[row[0]] for row in rows], np.array([row[1:] for row in rows], np.float32))
