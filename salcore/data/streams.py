"""Random numbers that stay the same for ever, on every machine.

NumPy freezes the raw stream of a bit generator, but not what the methods of `Generator` make of it.
"""

import numpy as np


def raw(count: int, seed: int, *key: int) -> np.ndarray:
    """The first `count` numbers, uint64, of the stream that `seed` and `key` stand for."""
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)).random_raw(count)


def normal(bits: np.ndarray) -> np.ndarray:
    """Independent N(0, 1), float32 `(..., n)`, from raw numbers `(..., n)`, n even.

    With u, v uniform in (0, 1], made of the even and the odd places:

        z, z' = sqrt(-2 ln u) (cos 2 pi v, sin 2 pi v)

    Rounding to float32 hides the last bits, in which processors differ.

    Source: A Note on the Generation of Random Normal Deviates (Box, Muller, 1958).

    >>> print(normal(np.array([2**63 - 1, 2**62 - 1], np.uint64)).round(4))  # u = 1/2, v = 1/4
    [0.     1.1774]
    """
    uniform = ((bits >> np.uint64(11)) + 1) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(uniform[..., ::2])), 2 * np.pi * uniform[..., 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(bits.shape).astype(np.float32)
