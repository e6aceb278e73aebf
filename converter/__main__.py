"""`python -m bgevis.converter` is `bgevis-convert`."""

from .cli import main

main()
