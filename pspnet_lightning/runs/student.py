"""Student's t distribution for a whole number of degrees of freedom, in closed form."""

from __future__ import annotations

import math


def p_value(t: float, freedom: int) -> float:
    """The two-sided p value of ``t``: how often chance alone is at least as far from 0.

    Abramowitz & Stegun (1964), 26.7.3 and 26.7.4: finite sums. Raises ValueError for ``freedom`` below 1.
    """
    if freedom < 1:
        raise ValueError(f"freedom={freedom} must be at least 1")
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    if freedom % 2:
        term = cosine
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cosine**2 * 2 * k / (2 * k + 1)
        within = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        for k in range(1, freedom // 2 + 1):
            total += term
            term *= cosine**2 * (2 * k - 1) / (2 * k)
        within = math.sin(angle) * total
    return min(1.0, max(0.0, 1 - within))


def quantile(freedom: int, p: float = 0.05) -> float:
    """The t whose two-sided p value is ``p``: 1.96 for many degrees of freedom and 0.05."""
    low, high = 0.0, 1.0
    while p_value(high, freedom) > p:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(middle, freedom) > p else (low, middle)
    return (low + high) / 2


def holm(p_values: list[float]) -> list[float]:
    """p values of several comparisons, adjusted so that any false one among them has the chance said (Holm, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
