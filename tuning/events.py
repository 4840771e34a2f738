"""Trials as sessions of TensorBoard's HParams page.

TensorBoard need not be installed. What its plugin reads are protocol buffers of three messages
(tensorboard/plugins/hparams/plugin_data.proto), short enough to be written by hand; numbers of
fields are those of that file and of google/protobuf/struct.proto.
"""

import pathlib
import struct
import time

from keras_tuner.engine.trial import Trial, TrialStatus

from igpt_keras.training.callbacks.history_logger import EventsFile

PLUGIN = "hparams"
SUCCESS, FAILURE = 1, 2
VARINT, DOUBLE, BYTES = 0, 1, 2


def write_session(folder: pathlib.Path, trial: Trial, objective: str) -> None:
    """Writes the events of a trial that ended: its hyperparameters, objective and status.

    Args:
        folder: of the trial's events, which has none yet.
        trial: with a score, or NaN.
        objective: name of the score.
    """
    completed = trial.status == TrialStatus.COMPLETED
    events = EventsFile(folder, 0)
    start = b"".join(
        _bytes(1, _bytes(1, name.encode()) + _bytes(2, _value(value)))
        for name, value in trial.hyperparameters.values.items()
    )
    events.add_metadata("_hparams_/session_start_info", PLUGIN, _bytes(3, start))
    if completed:
        events.add_figures({objective: trial.score}, 1)
    end = _key(1, VARINT) + bytes([SUCCESS if completed else FAILURE]) + _double(2, time.time())
    events.add_metadata("_hparams_/session_end_info", PLUGIN, _bytes(4, end))
    events.close()


def _value(value: bool | float | str) -> bytes:
    """A google.protobuf.Value."""
    if isinstance(value, bool):
        return _key(4, VARINT) + bytes([value])
    if isinstance(value, int | float):
        return _double(2, value)
    return _bytes(3, str(value).encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _key(field, BYTES) + _varint(len(content)) + content


def _double(field: int, number: float) -> bytes:
    return _key(field, DOUBLE) + struct.pack("<d", number)


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
