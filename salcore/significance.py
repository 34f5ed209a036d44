"""Which pixels of a mean map differ from zero beyond training noise: a t test per pixel, false discoveries held at 5 %.

What is controlled: of the hypotheses rejected in one sample's map, the expected share of false ones is at most 5 %. A
hypothesis is a pixel or, where a method is constant on superpixels, a superpixel: pixels equal in every member count
as one.

What that assumes: the members are independent and identically trained; a pixel's values over members are roughly
normal; pixels depend on one another positively, as neighbours do (Benjamini, Yekutieli, 2001). Their proof is of
one-sided tests: for these, which are two-sided, it is shown by simulation, on correlated noise of uneven variance.

What it is not: no promise over samples jointly, and no word on why a pixel differs from zero: what all the members
have in common, a bias of the method too, is signal here. A pixel that is not marked is not shown to be zero.
"""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

FALSE_SHARE = 0.05
"""Expected share of false ones among the rejected hypotheses of one sample."""


def controlled(unit: str, units: str, equal: str) -> str:
    """What a significance map says and what it does not, for a reader who sees it, of maps that are made of `units`.

    `equal` says which of them count as one.
    """
    return (
        f"Marked {units} differ from zero beyond training noise. Of those marked in one sample at most 5 % are "
        f"expected to be false (t test over members, Benjamini-Hochberg over the {units} of the map; {equal} count "
        "once). Assumed: members trained independently and alike, values over members roughly normal, neighbouring "
        f"{units} varying together. Not promised: anything over several samples at once, or that a marked {unit} is a "
        "cause."
    )


CONTROLLED = controlled("pixel", "pixels", "equal pixels, as in a superpixel,")
"""That of images."""
_UNTESTED = -1.0
"""In place of |t|: below every critical value, which are positive."""


def significant(mean: np.ndarray, variance: np.ndarray, members: int) -> tuple[np.ndarray, np.ndarray]:
    """The mask `(n, ...)` uint8 of significant pixels, and how many hypotheses were tested in each map, `(n,)` int32.

        t = mean / sqrt(variance / M)        reject |t|_(1) ... |t|_(k), k the largest with |t|_(k) >= c(k q / 2 m)

    c(p) is the upper p quantile of Student's t with M - 1 degrees of freedom, m the number of hypotheses, |t|_(1) the
    largest: the procedure of Benjamini and Hochberg, whose p-values fall as |t| rises, without the p-values. `mean` and
    `variance` (ddof = 1) are `(n, ...)` float64. Pixels without variance are not tested; with fewer than 2 members none
    is. Pixels of equal |t| count once: those of equal maps have equal moments, and two equal |t| are both rejected or
    neither is.

    Source: Controlling the False Discovery Rate (Benjamini, Hochberg, 1995), Eq. 1.
    """
    if members < 2:
        return np.zeros(mean.shape, np.uint8), np.zeros(len(mean), np.int32)
    sizes, noise2 = np.abs(mean).reshape(len(mean), -1), variance.reshape(len(mean), -1) / members
    t = np.full(sizes.shape, _UNTESTED)
    np.divide(sizes, np.sqrt(noise2), out=t, where=noise2 > 0)
    distinct = np.sort(t, axis=1)
    distinct[:, 1:][distinct[:, 1:] == distinct[:, :-1]] = _UNTESTED
    tested = np.count_nonzero(distinct >= 0, axis=1)
    critical = _critical(distinct, tested, members)
    return (t >= critical[:, None]).astype(np.uint8).reshape(mean.shape), tested.astype(np.int32)


def _critical(distinct: np.ndarray, tested: np.ndarray, members: int) -> np.ndarray:
    """The smallest rejected |t| that is allowed in each row, `(n,)`; infinite where nothing is rejected.

    The largest k is the largest fixed point of k -> number of |t| >= c(k q / 2 m), which rises with k: going down from
    k = m ends there, after a few steps.
    """
    rejected = tested
    while True:
        tail = FALSE_SHARE / 2 * rejected / np.maximum(tested, 1)
        critical = np.where(rejected > 0, -stdtrit(members - 1, tail), np.inf)
        found = np.count_nonzero(distinct >= critical[:, None], axis=1)
        if np.array_equal(found, rejected):
            return critical
        rejected = found
