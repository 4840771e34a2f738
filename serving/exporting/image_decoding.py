"""Image decoding in TensorFlow operations, bit for bit as `igpt_keras.data.read_image`.

The size of an image is read from the header of its file, and refused there if it is too large.
TensorFlow's decoders ignore EXIF orientation and the transparency of PNG and GIF files, allocate
the size that a file declares, and decode every frame of an animation. The code around them gives
the image as a viewer shows it.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from igpt_keras.data.image_decoding import MAX_SIDE
from igpt_keras.tensors import Tensor
from serving.exporting.file_bytes import Bytes

PNG, GIF, BMP, JPEG = range(4)
# The first bytes of each.
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"\xff\xd8\xff")
ORIENTATION_TAG = 0x0112
# Types of values in EXIF.
SHORT, LONG = 3, 4
# What an XMP packet follows, in JPEG and in PNG (where two zeros say that it is not compressed).
XMP_SEGMENT, XMP_CHUNK = b"http://ns.adobe.com/xap/1.0/\0", b"XML:com.adobe.xmp\0\0\0"
XMP_BYTES = 1 << 16
XMP_ORIENTATION = r"\C*?tiff:Orientation(?:=\"|>)([0-9])\C*"
# Every part of a file takes a step of a loop. Only files made to waste time have more parts.
MAX_PARTS = 10_000
MAX_EXTENSIONS = 1_000
MAX_BLOCKS = 1_000
# Each scan goes over the whole image; progressive JPEGs have about ten.
MAX_SCANS = 100
# For EXIF orientations 0…8: whether to transpose, then to mirror, then to turn upside down.
TRANSPOSED = (False, False, False, False, False, True, True, True, True)
MIRRORED = (False, False, True, True, False, False, True, True, False)
UPSIDE_DOWN = (False, False, False, True, True, False, False, True, True)


def fit_to_size(image: Tensor, size: int) -> Tensor:
    """Crops the center square and averages it by area: uint8 [h, w, 3] to [size, size, 3].

    The graph's form of `igpt_keras.data.read_image`, bit for bit.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    side = tf.minimum(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    resized = tf.image.resize(square[None], (size, size), method="area")[0]
    return tf.cast(tf.round(resized), tf.uint8)


def decode_image(content: Tensor, max_pixels: int) -> Tensor:
    """Decodes a PNG, JPEG, GIF (first frame) or BMP file.

    Args:
        content: string scalar, the content of the file.
        max_pixels: A larger image, by the size in its header, is refused before it is decoded.

    Returns:
        uint8 [h, w, 3], averaged down if the shorter side is above `MAX_SIDE`.

    Raises:
        tf.errors.InvalidArgumentError: When the graph runs: the content has none of these
            formats, or is too large or damaged; a GIF whose first frame does not fill the image;
            a compressed BMP or one with less than 8 bits per pixel; a JPEG with more than
            `MAX_SCANS` scans.
    """
    file = Bytes(content)
    kinds = [file.has(0, signature) for signature in SIGNATURES]
    known = tf.debugging.Assert(
        tf.reduce_any(kinds),
        ["Unknown image file format. One of JPEG, PNG, GIF, BMP required."],
    )
    with tf.control_dependencies([known]):
        kind = tf.argmax(tf.stack(kinds))
    decoders = [_decode_png, _decode_gif, _decode_bmp, _decode_jpeg]
    image, *metadata = tf.switch_case(
        tf.cast(kind, tf.int32),
        [lambda decode=decode: decode(file, max_pixels) for decode in decoders],
    )
    image = _upright(tf.ensure_shape(image, [None, None, 3]), _orientation(file, *metadata))
    return _within_max_side(image) if max_pixels > MAX_SIDE**2 else image


