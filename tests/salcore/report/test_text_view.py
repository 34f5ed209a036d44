"""Texts on a page, in words."""

import numpy as np
import pytest

from salcore.data import Data, Part
from salcore.figures.inputs import Inputs
from salcore.report.text_view import TextView


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (np.zeros((3000, 50), np.float32), "texts of up to 16 words (median 12), as word vectors of 50 numbers"),
        (None, "texts of up to 16 tokens (median 12) of a vocabulary of 3,000"),
    ],
)
def test_texts_are_of_words_as_vectors_or_of_tokens(vectors, told):
    part = Part(
        values=np.zeros((3, 16), np.int32),
        labels=np.zeros(3, np.int64),
        index=np.arange(3),
        lengths=np.array([9, 12, 16]),
    )
    data = Data(
        train=part, validation=part, evaluation=part, classes=("a", "b"), mean=np.zeros(1), std=np.ones(1), digest="",
        kind="text", vectors=vectors, words=tuple(map(str, range(3000))),
    )  # fmt: skip
    assert TextView(Inputs(kind="text", shape=(16,), classes=data.classes, data=data)).described(data) == told
