"""Small tar and TFRecord files of images that differ in their gray."""

import io
import tarfile

import tensorflow as tf
from PIL import Image

from igpt_keras.data.image_decoding import decode
from tests.data.properties import records


def png(value):
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    """A tar of `members`: names and contents."""
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_records(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for features in examples:
            feature = {}
            for key, value in features.items():
                if isinstance(value, bytes):
                    feature[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
                else:
                    feature[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString())


def values(split):
    """The gray of every image by its order, and its label."""
    read = records(split, split.in_order())
    return [(int(decode(record.image)[0, 0, 0]), record.label) for record in read]
