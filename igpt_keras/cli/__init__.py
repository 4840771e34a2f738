"""The `igpt` command."""

import importlib
import sys

import click

from igpt_keras.errors import InputError

COMMANDS = {
    "client": "Ask a server for completions or classes over gRPC.",
    "complete": "Complete images whose first rows are kept.",
    "convert": "Convert published weights to a model folder, or a model to Hugging Face's format.",
    "export": "Write models as a SavedModel for TensorFlow Serving.",
    "quickstart": "Train on real images, complete, classify, and serve: the whole of it, small.",
    "serve": "Serve a SavedModel over TensorFlow Serving's gRPC protocol.",
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
    """Runs the command line: a user's mistake is one line on stderr and status 2."""
    try:
        igpt()
    except (InputError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"igpt: error: {message}", file=sys.stderr)
        sys.exit(2)
