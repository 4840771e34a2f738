"""Decoding in a graph compared with Pillow's, on photographs and on rare or hostile files."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from igpt_keras.data.image_decoding import decode, read_image
from serving.exporting.image_decoding import decode_image, fit_to_size
from serving.image_headers import LARGEST_JPEG, declared_pixels

MAX_PIXELS = 1 << 20
ORIENTATION = 0x0112
ADAPTIVE = Image.Palette.ADAPTIVE


@pytest.fixture(scope="module")
def decode_in_graph():
    graph = tf.function(
        lambda content: decode_image(content, MAX_PIXELS),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )
    return lambda content: graph(content).numpy()


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg"])
def photo(request):
    """A photograph of 217 rows and 333 columns: sides that no block of a JPEG divides."""
    return Image.fromarray(load_sample_image(request.param)[100:317, 200:533])


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def oriented(image, file_format, orientation):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[ORIENTATION] = orientation
    return encoded(image, file_format, exif=exif)


def with_noise_as_alpha(image):
    alpha = np.random.default_rng(0).integers(0, 256, (image.height, image.width), np.uint8)
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def files_of(photo):
    """Files by what is particular to them."""
    gray, paletted, alpha = photo.convert("L"), photo.convert("P"), with_noise_as_alpha(photo)
    four = photo.convert("P", palette=ADAPTIVE, colors=4)
    sixteen_bits = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257 - 3)
    used = paletted.getpixel((5, 5))
    return {
        **{f"JPEG quality {q}": encoded(photo, "JPEG", quality=q) for q in (30, 75, 95, 100)},
        **{f"JPEG subsampling {s}": encoded(photo, "JPEG", subsampling=s) for s in (0, 1, 2)},
        "JPEG progressive": encoded(photo, "JPEG", progressive=True),
        "JPEG gray": encoded(gray, "JPEG"),
        "JPEG CMYK": encoded(photo.convert("CMYK"), "JPEG"),
        "PNG": encoded(photo, "PNG"),
        "PNG gray": encoded(gray, "PNG"),
        "PNG palette": encoded(paletted, "PNG"),
        "PNG 2 bits": encoded(four, "PNG"),
        "PNG 1 bit": encoded(photo.convert("1"), "PNG"),
        "PNG 16 bits": encoded(sixteen_bits, "PNG"),
        "PNG alpha": encoded(alpha, "PNG"),
        "PNG gray, alpha": encoded(alpha.convert("LA"), "PNG"),
        "PNG palette, one transparent": encoded(paletted, "PNG", transparency=used),
        "PNG palette, alpha": encoded(paletted, "PNG", transparency=bytes(range(256))),
        "PNG 2 bits, one transparent": encoded(four, "PNG", transparency=2),
        "PNG 1 bit, one transparent": encoded(photo.convert("1"), "PNG", transparency=0),
        "PNG gray, one transparent": encoded(gray, "PNG", transparency=gray.getpixel((5, 5))),
        "PNG colors, one transparent": encoded(photo, "PNG", transparency=photo.getpixel((5, 5))),
        "GIF": encoded(photo, "GIF"),
        "GIF gray": encoded(gray, "GIF"),
        "GIF, one transparent": encoded(paletted, "GIF", transparency=used),
        "GIF of two frames": encoded(photo, "GIF", save_all=True, append_images=[gray]),
        "GIF interlaced": encoded(photo, "GIF", interlace=1),
        "BMP": encoded(photo, "BMP"),
        "BMP gray": encoded(gray, "BMP"),
        "BMP palette": encoded(paletted, "BMP"),
        "BMP 32 bits": encoded(alpha, "BMP"),
    }


def test_files_are_decoded_as_pillow_does(photo, decode_in_graph):
    for name, content in files_of(photo).items():
        np.testing.assert_array_equal(decode_in_graph(content), decode(content), err_msg=name)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_photographs_are_turned_upright(photo, decode_in_graph, file_format):
    shapes = set()
    for orientation in range(10):
        content = oriented(photo, file_format, orientation)
        image = decode_in_graph(content)
        shapes.add(image.shape)
        np.testing.assert_array_equal(image, decode(content), err_msg=f"EXIF {orientation}")
    assert shapes == {(217, 333, 3), (333, 217, 3)}


def test_every_pair_of_value_and_alpha_is_laid_over_white_as_by_pillow(decode_in_graph):
    value, alpha = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    content = encoded(Image.fromarray(np.stack([value, value, value, alpha], axis=-1)), "PNG")
    np.testing.assert_array_equal(decode_in_graph(content), decode(content))


@pytest.mark.parametrize(
    "size",
    [
        (1, 1),
        (1, 9),
        (2, 1023),
        *(pytest.param(size, marks=pytest.mark.slow) for size in [(9, 1), (1023, 2), (64, 65)]),
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_sizes_and_shapes_reach_the_model_as_in_python(
    decode_in_graph, tmp_path, file_format, size
):
    pixels = load_sample_image("china.jpg").repeat(2, axis=1)[: size[0], : size[1]]
    (tmp_path / "image").write_bytes(encoded(Image.fromarray(pixels), file_format))
    image = decode_in_graph((tmp_path / "image").read_bytes())
    np.testing.assert_array_equal(fit_to_size(image, 16), read_image(tmp_path / "image", 16))


def test_fit_to_size_averages_the_areas_of_the_center_square():
    photo = np.random.default_rng(11).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    square = photo[:, 4:16].astype(np.float64)
    expected = square.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(fit_to_size(photo, 4), expected, atol=0.5 + 1e-4)
    upright = photo.transpose(1, 0, 2)
    np.testing.assert_array_equal(
        fit_to_size(upright, 4), np.transpose(fit_to_size(photo, 4), (1, 0, 2))
    )


def test_fit_to_size_leaves_images_of_that_size_as_they_are():
    square = np.random.default_rng(11).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    np.testing.assert_array_equal(fit_to_size(square, 12), square)


def refusal(decode_in_graph, content) -> str:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode_in_graph(content)
    return str(caught.value)


def png_of_size(width, height):
    content = bytearray(encoded(Image.new("RGB", (4, 4)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    return bytes(content)


def gif_of_size(width, height):
    content = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def gif_with_frame_of_size(width, height):
    content = bytearray(encoded(Image.new("P", (4, 4)), "GIF"))
    frame = content.index(b"\x2c\0\0\0\0\4\0\4\0")
    content[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_of_size(width, height):
    content = bytearray(encoded(Image.new("RGB", (4, 4)), "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def jpeg_of_size(width, height):
    content = bytearray(encoded(Image.new("RGB", (4, 4)), "JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize("make", [png_of_size, gif_of_size, bmp_of_size, jpeg_of_size])
@pytest.mark.parametrize("size", [(60_000, 60_000), (60_000, 18), (1025, 1024)])
def test_bombs_are_refused_by_what_they_declare(decode_in_graph, make, size):
    message = refusal(decode_in_graph, make(*size))
    assert f"1…{MAX_PIXELS} pixels" in message
    assert str(size[0]) in message


@pytest.mark.parametrize("size", [(2**31 - 1, 2**31 - 1), (2**31, 2), (2**32 - 1, 2**32 - 1)])
def test_sizes_whose_product_overflows_are_refused(decode_in_graph, size):
    assert f"1…{MAX_PIXELS} pixels" in refusal(decode_in_graph, png_of_size(*size))


def test_a_bmp_of_negative_height_is_measured_by_its_amount(decode_in_graph):
    assert f"1…{MAX_PIXELS} pixels" in refusal(decode_in_graph, bmp_of_size(4, -(2**31)))


def test_a_frame_that_is_larger_than_its_gif_is_refused(decode_in_graph):
    assert "must fill the image" in refusal(decode_in_graph, gif_with_frame_of_size(60_000, 9))


def test_an_image_of_the_largest_size_is_decoded(decode_in_graph):
    content = encoded(Image.new("RGB", (1024, 1024)), "PNG")
    assert decode_in_graph(content).shape == (1024, 1024, 3)


@pytest.mark.parametrize("make", [png_of_size, gif_of_size, bmp_of_size, jpeg_of_size])
def test_what_is_declared_is_read_without_decoding(make):
    for size in [(60_000, 60_000), (60_000, 18), (1025, 1024), (1, 1), (0, 7)]:
        assert declared_pixels(make(*size)) == size[0] * size[1]
    largest = (1 << 32) - 1
    assert declared_pixels(png_of_size(largest, largest)) == largest**2
    assert declared_pixels(bmp_of_size(4, -(2**31))) == 4 * 2**31


def test_every_file_declares_what_it_is_decoded_to(photo, decode_in_graph):
    """Files of all kinds and sizes, oriented, cut, changed and with bytes between segments."""
    generator = np.random.default_rng(0)
    files = [*files_of(photo).values(), oriented(photo, "JPEG", 6), oriented(photo, "PNG", 5)]
    small = [
        encoded(photo.resize(generator.integers(1, 40, 2)), file_format, **options)
        for file_format in ("PNG", "JPEG", "GIF", "BMP")
        for options in ({}, {"progressive": True})
    ]
    decoded = 0
    for content in files + [content for content in small for _ in range(30)]:
        candidates = [content]
        if content in small:
            place, changed = generator.integers(2, 200), bytearray(content)
            changed[place % len(content)] = generator.integers(256)
            inserted = bytes(generator.choice([0, 1, 0xD3, 0xFE, 0xFF], 5))
            segment = content.find(b"\xff", place)
            candidates = [
                bytes(changed),
                bytes(changed[: generator.integers(len(content) + 1)]),
                content[:segment] + inserted + content[segment:],
            ]
        for candidate in candidates:
            declared = declared_pixels(candidate)
            try:
                image = decode_in_graph(candidate)
            except tf.errors.InvalidArgumentError:
                continue
            assert declared == image.shape[0] * image.shape[1]
            decoded += 1
    assert decoded > 200


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (b"", 0),
        (b"no image", 0),
        (b"\x89PNG\r\n\x1a\n", 0),
        (b"GIF89a\1", 0),
        (b"\xff\xd8\xff", 0),
        # A frame after the first scan is none.
        (b"\xff\xd8\xff\xda\0\2" + b"\xff\xc0\0\x11\x08\1\0\1\0", 0),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 999 + b"\xff\xc0\0\x11\x08\1\0\1\0", 1 << 16),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 1000, LARGEST_JPEG),
        (b"\xff\xd8" + b"\xff\xff\0" * 1_000_000, 0),
    ],
)
def test_headers_that_no_program_writes(content, pixels):
    assert declared_pixels(content) == pixels


def test_a_jpeg_of_many_scans_is_refused(photo, decode_in_graph):
    content = encoded(photo, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan, end = content[last:-2], content[-2:]
    few, many = (content[:last] + scan * count + end for count in (20, 200))
    np.testing.assert_array_equal(decode_in_graph(few), decode(few))
    assert "at most 100 scans" in refusal(decode_in_graph, many)


@pytest.mark.parametrize("parts", ["PNG chunks", "GIF extensions", "GIF blocks"])
def test_files_of_very_many_parts_end(decode_in_graph, parts):
    if parts == "PNG chunks":
        content = encoded(Image.new("RGB", (4, 4)), "PNG")
        content = content[:33] + b"\0\0\0\0teXt\xd9\xd4\xc1\xfa" * 50_000 + content[33:]
    else:
        content = encoded(Image.new("P", (4, 4)), "GIF")
        frame = content.index(b"\x2c\0\0\0\0\4\0\4\0")
        comment = b"\x21\xfe\1a\0"
        if parts == "GIF blocks":
            comment = b"\x21\xfe" + b"\1a" * 100_000 + b"\0"
        content = content[:frame] + comment * (1 if parts == "GIF blocks" else 50_000)
    try:
        decode_in_graph(content)
    except tf.errors.InvalidArgumentError:
        pass


@pytest.mark.parametrize("content", [b"", b"\x89", b"RIFF\0\0\0\0WEBP", b"no image" * 9])
def test_what_is_no_image_is_refused(decode_in_graph, content):
    assert "Unknown image file format" in refusal(decode_in_graph, content)


def test_damaged_files_end_in_an_error_or_an_image(photo, decode_in_graph):
    """Cut anywhere, or with any byte changed: never a crash, a hang or another error."""
    generator = np.random.default_rng(0)
    small = photo.crop((0, 0, 23, 17))
    files = [oriented(small, "JPEG", 6), oriented(small, "PNG", 6)]
    files += [encoded(small.convert("P"), "GIF", transparency=3), encoded(small, "BMP")]
    outcomes = set()
    for content in files:
        for _ in range(40):
            damaged = bytearray(content)
            # Headers are where it matters.
            damaged[generator.integers(min(len(content), 200))] = generator.integers(256)
            cut = bytes(damaged[: generator.integers(len(content) + 1)])
            for candidate in (bytes(damaged), cut):
                try:
                    outcomes.add(decode_in_graph(candidate).ndim)
                except tf.errors.InvalidArgumentError:
                    outcomes.add("refused")
    assert outcomes == {3, "refused"}
