"""Signs that are easily taken for others, by name, and numbers written with them."""

import math

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
TIMES = "\N{MULTIPLICATION SIGN}"
PERCENT = "\N{NO-BREAK SPACE}%"
ROOT_M = "\N{SQUARE ROOT}M"


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign; a dash for what is not known.

    >>> number(0.125), number(float("nan")) == DASH, number(float("inf"))
    ('0.12', True, '∞')
    """
    if value is None or math.isnan(value):
        return DASH
    return signed("∞" if math.isinf(value) else f"{abs(value):.{digits}f}", value)


def signed(text: str, value: float) -> str:
    """`text` of a magnitude with the sign of `value`."""
    return f"{MINUS if value < 0 else ''}{text}"


def percent(share: float) -> str:
    """A share with one decimal: `percent(0.5)` is "50.0" and a percent sign that stays on its line."""
    return number(100 * share, 1) + PERCENT


def counted(count: float, most: int = 10_000) -> str:
    """A count in words: `counted(1234)` is "1,234"; numbers beyond `most` are not told apart.

    >>> counted(1234), counted(123_456), counted(float("inf"))
    ('1,234', 'more than 10,000', 'more than 10,000')
    """
    return f"{count:,.0f}" if count <= most else f"more than {most:,}"


def chance(p: float) -> str:
    """A p value with its sign, as it stands behind the letter.

    >>> chance(0.0321), chance(1e-9)
    ('= 0.032', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {number(p, 3)}"
