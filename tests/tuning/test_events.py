"""HParams events, read back with the messages of google.protobuf."""

import tensorflow as tf
from google.protobuf import struct_pb2
from keras_tuner import HyperParameters
from keras_tuner.engine.trial import Trial

from tuning.events import write_session


def payload(content, field):
    """The bytes of a message that holds one field of bytes."""
    assert content[0] == field << 3 | 2
    length, shift, position = 0, 0, 1
    while True:
        byte = content[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    assert len(content) == position + length
    return content[position:]


def test_a_session_tells_values_and_status(tmp_path):
    values = {"learning_rate": 0.003, "size": "4x64x4", "layers": 4, "name": "x" * 300}
    hp = HyperParameters()
    hp.values = dict(values)
    trial = Trial(hp, "0000", "COMPLETED")
    trial.score = 1.25
    write_session(tmp_path / "events", trial, "val_loss")
    (file,) = (tmp_path / "events").iterdir()
    found = {
        value.tag: value
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }
    start = found["_hparams_/session_start_info"].metadata.plugin_data
    assert start.plugin_name == "hparams"
    # The first field of SessionStartInfo and that of Struct are the same map.
    assert dict(struct_pb2.Struct.FromString(payload(start.content, 3))) == values
    assert tf.make_ndarray(found["val_loss"].tensor) == 1.25
    end = payload(found["_hparams_/session_end_info"].metadata.plugin_data.content, 4)
    assert end[:2] == bytes([1 << 3, 1])
