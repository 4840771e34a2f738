"""`igpt serve`: SavedModels behind TensorFlow Serving's gRPC protocol and REST API."""

import pathlib
import signal
import threading
from typing import Any

import click

from igpt_keras.cli.command import argument, command, option
from igpt_keras.cli.options import COUNT, PATH, POSITIVE
from igpt_keras.errors import InputError

PORT = click.IntRange(0, 65535)


@command(
    argument("directory", required=False, type=PATH),
    option("--port", type=PORT, default=8500, help="Port for gRPC requests; 0 picks a free one."),
    option("--host", default="127.0.0.1", help="Network interface to listen on."),
    option(
        "--rest-port",
        type=PORT,
        help="Port for TensorFlow Serving's REST API; 0 picks a free one.",
    ),
    option("--rest-host", help="Network interface for REST; that of --host if not given."),
    option(
        "--cors-origin",
        "cors_origins",
        multiple=True,
        metavar="ORIGIN",
        help="Origin such as https://example.com whose web pages may use REST; * allows all. "
        "Give several for several origins.",
    ),
    option(
        "--page",
        is_flag=True,
        help="Serve a page at --rest-port on which people complete images in the browser.",
    ),
    option("--model-name", default="igpt", help="Name that requests give to the model."),
    option(
        "--model-config-file",
        type=PATH,
        help="File of TensorFlow Serving's models.config format that lists several models; "
        "replaces DIRECTORY. It is read again when it changes.",
    ),
    option(
        "--volume",
        multiple=True,
        metavar="FOLDER:PATH",
        help="Folder to read instead of an absolute path in --model-config-file, as in docker run "
        "--volume. Give several for several paths.",
    ),
    option(
        "--batching-parameters-file",
        type=PATH,
        help="File of TensorFlow Serving's batching.config format.",
    ),
    option(
        "--monitoring-config-file",
        type=PATH,
        help="File of TensorFlow Serving's monitoring.config format. Metrics are on the port of "
        "--rest-port if there is no --metrics-port.",
    ),
    option(
        "--metrics-port",
        type=PORT,
        help="Port for Prometheus metrics; 0 picks a free one, that of --rest-port serves both.",
    ),
    option(
        "--metrics-host",
        help="Network interface for the metrics, which are not encrypted; that of --host if not "
        "given.",
    ),
    option(
        "--tls-certificate",
        type=PATH,
        help="PEM file with the server's certificate; turns TLS on, together with --tls-key.",
    ),
    option("--tls-key", type=PATH, help="PEM file with the certificate's private key."),
    option(
        "--tls-client-ca",
        type=PATH,
        help="PEM file with the authorities that must have signed a client's certificate.",
    ),
    option(
        "--max-message-bytes",
        type=COUNT,
        default=64 * 1024 * 1024,
        help="Maximum size of a request and of a response.",
    ),
    option(
        "--max-requests",
        type=COUNT,
        default=256,
        help="Maximum number of concurrent requests; further ones are rejected.",
    ),
    option(
        "--max-request-pixels",
        type=COUNT,
        default=1 << 25,
        help="Maximum number of pixels that the images of a request declare together.",
    ),
    option(
        "--max-pixels-in-flight",
        type=COUNT,
        default=1 << 29,
        help="Maximum number of pixels of all concurrent requests; a client never gets more than "
        "it leaves free.",
    ),
    option(
        "--message-seconds",
        type=POSITIVE,
        default=30.0,
        help="Time that a client has to send its message after it has opened a call.",
    ),
    option(
        "--poll-seconds",
        type=POSITIVE,
        default=1.0,
        help="Interval at which the server looks for new versions.",
    ),
    option(
        "--grace-seconds",
        type=click.FloatRange(min=0),
        default=30.0,
        help="Time that running requests have to finish when the server is told to stop.",
    ),
    option(
        "--check",
        is_flag=True,
        help="Check that every version holds only operations that exports have, and serve nothing.",
    ),
)
def serve(
    directory: pathlib.Path | None,
    model_name: str,
    host: str,
    port: int,
    model_config_file: pathlib.Path | None,
    volume: tuple[str, ...],
    batching_parameters_file: pathlib.Path | None,
    monitoring_config_file: pathlib.Path | None,
    metrics_port: int | None,
    metrics_host: str | None,
    rest_port: int | None,
    rest_host: str | None,
    tls_certificate: pathlib.Path | None,
    tls_key: pathlib.Path | None,
    tls_client_ca: pathlib.Path | None,
    grace_seconds: float,
    check: bool,
    **settings: Any,
) -> None:
    """Serve a SavedModel by TensorFlow Serving's gRPC and REST APIs.

    The newest version in DIRECTORY, which `igpt export` wrote, is served until the process is
    interrupted. New versions are picked up while the server runs. The log is on stderr and is
    lines of JSON.
    """
    from serving.server import Server
    from serving.server.log import json_log

    if settings["page"] and settings["rest_port"] is None:
        raise InputError("--page needs --rest-port")
    volumes = _volumes(volume)
    if check:
        _check(directory, model_name, model_config_file, volumes)
        return
    stopped = threading.Event()
    # A service manager and `docker stop` send SIGTERM.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with json_log():
        server = Server(
            directory,
            model_name,
            host,
            port,
            model_config_file=model_config_file,
            volumes=volumes,
            batching=_batching(batching_parameters_file),
            credentials=_credentials(tls_certificate, tls_key, tls_client_ca),
            **settings,
            rest_host=rest_host,
            rest_port=rest_port,
            **_metrics(monitoring_config_file, metrics_port, metrics_host, rest_port, rest_host),
        )
        server.start()
        for name, versions in server.versions.items():
            numbers = ", ".join(map(str, versions))
            click.echo(f"serving {name} version {numbers} at {server.address}")
        if server.rest_address:
            page = " and the page" if settings["page"] else ""
            click.echo(f"REST{page} at {server.rest_address}")
        if server.metrics_address:
            click.echo(f"metrics at {server.metrics_address}")
        stopped.wait()
        click.echo("stopping")
        server.stop(grace_seconds)


