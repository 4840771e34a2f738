"""Strings in a `TensorProto`'s `tensor_content`.

TensorFlow writes the lengths of all strings as varints, then the strings themselves
(`EncodeStringList` in tensorflow/core/platform/tensor_coding.cc).
"""

MAX_LENGTH = 2**32 - 1


def decode_strings(content: bytes, count: int) -> list[bytes]:
    """Reads `count` strings.

    Raises:
        ValueError: The content is not that of `count` strings.
    """
    # Each string costs a byte at least, so this bounds the work by the message's size.
    if count > len(content):
        raise ValueError(f"{len(content)} bytes cannot hold {count} strings")
    lengths, start = [], 0
    for _ in range(count):
        length, start = _varint(content, start)
        lengths.append(length)
    if start + sum(lengths) != len(content):
        raise ValueError(f"strings of {sum(lengths)} bytes do not fill {len(content) - start}")
    strings = []
    for length in lengths:
        strings.append(content[start : start + length])
        start += length
    return strings


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """Returns the number at `start`, seven bits in a byte, and where it ends."""
    value = 0
    for index, byte in enumerate(content[start : start + 5]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80 and value <= MAX_LENGTH:
            return value, start + index + 1
    raise ValueError(f"no length at byte {start}")
