"""Numbers in words."""

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float, gap: str = " ") -> str:
    """Three digits and a letter, powers of 1000.

    >>> count(20_450_000), count(18_300), count(999_960), count(12), count(0)
    ('20.4 M', '18.3 k', '1000 k', '12', '0')
    """
    for size, letter in _STEPS:
        if abs(value) >= size:
            scaled = value / size
            # .3g would say 1e+03 of 999.6
            return f"{scaled:.3g}{gap}{letter}" if abs(scaled) < 999.5 else f"{scaled:.0f}{gap}{letter}"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
