"""How a cost grows: the exponent of the power of N that follows it best."""

from collections.abc import Sequence
from math import log


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return k of cost = c · size^k, by least squares on logarithms: 0 costs the same for any size, 1 grows with it.

    Raises `ValueError` for fewer than two sizes, or where a size or a cost is not above zero.
    """
    xs, ys = [log(size) for size in sizes], [log(cost) for cost in costs]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if not spread:
        raise ValueError("an exponent needs two sizes")
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
