import numpy as np
import pytest

from igpt_keras import ImageGPT
from igpt_keras.training.progress import ProgressBar


def test_the_bar_ends_with_the_epochs_and_the_latest_figures(config, tokens, capsys):
    model = ImageGPT(config)
    model.compile("adam")
    with ProgressBar("pre-training", ("loss", "val_loss", "other")) as bar:
        history = model.fit(
            tokens, validation_data=(tokens, None), epochs=2, callbacks=[bar], verbose=0
        ).history
    printed = capsys.readouterr().out
    assert "pre-training" in printed
    assert f"2/2 loss {history['loss'][-1]:.3f} val_loss {history['val_loss'][-1]:.3f}" in printed


def test_the_bar_stops_when_the_run_fails(config):
    model = ImageGPT(config)
    model.compile("adam")
    with pytest.raises(ValueError), ProgressBar("pre-training", ("loss",)) as bar:
        model.fit(np.zeros((2, 3), np.int32), callbacks=[bar], verbose=0)
    assert not bar.progress.live.is_started
