import pytest

from reports.units import count


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (20_450_000, "20.4 M"),
        (18_300, "18.3 k"),
        (1_000, "1 k"),
        (999_960, "1000 k"),
        (-2.5e9, "-2.5 G"),
        (999.7, "1000"),
        (12, "12"),
        (0, "0"),
    ],
)
def test_counts_in_words(value: float, words: str) -> None:
    assert count(value) == words
    assert count(value, gap="") == words.replace(" ", "")
