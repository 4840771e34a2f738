import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igpt_keras import InputError
from igpt_keras.data.image_decoding import ImageDecoder, decode, read_image

GENERATOR = np.random.default_rng(21)
PHOTO = GENERATOR.integers(0, 256, (6, 9, 3)).astype(np.uint8)
GREY = PHOTO[..., 0]
ALPHA = GENERATOR.integers(0, 256, (6, 9)).astype(np.uint8)


def encoded(image, image_format, **settings):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, image_format, **settings)
    return buffer.getvalue()


def png(rows, depth, color_type, height, width):
    """A PNG made by hand: `rows` are its bytes."""

    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def rgb(gray):
    return np.repeat(gray[..., None], 3, axis=-1)


def over_white(image, alpha):
    share = alpha[..., None] / 255
    return image * share + 255 * (1 - share)


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_same_pixels(image_format):
    image = decode(encoded(PHOTO, image_format))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, PHOTO)
    np.testing.assert_array_equal(decode(encoded(GREY, image_format)), rgb(GREY))


def test_lossless_webp():
    np.testing.assert_array_equal(decode(encoded(PHOTO, "WEBP", lossless=True)), PHOTO)


def test_jpegs_of_color_and_gray():
    flat = np.full((16, 16, 3), (200, 60, 90), np.uint8)
    np.testing.assert_allclose(decode(encoded(flat, "JPEG", quality=95)), flat, atol=3)
    gray = np.full((16, 16), 77, np.uint8)
    np.testing.assert_allclose(decode(encoded(gray, "JPEG")), rgb(gray), atol=1)


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_cmyk_is_ink_on_white(image_format):
    ink = np.array([10, 200, 30, 40])
    content = encoded(Image.new("CMYK", (16, 16), tuple(ink)), image_format)
    # Adobe's JPEGs hold CMYK inverted.
    assert (b"Adobe" in content) == (image_format == "JPEG")
    expected = (255 - ink[:3]) * (255 - ink[3]) / 255
    np.testing.assert_allclose(decode(content), np.full((16, 16, 3), expected), atol=3)


def test_transparency_is_laid_over_white():
    image = decode(encoded(np.dstack([PHOTO, ALPHA]), "PNG"))
    np.testing.assert_allclose(image, over_white(PHOTO, ALPHA), atol=1)
    image = decode(encoded(np.dstack([GREY, ALPHA]), "PNG"))
    np.testing.assert_allclose(image, over_white(rgb(GREY), ALPHA), atol=1)


@pytest.mark.parametrize("image_format", ["PNG", "GIF"])
def test_palettes_with_a_transparent_color(image_format):
    palette = np.array([[10, 20, 30], [200, 100, 0], [0, 0, 0], [50, 60, 70]], np.uint8)
    indices = GENERATOR.integers(0, 4, (6, 9)).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(decode(encoded(image, image_format)), palette[indices])
    expected = palette[indices]
    expected[indices == 2] = 255
    np.testing.assert_array_equal(decode(encoded(image, image_format, transparency=2)), expected)


def test_16_bits_keep_the_upper_8():
    values = GENERATOR.integers(0, 1 << 16, (6, 9, 3)).astype(">u2")
    upper = (values >> 8).astype(np.uint8)
    gray = np.ascontiguousarray(values[..., 0])
    content = png([row.tobytes() for row in gray], 16, 0, 6, 9)
    np.testing.assert_array_equal(decode(content), rgb(upper[..., 0]))
    content = png([row.tobytes() for row in values], 16, 2, 6, 9)
    np.testing.assert_array_equal(decode(content), upper)
    content = encoded(gray.astype(np.uint16), "TIFF")
    np.testing.assert_array_equal(decode(content), rgb(upper[..., 0]))


def test_16_bits_with_transparency():
    values = GENERATOR.integers(0, 1 << 16, (6, 9, 4)).astype(">u2")
    upper = (values >> 8).astype(np.uint8)
    content = png([row.tobytes() for row in values], 16, 6, 6, 9)
    np.testing.assert_allclose(decode(content), over_white(upper[..., :3], upper[..., 3]), atol=1)


def test_one_bit_is_black_and_white():
    bits = GREY > 127
    content = png([np.packbits(row).tobytes() for row in bits], 1, 0, 6, 9)
    np.testing.assert_array_equal(decode(content), rgb(np.where(bits, 255, 0)))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(image_format):
    frames = [Image.new("RGB", (9, 6), color) for color in ("red", "blue", "lime")]
    settings = {} if image_format == "GIF" else {"lossless": True}
    content = encoded(
        frames[0], image_format, save_all=True, append_images=frames[1:], duration=50, **settings
    )
    assert Image.open(io.BytesIO(content)).n_frames == 3
    np.testing.assert_array_equal(decode(content), np.full((6, 9, 3), (255, 0, 0)))


