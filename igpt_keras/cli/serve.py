"""`igpt serve`: a SavedModel behind TensorFlow Serving's gRPC protocol."""

import pathlib
import signal

import click

from serving.server import Server


@click.command()
@click.argument("directory", type=click.Path(path_type=pathlib.Path))
@click.option("--port", default=8500, show_default=True, help="0 for a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--model-name", default="igpt", show_default=True)
def serve(directory, port, host, model_name):
    """Serve the newest version in DIRECTORY, as `igpt export` wrote it, until interrupted."""
    # What a service manager or `docker stop` sends ends it like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Server(directory, model_name, host, port) as server:
        print(f"serving {model_name} version {server.version} at {server.address}", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print("stopping")
