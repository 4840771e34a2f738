"""`igpt serve`: SavedModels behind TensorFlow Serving's gRPC protocol."""

import contextlib
import logging
import pathlib
import signal
import sys
import threading

import click

from igpt_keras.errors import InputError
from serving.server import Server
from serving.server.configuration import (
    DEFAULT_BATCHING,
    PROMETHEUS_PATH,
    read_batching,
    read_credentials,
    read_monitoring,
)
from serving.server.monitoring import JsonFormatter
from serving.transport import MAX_MESSAGE_BYTES

FILE = click.Path(path_type=pathlib.Path)


@click.command()
@click.argument("directory", required=False, type=FILE)
@click.option("--port", default=8500, show_default=True, help="0 for a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--model-name", default="igpt", show_default=True)
@click.option(
    "--model-config-file",
    type=FILE,
    help="Several models: a models.config, instead of DIRECTORY. Read again when it changes.",
)
@click.option("--batching-parameters-file", type=FILE, help="A batching.config.")
@click.option("--monitoring-config-file", type=FILE, help="A monitoring.config.")
@click.option("--metrics-port", type=int, help="Serve Prometheus' metrics here.")
@click.option("--tls-certificate", type=FILE, help="PEM file; with --tls-key, TLS is on.")
@click.option("--tls-key", type=FILE, help="PEM file.")
@click.option("--tls-client-ca", type=FILE, help="PEM file; clients need a certificate of these.")
@click.option("--max-message-bytes", default=MAX_MESSAGE_BYTES, show_default=True)
@click.option(
    "--max-requests",
    default=256,
    show_default=True,
    help="So many are answered at the same time; more are refused.",
)
@click.option(
    "--poll-seconds", default=1.0, show_default=True, help="How often to look for new versions."
)
@click.option(
    "--grace-seconds",
    default=30.0,
    show_default=True,
    help="What requests under way have when the server is told to stop.",
)
def serve(
    directory,
    port,
    host,
    model_name,
    model_config_file,
    batching_parameters_file,
    monitoring_config_file,
    metrics_port,
    tls_certificate,
    tls_key,
    tls_client_ca,
    max_message_bytes,
    max_requests,
    poll_seconds,
    grace_seconds,
):
    """Serve the newest version in DIRECTORY, as `igpt export` wrote it, until interrupted.

    New versions are picked up while the server runs. One line of JSON a request goes to stderr.
    """
    stopped = threading.Event()
    # What a service manager or `docker stop` sends ends it like Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with _log_to_stderr():
        server = Server(
            directory,
            model_name,
            host,
            port,
            model_config_file=model_config_file,
            batching=_batching(batching_parameters_file),
            credentials=_credentials(tls_certificate, tls_key, tls_client_ca),
            max_message_bytes=max_message_bytes,
            max_requests=max_requests,
            poll_seconds=poll_seconds,
            **_metrics(monitoring_config_file, metrics_port),
        )
        server.start()
        for name, versions in server.versions.items():
            numbers = ", ".join(map(str, versions))
            print(f"serving {name} version {numbers} at {server.address}", flush=True)
        if server.metrics_address:
            print(f"metrics at {server.metrics_address}", flush=True)
        stopped.wait()
        print("stopping", flush=True)
        server.stop(grace_seconds)


def _batching(path):
    return DEFAULT_BATCHING if path is None else read_batching(path)


def _metrics(path, port):
    """Port and path of the metrics."""
    if path is not None and port is None:
        raise InputError("--monitoring-config-file needs --metrics-port")
    metrics_path = PROMETHEUS_PATH if path is None else read_monitoring(path)
    if metrics_path is None:
        return {"metrics_port": None}
    return {"metrics_port": port, "metrics_path": metrics_path}


def _credentials(certificate, key, client_ca):
    if (certificate is None) != (key is None):
        raise InputError("--tls-certificate and --tls-key go together")
    if certificate is None:
        if client_ca is not None:
            raise InputError("--tls-client-ca needs --tls-certificate and --tls-key")
        return None
    return read_credentials(certificate, key, client_ca)


@contextlib.contextmanager
def _log_to_stderr():
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("serving")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # TensorFlow's libraries give the root logger a handler: every line would come twice.
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
