"""HParams events, read back by TensorBoard itself."""

import pytest
import tensorflow as tf
from keras_tuner import HyperParameters
from keras_tuner.engine.trial import Trial
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from tuning.events import write_session

VALUES = {"learning_rate": 0.003, "size": "4x64x4", "layers": 4, "name": "x" * 300}


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED"])
def test_a_session_tells_values_and_status(tmp_path, status):
    hp = HyperParameters()
    hp.values = dict(VALUES)
    trial = Trial(hp, "0000", status)
    trial.score = 1.25 if status == "COMPLETED" else None
    write_session(tmp_path / "events", trial, "val_loss")
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    content = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(data)
        for tag, data in events.PluginTagToContent("hparams").items()
    }
    start = content["_hparams_/session_start_info"].session_start_info
    values = {
        name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()
    }
    assert values == VALUES
    end = content["_hparams_/session_end_info"].session_end_info
    if status == "COMPLETED":
        (score,) = events.Tensors("val_loss")
        assert tf.make_ndarray(score.tensor_proto) == 1.25
        assert end.status == api_pb2.STATUS_SUCCESS
    else:
        assert "val_loss" not in events.Tags()["tensors"]
        assert end.status == api_pb2.STATUS_FAILURE


def test_without_tensorboard_there_are_no_events(tmp_path, monkeypatch):
    monkeypatch.setattr("tuning.events.can_write_events", lambda: False)
    write_session(tmp_path / "events", Trial(HyperParameters(), "0000", "COMPLETED"), "val_loss")
    assert not list(tmp_path.iterdir())
