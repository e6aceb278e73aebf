"""Keys and values that are kept from step to step: what they are called. Imports no framework."""


def key_names(kind: str, layer: int) -> tuple[str, str]:
    """Name the keys and values of a layer: "past", "cross", or "" for those that an entry point gives."""
    before = f"{kind}_" if kind else ""
    return f"{before}keys_{layer}", f"{before}values_{layer}"


def fed(layers: int) -> dict[str, str]:
    """Give what a step takes of the tokens before -> what gives it."""
    return {p: g for i in range(layers) for p, g in zip(key_names("past", i), key_names("", i), strict=True)}
