"""The `igpt` command."""

import importlib
import sys

import click

from igpt_keras.errors import Diverged, InputError

COMMANDS = {
    "client": "Ask a server for completions or classes over gRPC.",
    "complete": "Complete images of which some pixels are known.",
    "convert": "Convert published weights to a model folder, or a model to Hugging Face's format.",
    "draft": "Fit a draft to images, with which a model samples in fewer passes.",
    "evaluate": "Measure losses and accuracy of a model on validation and test images.",
    "export": "Write models as a SavedModel for TensorFlow Serving.",
    "finetune": "Train a pre-trained model to classify, and measure it on test images.",
    "palette": "Fit a palette of colors to images, or show what one does to them.",
    "pretrain": "Train an Image GPT on images, without labels.",
    "probe": "Linear classifiers on the features of every layer.",
    "quickstart": "Train on real images, complete, classify, and serve: the whole of it, small.",
    "report": "Put what runs measured on one page: figures, tables, pictures.",
    "sample": "Sample images from nothing.",
    "serve": "Serve a SavedModel over TensorFlow Serving's gRPC protocol.",
    "tune": "Search the learning rate of pre-training, fine-tuning or probes, large to small.",
}


class Commands(click.Group):
    """Subcommands whose modules are imported when they are called."""

    def list_commands(self, context):
        return sorted(COMMANDS)

    def get_command(self, context, name):
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"igpt_keras.cli.{name}"), name)

    def format_commands(self, context, formatter):
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(context)])


@click.group(cls=Commands)
@click.version_option(package_name="igpt-keras")
def igpt():
    """Image GPT: generative pre-training from pixels."""


def main() -> None:
    """Runs the command line.

    A user's mistake is one line on stderr and status 2; training that diverged, status 3.
    """
    try:
        igpt()
    except (InputError, OSError, Diverged) as error:
        message = " ".join(str(error).split())
        print(f"igpt: error: {message}", file=sys.stderr)
        sys.exit(3 if isinstance(error, Diverged) else 2)