def _within_max_side(image):
    """Averages a large image down by a whole number, with the rounding of Pillow's `reduce`."""
    factor = -(-tf.reduce_min(tf.shape(image)[:2]) // MAX_SIDE)
    height, width = tf.unstack(tf.shape(image)[:2] // factor)

    def add(index, total):
        row, column = index // factor, index % factor
        part = image[row : height * factor : factor, column : width * factor : factor]
        return index + 1, total + tf.cast(part, tf.int32)

    def averaged():
        area = factor**2
        start = [0, tf.zeros([height, width, 3], tf.int32)]
        total = tf.while_loop(lambda index, _: index < area, add, start)[1]
        scaled = tf.cast(total + area // 2, tf.int64) * tf.cast((1 << 24) // area, tf.int64)
        return tf.cast(scaled // (1 << 24), tf.uint8)

    return tf.cond(factor > 1, averaged, lambda: image)


def _check_size(width, height, max_pixels: int):
    """An operation that refuses an image of this size if it is too large or empty."""
    # The product of large sides might overflow.
    allowed = (width <= max_pixels) & (height <= max_pixels) & (width * height <= max_pixels)
    return tf.debugging.Assert(
        allowed & (width > 0) & (height > 0),
        [f"an image must have 1…{max_pixels} pixels; width, height declared:", width, height],
    )


# The decoders return the image as it is stored, and where `_orientation` finds what to do with it.


def _no_metadata(file: Bytes):
    return file.size, file.size, tf.constant(0, tf.int64)


def _decode_png(file: Bytes, max_pixels: int):
    with tf.control_dependencies([_check_size(file.number(16, 4), file.number(20, 4), max_pixels)]):
        color_type = file.number(25)
    transparency, exif, xmp = _walk(
        file,
        8,
        [
            lambda position: file.has(position + 4, b"tRNS"),
            lambda position: file.has(position + 4, b"eXIf"),
            lambda position: file.has(position + 4, b"iTXt" + XMP_CHUNK),
        ],
        lambda position: position + 12 + file.number(position, 4),
    )
    # TensorFlow invents an alpha channel if it is asked for one that the file does not have.
    transparent = (color_type >= 4) | (transparency < file.size)
    image = tf.cond(
        transparent,
        lambda: _over_white(tf.io.decode_png(file.content, channels=4)),
        lambda: tf.io.decode_png(file.content, channels=3),
    )
    # Some programs write the first bytes of a JPEG's segment as well.
    header = tf.where(file.has(exif + 8, b"Exif\0\0"), exif + 14, exif + 8)
    return image, header, xmp, file.number(xmp, 4) + 8


def _over_white(image):
    """Blends pixels uint8 [h, w, 4] with white, rounding as Pillow does: uint8 [h, w, 3]."""
    alpha = tf.cast(image[..., 3:], tf.uint16)
    # At most 255² + 128, so 16 bits hold it, also with the addition for a division by 255.
    blended = tf.cast(image[..., :3], tf.uint16) * alpha + 255 * (255 - alpha) + 128
    return tf.cast((blended + blended // 256) // 256, tf.uint8)


def _decode_jpeg(file: Bytes, max_pixels: int):
    height, width, _ = tf.unstack(tf.cast(tf.image.extract_jpeg_shape(file.content), tf.int64))
    checks = [
        _check_size(width, height, max_pixels),
        tf.debugging.Assert(
            # In other data of the file, the two bytes occur by chance once in 65,536.
            file.count(b"\xff\xda") <= MAX_SCANS + file.size // 16_384,
            [f"a JPEG must have at most {MAX_SCANS} scans"],
        ),
    ]
    with tf.control_dependencies(checks):
        # Pillow's method. TensorFlow's default is slightly faster and less exact.
        image = tf.io.decode_jpeg(file.content, channels=3, dct_method="INTEGER_ACCURATE")

    def following(position):
        # The pixels, and anything without a marker, end the segments.
        continues = file.has(position, b"\xff") & ~file.has(position, b"\xff\xda")
        after = tf.where(continues, position + 2 + file.number(position + 2, 2), file.size)
        # Any number of fill bytes may come before a marker.
        return tf.where(file.has(position, b"\xff\xff"), position + 1, after)

    exif, xmp = _walk(
        file,
        2,
        [
            lambda position: file.has(position, b"\xff\xe1") & file.has(position + 4, b"Exif\0\0"),
            lambda position: file.has(position, b"\xff\xe1") & file.has(position + 4, XMP_SEGMENT),
        ],
        following,
    )
    return image, exif + 10, xmp, file.number(xmp + 2, 2) + 2


def _walk(
    file: Bytes,
    start: int,
    sought: Sequence[Callable[[Tensor], Tensor]],
    following: Callable[[Tensor], Tensor],
) -> list[Tensor]:
    """The positions of the first parts of some kinds in a file; its size for one without any.

    Args:
        file: A file that consists of parts, one after the other.
        start: The position of the first part.
        sought: For each kind, maps a position to whether the part there is of that kind.
        following: Maps the position of a part to that of the next.
    """

    def step(position, *found):
        firsts = [
            tf.where((first == file.size) & is_sought(position), position, first)
            for first, is_sought in zip(found, sought, strict=True)
        ]
        return following(position), *firsts

    return tf.while_loop(
        lambda position, *_: position < file.size,
        step,
        [tf.constant(start, tf.int64), *[file.size] * len(sought)],
        maximum_iterations=MAX_PARTS,
    )[1:]


def _orientation(file: Bytes, exif, xmp, xmp_size):
    """The orientation, 1…8, that EXIF gives, or else XMP; 1 if there is none: int64.

    Args:
        file: The file.
        exif: The position of EXIF's TIFF header; beyond the end if there is none.
        xmp: The position of the part with the XMP packet; beyond the end if there is none.
        xmp_size: The size of this part.
    """
    little_endian = file.has(exif, b"II")
    directory = exif + file.number(exif + 4, 4, little_endian)
    entries = directory + 2 + 12 * tf.range(file.number(directory, 2, little_endian))
    entries = tf.boolean_mask(entries, file.number(entries, 2, little_endian) == ORIENTATION_TAG)
    kinds = file.number(entries + 2, 2, little_endian)
    values = tf.where(
        kinds == LONG,
        file.number(entries + 8, 4, little_endian),
        tf.where(kinds == SHORT, file.number(entries + 8, 2, little_endian), 1),
    )
    packet = _part(file.content, xmp, xmp + tf.minimum(xmp_size, XMP_BYTES))
    in_xmp = tf.strings.regex_full_match(packet, XMP_ORIENTATION)
    digit = tf.where(in_xmp, tf.strings.regex_replace(packet, XMP_ORIENTATION, r"\1"), "1")
    value = tf.concat([[tf.strings.to_number(digit, tf.int64)], values], axis=0)[-1]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _upright(image, orientation):
    """Turns and mirrors pixels [h, w, 3] according to their EXIF orientation, 1…8."""
    steps = [
        (TRANSPOSED, lambda x: tf.transpose(x, [1, 0, 2])),
        (MIRRORED, lambda x: tf.reverse(x, [1])),
        (UPSIDE_DOWN, lambda x: tf.reverse(x, [0])),
    ]
    for asked_for, step in steps:
        image = tf.cond(
            tf.constant(asked_for)[orientation],
            lambda image=image, step=step: step(image),
            lambda image=image: image,
        )
    return image


def _decode_gif(file: Bytes, max_pixels: int):
    """Decodes the first frame, from a copy of the file without the others.

    In this copy, the transparent color is opaque white.
    """
    width, height = file.number(6, 2, True), file.number(8, 2, True)
    control, frame = _find_frame(file, 13 + _color_table_size(file, 10))
    fills = (file.number(frame + 1, 4, True) == 0) & (
        file.number(frame + 5, 4, True) == width + 65536 * height
    )
    checks = [
        _check_size(width, height, max_pixels),
        tf.debugging.Assert(fills, ["the first frame of a GIF must fill the image"]),
    ]
    with tf.control_dependencies(checks):
        local_table_size = _color_table_size(file, frame + 9)
    # Encoders put 255 bytes into all blocks but the last.
    most_blocks = tf.cast(MAX_BLOCKS + file.size // 64, tf.int32)
    end = _after_blocks(file, frame + 11 + local_table_size, most_blocks)
    content = tf.strings.join([_part(file.content, 0, end), b";"])
    colors = tf.where(local_table_size > 0, frame + 10, 13)
    transparent = (control > 0) & (tf.math.floormod(file.number(control + 3), 2) == 1)
    content = tf.cond(
        transparent,
        lambda: _replaced(
            _replaced(content, colors + 3 * file.number(control + 6), b"\xff\xff\xff"),
            control + 3,
            b"\0",
        ),
        lambda: content,
    )
    return tf.io.decode_gif(content)[0], *_no_metadata(file)


def _color_table_size(file: Bytes, flags):
    """The size in bytes of the color table that the flags at a position announce."""
    value = file.number(flags)
    num_colors = tf.pow(tf.constant(2, tf.int64), tf.math.floormod(value, 8) + 1)
    return tf.where(value >= 128, 3 * num_colors, 0)


def _find_frame(file: Bytes, start):
    """Returns the positions of the last control extension (0 without one) and the first frame."""

    def extension(control, position):
        control = tf.where(file.has(position, b"\x21\xf9"), position, control)
        return control, _after_blocks(file, position + 2, MAX_BLOCKS)

    return tf.while_loop(
        lambda _, position: file.has(position, b"\x21"),
        extension,
        [tf.constant(0, tf.int64), start],
        maximum_iterations=MAX_EXTENSIONS,
    )


def _after_blocks(file: Bytes, position, most):
    """The position after a sequence of at most `most` data blocks, which an empty block ends."""
    end = tf.while_loop(
        lambda position: file.number(position) > 0,
        lambda position: (position + 1 + file.number(position),),
        [position],
        maximum_iterations=most,
    )[0]
    return end + 1


def _decode_bmp(file: Bytes, max_pixels: int):
    height, depth = file.number(22, 4, True), file.number(28, 2, True)
    # A negative height means that the rows are stored from the top down.
    height = tf.where(height < 1 << 31, height, (1 << 32) - height)
    plain = (file.number(30, 4) == 0) & tf.reduce_any(depth == [8, 24, 32])
    checks = [
        _check_size(file.number(18, 4, True), height, max_pixels),
        tf.debugging.Assert(
            plain, ["a BMP must be uncompressed and of 8, 24 or 32 bits a pixel; bits:", depth]
        ),
    ]
    with tf.control_dependencies(checks):
        image = tf.io.decode_bmp(file.content)

    def by_palette():
        entries = 14 + file.number(14, 4, True) + 4 * tf.cast(image[..., 0], tf.int64)
        blue, green, red = (file.number(entries + channel) for channel in range(3))
        return tf.cast(tf.stack([red, green, blue], axis=-1), tf.uint8)

    return tf.cond(depth == 8, by_palette, lambda: image[..., :3]), *_no_metadata(file)


def _replaced(content, position, new: bytes):
    """A string scalar with the bytes at `position` replaced."""
    before, after = _part(content, 0, position), position + len(new)
    size = tf.cast(tf.strings.length(content), tf.int64)
    return tf.strings.join([before, new, _part(content, after, size)])


def _part(content, start, end):
    """The bytes `start`…`end` - 1 of a string scalar, as far as it has them."""
    size = tf.cast(tf.strings.length(content), tf.int64)
    start, end = tf.minimum(tf.cast(start, tf.int64), size), tf.minimum(end, size)
    return tf.strings.substr(content, start, tf.maximum(end - start, 0))
