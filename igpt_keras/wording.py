"""How messages say things."""


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun, such as "1 image" or "1,257 images"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
