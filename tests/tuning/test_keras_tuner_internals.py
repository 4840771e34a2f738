"""The attributes of keras-tuner that are not public, each by its name."""

import inspect

import keras_tuner
import pytest
from keras_tuner.src.distribute import utils as dist_utils
from keras_tuner.src.engine.base_tuner import BaseTuner

from tuning.keras_tuner_internals import asks_another_process

ORACLE = inspect.getsource(keras_tuner.Oracle)


def test_oracle_has_a_project_dir():
    assert isinstance(inspect.getattr_static(keras_tuner.Oracle, "_project_dir"), property)


def test_oracle_saves_trials_by_save_trial():
    assert list(inspect.signature(keras_tuner.Oracle._save_trial).parameters) == ["self", "trial"]
    # When a trial begins, when its metrics change, and when it ends.
    assert ORACLE.count("self._save_trial(trial)") == 3


def test_oracle_saves_itself_by_save():
    assert "self.save()" in ORACLE


def test_tuner_reloads_from_the_file_of_its_id():
    assert "self.tuner_id" in inspect.getsource(keras_tuner.Tuner._get_tuner_fname)
    assert "self._get_tuner_fname()" in inspect.getsource(keras_tuner.Tuner.reload)
    assert "self._get_tuner_fname()" in inspect.getsource(BaseTuner.__init__)


@pytest.mark.parametrize("tuner_id", ["chief", "worker-0"])
def test_the_roles_are_those_of_keras_tuner(monkeypatch, tuner_id):
    monkeypatch.setenv("KERASTUNER_TUNER_ID", tuner_id)
    assert not asks_another_process() and not dist_utils.has_chief_oracle()
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "8000")
    assert asks_another_process() == (not dist_utils.is_chief_oracle())
