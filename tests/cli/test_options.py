import pytest

from igpt_keras.cli.finetune import finetune
from igpt_keras.cli.pretrain import pretrain
from igpt_keras.cli.probe import probe
from igpt_keras.runs import finetune as finetuning
from igpt_keras.runs import pretrain as pretraining
from igpt_keras.runs import probe as probing
from igpt_keras.runs.options import DataOptions, TrainingOptions

DATA = ["--data", "digits", "--output", "run"]
SIZES = {"steps": 1, "image_size": 8, "num_layers": 1, "hidden_dim": 8, "num_heads": 1}


@pytest.mark.parametrize(
    ("command", "words", "settings"),
    [
        (
            pretrain,
            [f"--{name.replace('_', '-')}={size}" for name, size in SIZES.items()],
            pretraining.Settings(**SIZES),
        ),
        (finetune, ["model"], finetuning.Settings()),
        (probe, ["model"], probing.Settings()),
    ],
)
def test_defaults_are_those_of_python(command, words, settings):
    values = command.make_context(command.name, [*words, *DATA]).params
    for options in (settings, DataOptions(("digits",)), TrainingOptions()):
        for name, value in vars(options).items():
            if name in values:
                assert values[name] == value, name
