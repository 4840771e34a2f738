import io

import numpy as np
import pytest
from PIL import Image

from igpt_keras import InputError
from igpt_keras.data.images import fit_to_size, read_image


@pytest.fixture
def photo():
    return np.random.default_rng(11).integers(0, 256, (12, 20, 3)).astype(np.uint8)


def encoded(image, image_format):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format)
    return buffer.getvalue()


def test_fit_to_size_averages_the_areas_of_the_center_square(photo):
    square = photo[:, 4:16].astype(np.float64)
    expected = square.reshape(4, 3, 4, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(fit_to_size(photo, 4), expected, atol=0.5 + 1e-4)
    upright = photo.transpose(1, 0, 2)
    np.testing.assert_array_equal(
        fit_to_size(upright, 4), np.transpose(fit_to_size(photo, 4), (1, 0, 2))
    )


def test_fit_to_size_leaves_images_of_that_size_as_they_are(photo):
    square = photo[:, :12]
    np.testing.assert_array_equal(fit_to_size(square, 12), square)


def test_read_image_names_what_it_cannot_read(photo, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encoded(photo, "PNG"))
    np.testing.assert_array_equal(read_image(path, 4), fit_to_size(photo, 4))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="photo.png cannot be read as an image"):
        read_image(path, 4)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png", 4)
