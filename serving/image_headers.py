"""The size that the header of an image file declares, read without decoding anything."""

import re
from typing import Literal

PNG, GIF, BMP, JPEG = b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"\xff\xd8\xff"
JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
# The markers of frames, which hold the size, and those without a length.
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
BARE = frozenset({0x01, *range(0xD0, 0xD8)})
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# A file with more was made to waste time, and counts as the largest that the format can hold.
MAX_SEGMENTS = 1_000
LARGEST_JPEG = 65_535**2


def declared_pixels(content: bytes) -> int:
    """Returns the number of pixels that an image file declares.

    It is the number that an export checks before it decodes the file (`serving.exporting`).

    Args:
        content: The content of a PNG, JPEG, GIF or BMP file, whole or not.

    Returns:
        Width · height; 0 for other content and for a file that ends before its size.

    Example:
        ```python
        import pathlib

        from serving.image_headers import declared_pixels

        declared_pixels(pathlib.Path("photo.jpg").read_bytes())  # 3145728 for 2048 × 1536
        ```
    """
    if content.startswith(PNG):
        return _number(content, 16, 4) * _number(content, 20, 4)
    if content.startswith(GIF):
        return _number(content, 6, 2, "little") * _number(content, 8, 2, "little")
    if content.startswith(BMP):
        height = _number(content, 22, 4, "little")
        # A negative height means that the rows are stored from the top down.
        return _number(content, 18, 4, "little") * min(height, (1 << 32) - height)
    return _jpeg_pixels(content) if content.startswith(JPEG) else 0


def _jpeg_pixels(content: bytes) -> int:
    """Walks over the segments up to the first frame as libjpeg does, which skips other bytes."""
    position = 2
    for _ in range(MAX_SEGMENTS):
        found = JPEG_MARKER.search(content, position)
        if found is None:
            return 0
        marker, position = found[1][0], found.end()
        if marker in FRAMES:
            return _number(content, position + 3, 2) * _number(content, position + 5, 2)
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return 0
        if marker not in BARE:
            position += _number(content, position, 2)
    return LARGEST_JPEG


def _number(
    content: bytes, position: int, length: int, order: Literal["big", "little"] = "big"
) -> int:
    """Returns the unsigned number at a position; bytes beyond the end are 0."""
    return int.from_bytes(content[position : position + length].ljust(length, b"\0"), order)
