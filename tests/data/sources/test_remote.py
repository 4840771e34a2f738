"""Sources on other file systems: TensorFlow's, in memory, stands for those of object stores."""

import io
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from igpt_keras import InputError
from igpt_keras.data.data_set import open_data
from igpt_keras.data.tokenization import read_images


def png(index):
    pixels = np.random.default_rng(index).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, content):
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content)


def packed(mode):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for index in range(12):
            for name, content in (
                (f"{index:02d}.png", png(index)),
                (f"{index:02d}.cls", b"%d" % (index % 2)),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def example(index):
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[png(index)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[index % 2])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_folder(root):
    for index in range(12):
        write(f"{root}/photos/{'ab'[index % 2]}/{index:02d}.png", png(index))
    write(f"{root}/photos/.hidden/x.png", b"")
    return "folder", f"{root}/photos/"


def write_tar(root, mode="w", name="photos.tar"):
    write(f"{root}/{name}", packed(mode))
    return "tar", f"{root}/*{name.removeprefix('photos')}"


def write_tfrecord(root):
    with tf.io.TFRecordWriter(f"{root}/photos.tfrecord") as writer:
        for index in range(12):
            writer.write(example(index))
    return "tfrecord", f"{root}/photos.tfrec*"


@pytest.mark.parametrize(
    "write_source",
    [
        write_folder,
        write_tar,
        lambda root: write_tar(root, "w:gz", "photos.tar.gz"),
        write_tfrecord,
    ],
    ids=["folder", "tar", "compressed tar", "tfrecord"],
)
def test_remote_sources_are_what_local_ones_are(write_source, tmp_path):
    kind, remote = write_source("ram://bucket/remote")
    _, local = write_source(str(tmp_path))
    expected, data = (open_data(f"{kind}:{place}") for place in (local, remote))
    assert data.class_names == expected.class_names
    assert data.train.fingerprint() == expected.train.fingerprint()
    for split in ("train", "validation"):
        images, others = (read_images(getattr(each, split), 4) for each in (data, expected))
        np.testing.assert_array_equal(images.images, others.images)
        np.testing.assert_array_equal(images.labels, others.labels)


def test_what_is_not_there():
    for source in ("folder:ram://nowhere", "tar:ram://nowhere/*.tar", "tokens:ram://nowhere"):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            open_data(source)
    for source in ("folder:none://x", "tar:none://x/*.tar", "tokens:none://x/y"):
        with pytest.raises(InputError, match="scheme 'none' not implemented"):
            open_data(source)
