"""Names, texts and numbers as they may be shown: what moves a cursor, or turns the order of letters, is spelled out."""

import re

ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters but tab and newline, those that change the direction of text, and halves of characters."""


def printable(text: str) -> str:
    """Spell out what would not be seen."""
    return ODD.sub(lambda found: ascii(found[0])[1:-1], text)


def digits(value: float) -> float:
    """Round a float32 to the nine digits that give it back, which are all that JSON need hold of it."""
    return float(f"{value:.9g}")
