"""The same files read in Python, in the graph of an export and through the client.

What is right is made here with NumPy; Pillow and TensorFlow only write files or read them.
"""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms

from igpt_keras import InputError
from igpt_keras.data.augmentation import center_square
from igpt_keras.data.image_decoding import MAX_SIDE, decode
from serving.client.images import encoded_images
from serving.exporting import MAX_PIXELS
from serving.exporting.image_decoding import decode_image

GENERATOR = np.random.default_rng(31)
# Gray blocks of 16 × 16, which a JPEG stores nearly as they are.
STORED = np.kron(np.arange(0, 250, 10).reshape(5, 5), np.ones((16, 32))).astype(np.uint8)
PHOTO = GENERATOR.integers(0, 256, (6, 8, 3)).astype(np.uint8)
ALPHA = GENERATOR.integers(0, 256, (6, 8)).astype(np.uint8)
LEVELS = GENERATOR.integers(0, 1 << 16, (6, 8)).astype(np.uint16)
LEVELS[2, 3] = LEVELS[5, 0] = 40_000
REFUSED = "refused"


def rgb(gray):
    return np.repeat(gray[..., None], 3, axis=-1)


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, file_format, **options)
    return file.getvalue()


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(samples, depth, color_type, before=b"", after=b""):
    """A PNG made by hand, with further chunks before and after those of the pixels."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(samples))
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + END


END = chunk(b"IEND", b"")


def tiff_of_12_bits(levels):
    """A TIFF made by hand; an even number of columns."""
    height, width = levels.shape
    left, right = levels[:, ::2].astype(int), levels[:, 1::2].astype(int)
    triples = np.stack([left >> 4, (left & 15) << 4 | right >> 8, right & 255], axis=-1)
    data = triples.astype(np.uint8).tobytes()
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def exif(order, kind, orientation):
    """EXIF with an orientation alone: a SHORT (kind 3) or a LONG (4)."""
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *[orientation, 0][: 5 - kind])
    mark = b"MM\0*" if order == ">" else b"II*\0"
    entry = struct.pack(order + "HHHI", 1, 274, kind, 1)
    return mark + struct.pack(order + "I", 8) + entry + value + bytes(4)


def orientations():
    """Files whose first row is seen on the right and whose first column is seen above."""
    seen = rgb(STORED.T[:, ::-1])
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    element = b"<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"
    plain = exif("<", 3, 6)
    jpeg = encoded(rgb(STORED), "JPEG", exif=b"Exif\0\0" + plain)
    gray = STORED
    text = b"XML:com.adobe.xmp\0\0\0\0\0"
    digits = (b"Exif\0\0" + plain).hex().encode()
    profile = b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(digits) // 2, digits)
    by_place = {
        "JPEG EXIF": jpeg,
        "JPEG EXIF, fill bytes": jpeg.replace(b"\xff\xe1", b"\xff\xff\xff\xe1", 1),
        **{
            f"JPEG EXIF {order} {kind}": encoded(
                rgb(STORED), "JPEG", exif=b"Exif\0\0" + exif(order, kind, 6)
            )
            for order in "<>"
            for kind in (3, 4)
        },
        "JPEG XMP": encoded(rgb(STORED), "JPEG", xmp=packet),
        "JPEG XMP element": encoded(rgb(STORED), "JPEG", xmp=element),
        "JPEG EXIF before XMP": encoded(
            rgb(STORED), "JPEG", exif=b"Exif\0\0" + plain, xmp=packet.replace(b"6", b"3")
        ),
        "PNG eXIf": png(gray, 8, 0, chunk(b"eXIf", plain)),
        "PNG eXIf at the end": png(gray, 8, 0, after=chunk(b"eXIf", plain)),
        "PNG eXIf as in JPEG": png(gray, 8, 0, chunk(b"eXIf", b"Exif\0\0" + plain)),
        "PNG XMP": png(gray, 8, 0, chunk(b"iTXt", text + packet)),
    }
    for name, content in by_place.items():
        yield name, content, seen, seen
    yield "WebP EXIF", encoded(rgb(STORED), "WEBP", lossless=True, exif=plain), seen, REFUSED
    tag = Image.Exif()
    tag[274] = 6
    yield "TIFF tag", encoded(rgb(STORED), "TIFF", exif=tag), seen, REFUSED
    # A graph would have to read hexadecimal text, or to unpack it.
    yield "PNG raw profile", png(gray, 8, 0, chunk(b"tEXt", profile)), seen, rgb(STORED)
    packed = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(packet)
    yield "PNG packed XMP", png(gray, 8, 0, chunk(b"iTXt", packed)), seen, rgb(STORED)


def depths():
    upper = rgb((LEVELS >> 8).astype(np.uint8))
    samples = LEVELS.astype(">u2")
    hole = upper.copy()
    hole[LEVELS == 40_000] = 255
    colors = np.dstack([samples] * 3).astype(">u2")
    color = struct.pack(">HHH", 40_000, 1, 1)
    pgm = b"P5 8 6 65535 " + samples.tobytes()
    yield "PNG 16 bits", png(samples, 16, 0), upper, upper
    yield "PNG 16 bits, colors", png(colors, 16, 2), upper, upper
    one = chunk(b"tRNS", struct.pack(">H", 40_000))
    yield "PNG 16 bits, one transparent", png(samples, 16, 0, one), hole, hole
    hidden = png(colors, 16, 2, chunk(b"tRNS", color))
    yield "PNG 16 bits, one transparent color", hidden, REFUSED, upper
    yield "PGM 16 bits", pgm, upper, REFUSED
    yield "TIFF 16 bits", encoded(LEVELS, "TIFF"), upper, REFUSED
    negative = encoded(LEVELS, "TIFF", tiffinfo={262: 0})
    yield "TIFF 16 bits, 0 is white", negative, 255 - upper, REFUSED
    yield "TIFF 12 bits", tiff_of_12_bits(LEVELS >> 4), upper, REFUSED
    yield "TIFF 32 bits", encoded(LEVELS.astype(np.int32) >> 8, "TIFF"), REFUSED, REFUSED
    yield "TIFF float", encoded(PHOTO[..., 0] / np.float32(255), "TIFF"), REFUSED, REFUSED


def transparencies():
    share = ALPHA[..., None] / 255
    seen = np.rint(PHOTO * share + 255 * (1 - share)).astype(np.uint8)
    image = np.dstack([PHOTO, ALPHA])
    yield "PNG alpha", encoded(image, "PNG"), seen, seen
    yield "TIFF alpha", encoded(image, "TIFF"), seen, REFUSED
    lossless = encoded(image, "WEBP", lossless=True, exact=True)
    yield "WebP alpha", lossless, seen, REFUSED
    indices = GENERATOR.integers(0, 4, (6, 8)).astype(np.uint8)
    palette = np.array([[9, 8, 7], [200, 0, 9], [0, 0, 0], [50, 60, 70]], np.uint8)
    paletted = Image.fromarray(indices, "P")
    paletted.putpalette(palette.tobytes())
    seen = palette[indices]
    seen[indices == 2] = 255
    for file_format in ("PNG", "GIF"):
        yield f"{file_format} palette", encoded(paletted, file_format, transparency=2), seen, seen


def others():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert b"acsp" in profile
    yield "PNG with a color profile", encoded(PHOTO, "PNG", icc_profile=profile), PHOTO, PHOTO
    bits = PHOTO[..., 0] > 127
    white = rgb(np.where(bits, np.uint8(255), np.uint8(0)))
    yield "BMP 1 bit", encoded(Image.fromarray(bits), "BMP"), white, REFUSED
    yield "PPM", encoded(PHOTO, "PPM"), PHOTO, REFUSED
    side = MAX_SIDE + 3
    large = GENERATOR.integers(0, 2, (side, side + 2)).astype(bool)
    blocks = large[: side - 1, : side + 1].reshape(side // 2, 2, side // 2 + 1, 2)
    means = (blocks.sum(axis=(1, 3)) * 255 + 2) // 4
    yield "PNG of more pixels", encoded(Image.fromarray(large), "PNG"), rgb(means), REFUSED
    bomb = bytearray(encoded(PHOTO, "PNG"))
    bomb[16:24] = struct.pack(">II", 9_000, 9_000)
    yield "PNG of far more pixels", bytes(bomb), REFUSED, REFUSED
    yield "JPEG cut off", encoded(rgb(STORED), "JPEG")[:-40], REFUSED, REFUSED
    yield "text", b"no image", REFUSED, REFUSED
    yield "nothing", b"", REFUSED, REFUSED


FILES = [
    pytest.param(content, seen, in_graph, id=name)
    for kind in (orientations, depths, transparencies, others)
    for name, content, seen, in_graph in kind()
]


@pytest.fixture(scope="module")
def decode_in_graph():
    graph = tf.function(
        lambda content: decode_image(content, MAX_PIXELS),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )

    def call(content):
        try:
            return graph(content).numpy()
        except tf.errors.InvalidArgumentError:
            return REFUSED

    return call


def decode_or_refuse(image):
    try:
        return decode(image)
    except InputError:
        return REFUSED


def assert_seen(image, expected):
    assert (image is REFUSED) == (expected is REFUSED)
    if image is not REFUSED:
        np.testing.assert_allclose(image.astype(int), expected, atol=2)


@pytest.mark.parametrize(("content", "seen", "in_graph"), FILES)
def test_a_file_is_read_alike_everywhere(decode_in_graph, content, seen, in_graph):
    image, other = decode_or_refuse(content), decode_in_graph(content)
    assert_seen(image, seen)
    assert_seen(other, in_graph)
    if in_graph is seen is not REFUSED:
        np.testing.assert_array_equal(image, other)
    if seen is REFUSED:
        with pytest.raises(InputError, match=r"images\[1\] cannot be read as an image"):
            encoded_images([PHOTO, content])
        return
    # As a file, and opened by Pillow.
    for sent in encoded_images([content, Image.open(io.BytesIO(content))]):
        arrived = center_square(decode_in_graph(sent))
        assert_seen(arrived, center_square(seen))
    np.testing.assert_array_equal(arrived, center_square(image))


def test_sent_jpegs_are_the_files_themselves():
    content = encoded(PHOTO, "JPEG")
    assert encoded_images([content])[0] == content


@pytest.mark.parametrize("shape", [(2 * 2048 - 1, 2051), (2049, 6000), (4099, 4101)])
def test_a_graph_for_larger_images_averages_as_python_does(shape):
    pixels = GENERATOR.integers(0, 256, (*shape, 3)).astype(np.uint8)
    content = encoded(pixels, "BMP")
    np.testing.assert_array_equal(decode_image(content, 1 << 26), decode(content))


def test_a_large_image_is_averaged_down_by_a_whole_number():
    pixels = GENERATOR.integers(0, 256, (3 * 2048 - 1, 6200)).astype(np.uint8)
    image = decode(Image.fromarray(pixels))
    assert image.shape == (2047, 2066, 3)
    means = pixels[: 3 * 2047, : 3 * 2066].reshape(2047, 3, 2066, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(image[..., 0], means, atol=0.57)
