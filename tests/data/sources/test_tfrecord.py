import numpy as np
import pytest
import tensorflow as tf

from igpt_keras import ColorPalette, InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.sources.tfrecord import open_tfrecord
from igpt_keras.data.stream import TrainingStream
from tests.data.properties import check_hold_out, check_split
from tests.data.sources.packed import png, values, write_records, write_tar


@pytest.mark.parametrize(
    ("image", "label"), [("image/encoded", "image/class/label"), ("image", "label")]
)
def test_images_and_labels(tmp_path, image, label):
    for shard in range(2):
        examples = [
            {image: png(10 * shard + index), label: index % 3, "height": 2} for index in range(4)
        ]
        write_records(tmp_path / f"{shard}.tfrecord", examples)
    source = open_tfrecord(str(tmp_path / "*.tfrecord"))
    assert source.class_names == ["0", "1", "2"]
    expected = [(10 * shard + index, index % 3) for shard in range(2) for index in range(4)]
    assert values(source.train) == expected


@pytest.mark.parametrize("labels", [True, False])
def test_epochs_and_held_out_images(tmp_path, labels):
    examples = [
        {"jpg": png(index), **({"label": index % 2} if labels else {})} for index in range(45)
    ]
    write_records(tmp_path / "a.tfrecord", examples)
    split = open_tfrecord(str(tmp_path / "a.tfrecord")).train
    assert split.labeled == labels
    check_split(split)
    check_hold_out(split, 0.1, 4)


def test_unusable_contents(tmp_path):
    path = tmp_path / "a.tfrecord"
    for examples, message in (
        ([], "holds no records"),
        (
            [{"text": b"text", "id": 3}],
            "must hold an image file under .*; it holds id, text",
        ),
        ([{"image": png(1), "label": 1}, {"image": png(1)}], "at .* has no label, but"),
        ([{"image": png(1), "label": b"cat"}], "must hold one integer under label, got 0"),
        ([{"image": png(1), "label": 1_000_000}], "labels below 1,000,000"),
    ):
        write_records(path, examples)
        with pytest.raises(InputError, match=message):
            open_tfrecord(str(path))
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff\xff")
    with pytest.raises(InputError, match="is not a tf.train.Example"):
        open_tfrecord(str(path))


def test_files_named_after_splits(tmp_path):
    for index, split in enumerate(("train", "validation", "test")):
        examples = [{"image": png(index), "label": index}]
        write_records(tmp_path / f"{split}-00000-of-00001", examples)
    source = open_tfrecord(str(tmp_path / "*-of-*"))
    splits = source.train, source.validation, source.test
    assert [values(split) for split in splits] == [[(i, i)] for i in range(3)]
    assert source.class_names == ["0", "1", "2"]


def test_the_fingerprint_is_that_of_content(tmp_path):
    def fingerprint(name, *grays):
        write_records(tmp_path / name, [{"image": png(gray)} for gray in grays])
        return open_tfrecord(str(tmp_path / name)).train.fingerprint()

    assert fingerprint("a", 1, 2) == fingerprint("b", 1, 2) != fingerprint("b", 1, 3)


def test_damaged_files(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [{"image": png(index)} for index in range(3)])
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"\0\0", b"This is a text."):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a.tfrecord is not a TFRecord file, is compr"):
            open_tfrecord(str(path))


def test_mixed_with_weights_and_shared_by_workers(tmp_path):
    write_tar(tmp_path / "a.tgz", [(f"{index}.png", png(index)) for index in range(20)])
    write_records(tmp_path / "b.tfrecord", [{"image": png(100 + index)} for index in range(30)])
    grays = ColorPalette(np.repeat(np.arange(256)[:, None] / 127.5 - 1, 3, axis=1))
    specs = [f"tar:{tmp_path}/a.tgz@weight=3", f"tfrecord:{tmp_path}/b.tfrecord@weight=1"]
    stream = TrainingStream(open_data(specs).sources, grays.bind(1), 8, seed=3)

    def numbers(count, **where):
        batches = stream.dataset(**where).take(count)
        return np.stack([batch.numpy()[:, 0] for batch in batches])

    seen = numbers(60)
    assert abs((seen < 100).mean() - 0.75) < 5 * np.sqrt(0.75 * 0.25 / seen.size)
    np.testing.assert_array_equal(numbers(5, start_step=7), seen[7:12])
    shares = [numbers(5, start_step=7, worker=worker, num_workers=2) for worker in range(2)]
    np.testing.assert_array_equal(np.stack(shares, axis=2).reshape(5, 8), seen[7:12])
