"""Handwritten digits of 8 x 8 pixels that ship with scikit-learn: no download."""

from typing import TYPE_CHECKING

import numpy as np

from salcore.data.source import Labelled, Source

if TYPE_CHECKING:
    from salcore.spec import DataSpec

TEST_SAMPLES = 597


def read(spec: "DataSpec", argument: str) -> Source:
    """1,797 grey digits: 1,200 to train on, and an evaluation split of 597, always the same ones.

    The 17 grey levels 0 to 16 become round(255 level / 16), all different, so nothing is lost.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = bunch.images.astype(np.int64)
    images = ((255 * levels + 8) // 16).astype(np.uint8)[:, None]
    train = Labelled(values=images, labels=bunch.target.astype(np.int64))
    return Source(train=train, test=None, classes=tuple(map(str, bunch.target_names)), held_out=TEST_SAMPLES)
