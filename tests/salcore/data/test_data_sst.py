"""Sentences of the treebank."""

from pathlib import Path

import numpy as np
import pytest

from salcore.data import load
from salcore.errors import UserError

VECTORS = "good 1 2\nbad 3 4\nfilm 5 6\nis 7 8\n"


def words_of(data, part, row):
    return [data.words[number] for number in part.values[row, : part.lengths[row]]]


@pytest.fixture
def sst(tmp_path, spec):
    """Writes a small treebank."""

    def write(changes=None, **keys):
        files = {"train": "1 ||| good film\n0 ||| bad film\n" * 4, "dev": "1 ||| is good\n", "test": "0 ||| so bad\n"}
        for name, text in (files | (changes or {})).items():
            if text is not None:
                (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / "vectors.vec").write_text(VECTORS)
        given = {"vectors": str(tmp_path / "vectors.vec"), "eval_samples": 1, "validation_fraction": 0}
        return spec(f"sst:{tmp_path}", **(given | keys))

    return write


def test_dev_joins_the_training_sentences(sst):
    data = load(sst())
    assert (len(data.train), len(data.evaluation), data.classes, data.train.query) == (9, 1, ("0", "1"), None)
    assert words_of(data, data.train, 8) == ["is", "good"]
    assert words_of(data, data.evaluation, 0) == ["so", "bad"]
    assert data.train.labels.tolist() == [1, 0] * 4 + [1]


def test_without_a_test_file_a_fifth_is_set_apart(sst):
    data = load(sst({"test": None, "dev": None}, eval_samples=2))
    assert (len(data.train), len(data.evaluation)) == (6, 2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"train": None}, r"sst:PATH of a folder with train\.txt"),
        ({"dev": "1 good\n"}, r"`label \|\|\| sentence` in line 1 of .*dev\.txt, got '1 good'"),
        ({"test": "0 ||| x\n1 ||| \n"}, r"in line 2 of .*test\.txt"),
        ({"test": "7 ||| x\n"}, r"a label of the training sentences \(0, 1\) in line 1 of .*test\.txt, got '7'"),
        ({"dev": "\n"}, r"sentences in .*dev\.txt, got 'none'"),
    ],
)
def test_broken_treebanks_are_told(sst, changes, told):
    with pytest.raises(UserError, match=told) as caught:
        load(sst(changes))
    assert caught.value.key == "data.name"


def test_the_treebank_as_it_is(test_data, spec):
    glove = next((test_data / "glove_twitter_25d").glob("*.gz"))
    data = load(spec(f"sst:{test_data / 'sst5'}", vectors=str(glove), eval_samples=2210))
    assert (len(data.train) + len(data.validation), data.shape) == (8544 + 1101, (56, 25))
    assert np.bincount(data.evaluation.labels).tolist() == [279, 633, 389, 510, 399]
    for name, part, offset in (("train", data.train, 0), ("dev", data.train, 8544), ("test", data.evaluation, 0)):
        sentences = Path(test_data, "sst5", f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for number in range(0, len(sentences), 97):
            label, _, sentence = sentences[number].partition(" ||| ")
            assert words_of(data, part, offset + number) == sentence.split()
            assert part.labels[offset + number] == int(label)
    assert "72.3% of their" in data.notes[0]  # as the vectors' own provenance says
