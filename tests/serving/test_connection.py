"""The client against a server that fails in every way, made of tensorflow-serving-api's stubs."""

import asyncio
import contextlib
import pathlib
import random
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from igpt_keras import InputError
from serving.client import (
    TLS,
    AsyncClient,
    Client,
    MissingSignatureError,
    RetryPolicy,
    ServingError,
)
from serving.client.connection import Attempts, Deadline
from serving.client.errors import Failure

CERTIFICATES = pathlib.Path(__file__).parents[1] / "fixtures" / "tls"
IMAGE = np.zeros((1, 2, 2, 3), np.uint8)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
FAILURE = Failure(UNAVAILABLE, "starting")
QUICKLY = RetryPolicy(attempts=4, initial_pause=0.01, seed=0)


class Scripted(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Answers `features` with as many zeros as there are images, after the failures asked for.

    Attributes:
        failures: (code, details) of the next answers.
        requests: those received.
        time_left: seconds that each request had left.
        seconds: that an answer takes at least.
        release: if given, what answers wait for.
        cancelled: set when one of these requests is cancelled.
    """

    def __init__(self):
        self.failures = []
        self.requests = []
        self.time_left = []
        self.seconds = 0.0
        self.release = None
        self.cancelled = threading.Event()

    def Predict(self, request, context):
        self.requests.append(request)
        self.time_left.append(context.time_remaining())
        if self.failures:
            context.abort(*self.failures.pop(0))
        time.sleep(self.seconds)
        if self.release is not None:
            if not context.add_callback(self.cancelled.set):  # the call has ended already
                self.cancelled.set()
            self.release.wait(30)
        count = request.inputs["image_bytes"].tensor_shape.dim[0].size
        response = predict_pb2.PredictResponse()
        values = np.zeros((count, 3), np.float32)
        response.outputs["features"].CopyFrom(tf.make_tensor_proto(values))
        return response

    def GetModelMetadata(self, request, context):
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request, context):
        status = get_model_status_pb2.ModelVersionStatus(version=4, state="LOADING")
        broken = get_model_status_pb2.ModelVersionStatus(version=3, state="END")
        broken.status.error_message = "no such file"
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=[status, broken])


@contextlib.contextmanager
def serving(service, credentials=None, options=()):
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.fixture
def service():
    return Scripted()


@pytest.fixture
def address(service):
    with serving(service) as address:
        yield address


def ask(address, **options):
    """`features` of one image, from the waiting client."""
    with Client(address, **options) as client:
        return client.features(IMAGE)


def ask_asynchronously(address, **options):
    """The same from the other one."""

    async def run():
        async with AsyncClient(address, **options) as client:
            return await client.features(IMAGE)

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [ask, ask_asynchronously])


@both
def test_unavailable_is_asked_again(service, address, ask):
    service.failures = [(UNAVAILABLE, "starting")] * 3
    assert ask(address, retries=QUICKLY).shape == (1, 3)
    assert len(service.requests) == 4
    assert all(request == service.requests[0] for request in service.requests)


@both
def test_attempts_are_limited(service, address, ask):
    service.failures = [(UNAVAILABLE, "starting")] * 9
    with pytest.raises(ServingError, match="UNAVAILABLE: starting"):
        ask(address, retries=QUICKLY)
    assert len(service.requests) == 4


@both
@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, UNAVAILABLE)]
)
def test_every_other_status_is_an_error_with_its_code_at_once(service, address, ask, code):
    service.failures = [(code, "two\nlines")]
    with pytest.raises(ServingError, match=f"{address}: {code.name}: two lines") as caught:
        ask(address, retries=QUICKLY)
    assert caught.value.code == code
    assert type(caught.value) is ServingError
    assert len(service.requests) == 1


@both
def test_the_deadline_is_told_and_kept(service, address, ask):
    service.release = threading.Event()
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        ask(address, timeout=0.3)
    # gRPC tells the server whole milliseconds, rounded up.
    assert 0 < service.time_left[0] < 0.302
    service.release.set()


@both
def test_retries_end_with_the_deadline(service, address, ask):
    service.failures = [(UNAVAILABLE, "starting")] * 1000
    patient = RetryPolicy(attempts=1000, initial_pause=0.1, factor=1.0, seed=0)
    with pytest.raises(ServingError, match="UNAVAILABLE|DEADLINE_EXCEEDED"):
        ask(address, retries=patient, timeout=0.5)
    assert 2 <= len(service.requests) < 1000


def test_one_deadline_covers_all_requests(service, address):
    service.seconds = 0.5
    with Client(address, timeout=5, batch_size=1) as client:
        client.features(np.zeros((3, 2, 2, 3), np.uint8))
    # gRPC rounds what it tells the server up, to two or three digits.
    first, _, third = service.time_left
    assert first > third + 0.5


@both
def test_without_a_timeout_there_is_no_deadline(service, address, ask):
    ask(address, timeout=None)
    # What gRPC gives for none is many years.
    assert service.time_left[0] is None or service.time_left[0] > 1e6


def test_a_cancelled_task_cancels_its_request(service, address):
    service.release = threading.Event()

    async def run():
        async with AsyncClient(address) as client:
            task = asyncio.create_task(client.features(IMAGE))
            while not service.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert service.cancelled.wait(30)
    service.release.set()


def test_version_label_and_signature_are_sent(service, address):
    with Client(address, "photos", version=7) as client:
        client.features(IMAGE)
    with Client(address, "photos", version_label="stable") as client:
        client.predict("features", {"image_bytes": [b"x"]}, ["features"])
    numbered, labeled = (request.model_spec for request in service.requests)
    assert (numbered.name, numbered.signature_name) == ("photos", "features")
    assert numbered.version.value == 7
    assert labeled.version_label == "stable"
    assert service.requests[1].output_filter == ["features"]


def test_version_and_label_exclude_each_other():
    with pytest.raises(InputError, match="one of version and version_label"):
        Client("localhost:1", version=1, version_label="stable")


@pytest.mark.parametrize(
    ("details", "signature_name", "needs"),
    [
        ('Serving signature key "classify_images" not found.', "classify", "a class-conditional"),
        ('Serving signature key "complete" not found.', "complete", "an autoregressive model"),
    ],
)
def test_what_a_missing_signature_needs_is_told(service, address, details, signature_name, needs):
    service.failures = [(grpc.StatusCode.FAILED_PRECONDITION, details)]
    with Client(address) as client, pytest.raises(MissingSignatureError, match=needs):
        if signature_name == "classify":
            client.classify(IMAGE)
        else:
            client.complete(IMAGE, keep_rows=1)


def test_the_status_of_versions_is_read(address):
    with Client(address) as client:
        loading, broken = client.status()
    assert (loading.version, loading.state, loading.error) == (4, "LOADING", "")
    assert (broken.version, broken.state, broken.error) == (3, "END", "no such file")


@both
def test_a_message_above_the_limit_is_an_error(address, ask):
    with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED"):
        ask(address, max_message_bytes=60)


def test_pauses_grow_up_to_a_limit_and_follow_the_seed():
    policy = RetryPolicy(attempts=9, initial_pause=1, factor=2, maximum_pause=5, seed=3)

    def pauses():
        attempts = Attempts(policy, Deadline(None), random.Random(policy.seed))
        made = [attempts.pause_after(FAILURE) for _ in range(8)]
        with pytest.raises(Failure):
            attempts.pause_after(FAILURE)
        return made

    first = pauses()
    assert first == pauses()
    limits = (1, 2, 4, 5, 5, 5, 5, 5)
    assert all(0 <= pause <= limit for pause, limit in zip(first, limits, strict=True))
    assert len(set(first)) == 8


def test_there_is_no_pause_beyond_the_deadline():
    policy = RetryPolicy(attempts=9, initial_pause=100, maximum_pause=100)
    attempts = Attempts(policy, Deadline(0), random.Random(0))
    with pytest.raises(Failure):
        attempts.pause_after(FAILURE)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    "address",
    [
        *("grpc://localhost:8500", "http//localhost:8500", "HTTP://localhost:8500", "http:"),
        *("http://", "https://:8501", "http://localhost:0", "http://localhost:", "ftp://a:1"),
        *("http://localhost:8501/v1", "http://localhost:8501/v1/models/igpt", "http://a:1//"),
        *("http://user@host:8501", "http://host?a=1", "http://host#a", "http://a b", "http://::1"),
        *("localhost", "localhost:", ":8500", "", "localhost:0", "localhost:70000"),
        *("localhost:port", "localhost:8500/v1", "user@host", "::1", "::1:8500", "[::1]"),
        *("local host:8500", "localhost:8500 ", "localhost:-1"),
    ],
)
def test_an_address_without_host_or_port_is_refused_at_once(client, address):
    with pytest.raises(InputError, match='address must be "host:port"') as caught:
        client(address)
    assert repr(address) in str(caught.value)


@pytest.mark.parametrize(
    "address", ["localhost:1", "[::1]:8500", "10.0.0.7:65535", "dns:///igpt:8500", "unix:/socket"]
)
def test_addresses_of_grpc_are_taken(address):
    Client(address).close()


def test_a_unix_socket_is_an_address(service, tmp_path):
    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    server.start()
    assert ask(f"unix:{tmp_path}/socket").shape == (1, 3)
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_message_bytes": 0}, "max_message_bytes must be at least 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(InputError, match=message):
        Client("localhost:1", **options)


@pytest.mark.parametrize(
    "options", [{"attempts": 0}, {"initial_pause": -1}, {"factor": 0.5}, {"initial_pause": np.nan}]
)
def test_retry_policies_are_checked(options):
    with pytest.raises(InputError):
        RetryPolicy(**options)


@pytest.fixture(params=[False, True], ids=["any client", "known clients"])
def encrypted(request, service):
    """Address of a server with TLS, and whether it asks clients for a certificate."""
    key, certificate, root = (
        (CERTIFICATES / name).read_bytes() for name in ("named.key", "named.pem", "ca.pem")
    )
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=root, require_client_auth=request.param
    )
    with serving(service, credentials) as address:
        yield address, request.param


@both
def test_connections_are_encrypted(encrypted, ask):
    address, asks_for_certificate = encrypted
    trusted = {"root_certificates": CERTIFICATES / "ca.pem", "server_name": "images.example"}
    own = {
        "client_certificate": CERTIFICATES / "client.pem",
        "client_key": CERTIFICATES / "client.key",
    }
    options = {"retries": RetryPolicy(attempts=1), "timeout": 20}
    assert ask(address, tls=TLS(**trusted, **own), **options).shape == (1, 3)
    if asks_for_certificate:
        with pytest.raises(ServingError, match="UNAVAILABLE"):
            ask(address, tls=TLS(**trusted), **options)
    else:
        assert ask(address, tls=TLS(**trusted), **options).shape == (1, 3)
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        ask(address, tls=TLS(server_name="images.example"), **options)
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        ask(address, tls=TLS(root_certificates=CERTIFICATES / "ca.pem"), **options)
    with pytest.raises(ServingError, match="UNAVAILABLE"):
        ask(address, **options)


def test_a_certificate_needs_its_key(tmp_path):
    with pytest.raises(InputError, match="client_certificate and client_key go together"):
        Client("localhost:1", tls=TLS(client_key=tmp_path / "key.pem"))
    with pytest.raises(FileNotFoundError, match="root.pem"):
        Client("localhost:1", tls=TLS(root_certificates=tmp_path / "root.pem"))