def _volumes(texts: tuple[str, ...]) -> dict[str, str]:
    """Returns the folders by the paths that they stand for."""
    folders = {}
    for text in texts:
        folder, _, path = text.rpartition(":")
        if not folder or not path.startswith("/"):
            raise InputError(f"--volume must be FOLDER:PATH with an absolute PATH, got {text!r}")
        folders[path] = folder
    return folders


def _check(*sources) -> None:
    """Checks the models that `configured_models` finds in its arguments `sources`."""
    from serving.server.configuration import configured_models
    from serving.server.operations import check_operations

    for model in configured_models(*sources):
        versions = ", ".join(map(str, check_operations(model.base_path)))
        click.echo(f"{model.base_path}: only operations of exports in version {versions}")


def _batching(path):
    from serving.server import configuration

    return configuration.DEFAULT_BATCHING if path is None else configuration.read_batching(path)


def _metrics(
    path: pathlib.Path | None,
    port: int | None,
    host: str | None,
    rest_port: int | None,
    rest_host: str | None,
) -> dict[str, Any]:
    """Returns the arguments of `Server` for its metrics."""
    from serving.server import configuration

    if path is None:
        return {"metrics_port": port, "metrics_host": host}
    if port is None:
        port, host = rest_port, rest_host if host is None else host
    if port is None:
        raise InputError("--monitoring-config-file needs --metrics-port or --rest-port")
    metrics_path = configuration.read_monitoring(path)
    if metrics_path is None:
        return {"metrics_port": None}
    return {"metrics_port": port, "metrics_host": host, "metrics_path": metrics_path}


def _credentials(certificate, key, client_ca):
    from serving.server import certificates

    if (certificate is None) != (key is None):
        raise InputError("--tls-certificate and --tls-key go together")
    if certificate is None:
        if client_ca is not None:
            raise InputError("--tls-client-ca needs --tls-certificate and --tls-key")
        return None
    return certificates.read_credentials(certificate, key, client_ca)