# Where the first row and the first column of the stored image are seen (EXIF 2.3, tag 274).
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_rotation_is_applied(image_format, orientation):
    first_row, first_column = ORIENTATIONS[orientation]
    # Four blocks, smooth enough for JPEG.
    stored = np.kron([[0, 90], [170, 255]], np.ones((16, 24))).astype(np.uint8)
    seen = stored
    if first_row in ("left", "right"):
        seen, first_row, first_column = seen.T, first_column, first_row
    seen = seen[::-1] if first_row == "bottom" else seen
    seen = seen[:, ::-1] if first_column == "right" else seen
    exif = Image.Exif()
    exif[274] = orientation
    settings = {"lossless": True} if image_format == "WEBP" else {}
    content = encoded(rgb(stored), image_format, exif=exif, **settings)
    np.testing.assert_allclose(decode(content), rgb(seen), atol=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"This is a text.", "no image"),
        (encoded(PHOTO, "JPEG")[:-40], "truncated"),
        (encoded(PHOTO, "PNG")[:80], "."),
        (png([], 8, 2, 30000, 30000), "decompression bomb"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    ],
)
def test_bad_images(content, message):
    with pytest.raises(InputError, match=message) as error:
        decode(content)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_damage_anywhere_gives_an_image_or_an_input_error():
    contents = [
        encoded(image, image_format)
        for image in (PHOTO, GREY)
        for image_format in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM")
    ]
    generator = np.random.default_rng(22)
    bad = 0
    for index in range(700):
        content = bytearray(contents[index % len(contents)])
        for place in generator.integers(0, len(content), 4):
            content[place] = generator.integers(0, 256)
        try:
            image = decode(bytes(content))
        except InputError:
            bad += 1
        else:
            assert image.dtype == np.uint8 and image.ndim == 3
    assert 100 < bad < 600


def test_read_image_averages_the_areas_of_the_center_square(tmp_path):
    photo = GENERATOR.integers(0, 256, (12, 20, 3)).astype(np.uint8)
    path = tmp_path / "photo.png"
    for stored, size in ((photo, 4), (photo.transpose(1, 0, 2), 4), (photo, 12)):
        path.write_bytes(encoded(np.ascontiguousarray(stored), "PNG"))
        square = stored[:, 4:16] if stored is photo else stored[4:16]
        blocks = square.reshape(size, 12 // size, size, 12 // size, 3).astype(np.float64)
        np.testing.assert_allclose(read_image(path, size), blocks.mean(axis=(1, 3)), atol=0.501)


def test_read_image_names_what_it_cannot_read(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(PHOTO, "PNG")[:100])
    with pytest.raises(InputError, match="photo.png cannot be read as an image"):
        read_image(path, 4)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png", 4)


class TestImageDecoder:
    def test_good_images_leave_no_trace(self):
        decoder = ImageDecoder()
        np.testing.assert_array_equal(decoder.decode(encoded(PHOTO, "PNG"), "photo"), PHOTO)
        assert decoder.bad == {}

    def test_a_bad_image_is_named(self):
        decoder = ImageDecoder()
        with pytest.raises(InputError, match=r"notes.jpg cannot be read as an image \(no image\)"):
            decoder.decode(b"text", "notes.jpg")
        assert decoder.bad == {"notes.jpg": "no image"}

    def test_or_skipped_and_counted(self):
        decoder = ImageDecoder(skip_bad_images=True)
        assert decoder.decode(b"text", "notes.jpg") is None
        assert decoder.decode(b"", "nothing.jpg") is None
        assert decoder.bad == {"notes.jpg": "no image", "nothing.jpg": "empty"}

    def test_errors_come_out_of_a_pipeline_as_they_were(self):
        decoder = ImageDecoder()

        def read(index):
            with decoder.record_errors():
                decoder.decode(b"text", f"{index}.jpg")

        numbers = tf.data.Dataset.range(3).map(lambda i: tf.numpy_function(read, [i], tf.uint8))
        with pytest.raises(InputError, match="^0.jpg cannot be read as an image"):
            with decoder.restore_errors():
                list(numbers)

    def test_other_errors_stay(self):
        with pytest.raises(tf.errors.InvalidArgumentError):
            with ImageDecoder().restore_errors():
                tf.reshape([1, 2, 3], [2])
