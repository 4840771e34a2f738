import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from igpt_keras.data.sample_sets import SampleSet, write_sample_set
from igpt_keras.errors import InputError


def images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def read(path, size):
    return np.concatenate(list(SampleSet(path).batches(size)))


def test_a_set_is_what_the_evaluator_of_guided_diffusion_reads(tmp_path):
    """It opens `arr_0.npy` in the archive, reads the header and then rows in order."""
    expected = images(70, 4)
    write_sample_set(tmp_path / "samples.npz", expected)
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        assert archive.namelist() == ["arr_0.npy"]
        with archive.open("arr_0.npy") as file:
            assert np.lib.format.read_magic(file) == (1, 0)
            header = np.lib.format.read_array_header_1_0(file)
            assert header == ((70, 4, 4, 3), False, np.dtype(np.uint8))
            assert file.read() == expected.tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("count", [1, 32, 70])
def test_images_come_back_a_few_at_a_time(tmp_path, save, count):
    expected = images(count, 4)
    save(tmp_path / "set.npz", expected)
    samples = SampleSet(tmp_path / "set.npz")
    assert (len(samples), samples.format) == (count, "npz")
    batches = list(samples.batches(4))
    assert max(map(len, batches)) <= 32
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_images_are_cropped_and_averaged(tmp_path):
    stored = np.zeros((3, 4, 8, 3), np.uint8)
    stored[:, :2, 2:4] = 200
    stored[:, :, [0, 1, 6, 7]] = 77  # Outside of the center square.
    np.savez(tmp_path / "set.npz", stored)
    expected = np.zeros((3, 2, 2, 3), np.uint8)
    expected[:, 0, 0] = 200
    np.testing.assert_array_equal(read(tmp_path / "set.npz", 2), expected)


def test_a_folder_is_its_images_without_the_contact_sheet(tmp_path):
    expected = images(3, 4)
    for index, name in enumerate(["a.png", "b.PNG", "c.bmp"]):
        enlarged = Image.fromarray(expected[index]).resize((8, 8), Image.Resampling.NEAREST)
        enlarged.save(tmp_path / name)
    for name in ("contact-sheet.png", ".hidden.png"):
        Image.new("RGB", (50, 90)).save(tmp_path / name)
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "below").mkdir()
    samples = SampleSet(tmp_path)
    assert (len(samples), samples.format) == (3, "bmp, png")
    np.testing.assert_array_equal(read(tmp_path, 4), expected)
    # The whole set, where there is one.
    write_sample_set(tmp_path / "samples.npz", images(5, 4))
    assert len(SampleSet(tmp_path)) == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": images(2, 4)}, "no item named 'arr_0.npy'"),
        ({"arr_0": images(2, 4) / 255}, "got float64 [2, 4, 4, 3]"),
        ({"arr_0": images(2, 4)[..., 0]}, "got uint8 [2, 4, 4]"),
        ({"arr_0": images(2, 4).transpose(0, 3, 1, 2)}, "got uint8 [2, 3, 4, 4]"),
        ({"arr_0": np.asfortranarray(images(2, 4))}, "in Fortran's order"),
        ({"arr_0": images(0, 4)}, "got uint8 [0, 4, 4, 3]"),
    ],
)
def test_other_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(InputError, match=re.escape(message)):
        SampleSet(tmp_path / "set.npz")


def test_what_is_no_set_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.npz"):
        SampleSet(tmp_path / "no.npz")
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(InputError, match=r"text\.npz must be a \.npz file .* not a zip file"):
        SampleSet(tmp_path / "text.npz")
    with pytest.raises(InputError, match=r"holds no samples\.npz and no images"):
        SampleSet(tmp_path)


def test_a_damaged_set_is_an_error_and_no_short_set(tmp_path):
    path = tmp_path / "set.npz"
    write_sample_set(path, images(40, 4))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="Bad CRC-32"):
        read(path, 4)
    # Fewer images than the header says.
    with zipfile.ZipFile(path, "w") as archive, archive.open("arr_0.npy", "w") as file:
        about = {"descr": "|u1", "fortran_order": False, "shape": (9, 4, 4, 3)}
        np.lib.format.write_array_header_1_0(file, about)
        file.write(bytes(4 * 4 * 4 * 3))
    with pytest.raises(InputError, match="must be a .npz file"):
        read(path, 4)
