"""Ten thousand bad requests, and a good one after each hundred."""

import io
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib

import grpc
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.services import QUESTION_THREADS

ROUNDS, A_ROUND = 100, 100
# Rounds after which memory, threads and open files should no longer grow.
WARM_UP = 30
MESSAGE_LIMIT = 1_000_000
MAX_REQUESTS = 64
Code = grpc.StatusCode
# OK: a changed bit may leave an image or a number that can be used.
PROPER = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.FAILED_PRECONDITION,
    Code.RESOURCE_EXHAUSTED,
    Code.CANCELLED,
    Code.DEADLINE_EXCEEDED,
    Code.UNIMPLEMENTED,
}


class ServerProcess:
    """`igpt serve` with small limits, whose memory is its own.

    Args:
        directory: The models.
        work: Takes configuration and log.
        more_options: Of the command.
    """

    def __init__(self, directory, work, *more_options):
        batching = work / "batching.config"
        batching.write_text(
            "max_batch_size { value: 8 } batch_timeout_micros { value: 1000 } "
            "max_enqueued_batches { value: 4 }"
        )
        self.log = work / "server.log"
        command = [sys.executable, "-c", "from igpt_keras.cli import main; main()", "serve"]
        options = [
            "--port",
            "0",
            "--max-message-bytes",
            str(MESSAGE_LIMIT),
            "--max-requests",
            str(MAX_REQUESTS),
            "--batching-parameters-file",
            str(batching),
            *more_options,
        ]
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, str(directory), *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.address = self._announced()
        self.rest_address = self._announced() if "--rest-port" in more_options else None

    def _announced(self):
        return re.search(r" at (\S+)", self.process.stdout.readline())[1]

    def usage(self):
        """Resident MB, threads and open files."""
        folder = pathlib.Path("/proc", str(self.process.pid))
        pages = int((folder / "statm").read_text().split()[1])
        threads, files = os.listdir(folder / "task"), os.listdir(folder / "fd")
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(threads), len(files)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def encode(pixels, file_format):
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def bomb(file_format, width, height):
    """A file of a few bytes whose header declares a large image."""
    if file_format == "PNG":
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        checked = header + struct.pack(">I", zlib.crc32(header))
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + checked
    if file_format == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", width & 0xFFFF, height & 0xFFFF, 0xF7, 0, 0)
    if file_format == "BMP":
        sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + sizes
    frame = struct.pack(">HBHHB", 17, 8, height & 0xFFFF, width & 0xFFFF, 3)
    return b"\xff\xd8\xff\xc0" + frame + bytes([1, 17, 0, 2, 17, 1, 3, 17, 1])


class BadRequests:
    """Calls that a server should survive, one after another from a seed.

    A call is a stub's method (or a raw one) with a request.
    """

    FORMATS = ("PNG", "JPEG", "GIF", "BMP")
    NUMBERS = {
        "keep_rows": (np.int32, [-1, 5, -(2**31), 2**31 - 1]),
        "temperature": (np.float32, [np.nan, np.inf, -np.inf, -1, -1e-30]),
        "top_k": (np.int32, [-1, -(2**31)]),
        "top_p": (np.float32, [np.nan, 0, -1, 1.5, np.inf]),
        "seed": (np.int64, [-1, -(2**63), 2**63 - 1]),
    }
    DTYPES = (tf.float64, tf.int8, tf.bool, tf.string, tf.complex64, tf.uint64, tf.bfloat16)

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.images = {
            name: encode(self.random.integers(0, 256, (9, 7, 3), np.uint8), name)
            for name in self.FORMATS
        }
        self.kinds = [getattr(self, name) for name in dir(self) if name.startswith("bad_")]

    def draw(self):
        """A method's name and a request, as a message or as bytes."""
        return self.kinds[self.random.integers(len(self.kinds))]()

    def inputs(self, batch=1):
        return {
            "image_bytes": np.array([self.images["PNG"]] * batch, object),
            "keep_rows": np.full(batch, 3, np.int32),
            "temperature": np.ones(batch, np.float32),
            "top_k": np.zeros(batch, np.int32),
            "top_p": np.ones(batch, np.float32),
            "seed": np.arange(batch, dtype=np.int64),
        }

    def request(self, signature_name="complete", **changed):
        inputs = self.inputs() if signature_name in ("complete", "") else {}
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "igpt"
        request.model_spec.signature_name = signature_name
        for name, values in {**inputs, **changed}.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
        return request

    def bytes(self, most):
        return self.random.bytes(int(self.random.integers(0, most)))

    def pick(self, values):
        return values[self.random.integers(len(values))]

    def with_image(self, content):
        name = self.pick(["complete", "classify_images", "features", "score", "classify"])
        if name == "classify":
            features = {
                "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
            }
            request = classification_pb2.ClassificationRequest()
            request.model_spec.name, request.model_spec.signature_name = "igpt", "classify"
            request.input.example_list.examples.add(features=tf.train.Features(feature=features))
            return "Classify", request
        return "Predict", self.request(name, image_bytes=np.array([content], object))

    def bad_message(self):
        return self.pick(["Predict", "Classify", "GetModelMetadata"]), self.bytes(2000)

    def bad_part_of_a_message(self):
        content = bytearray(self.request().SerializeToString())
        for _ in range(self.random.integers(1, 5)):
            content[self.random.integers(len(content))] = self.random.integers(256)
        return "Predict", bytes(content[: self.random.integers(len(content) + 1)])

    def bad_bytes(self):
        return self.with_image(self.bytes(2000))

    def bad_truncation(self):
        content = self.pick(list(self.images.values()))
        return self.with_image(content[: self.random.integers(len(content))])

    def bad_bits(self):
        content = bytearray(self.pick(list(self.images.values())))
        for _ in range(self.random.integers(1, 4)):
            content[self.random.integers(len(content))] ^= 1 << self.random.integers(8)
        return self.with_image(bytes(content))

    def bad_dimensions(self):
        sizes = (0, 1, 30_000, 65_535, 2**20, 2**31 - 1)
        return self.with_image(
            bomb(self.pick(self.FORMATS), int(self.pick(sizes)), int(self.pick(sizes)))
        )

    def bad_number(self):
        name = self.pick(list(self.NUMBERS))
        dtype, values = self.NUMBERS[name]
        return "Predict", self.request(**{name: np.array([self.pick(values)], dtype)})

    def bad_dtype(self):
        request = self.request()
        dtype = self.pick(self.DTYPES)
        value = tf.constant(["1"]) if dtype == tf.string else tf.cast(tf.constant([1]), dtype)
        request.inputs[self.pick(sorted(request.inputs))].CopyFrom(tf.make_tensor_proto(value))
        return "Predict", request

    def bad_shape(self):
        request = self.request()
        shape = request.inputs[self.pick(sorted(request.inputs))].tensor_shape
        size = int(self.pick([-1, -(2**63), 0, 2, 7, 10**6, 10**12, 2**63 - 1]))
        change = self.random.integers(4)
        if change == 0:
            shape.dim[0].size = size
        elif change == 1:
            shape.dim.add(size=size)
        elif change == 2:
            del shape.dim[:]
        else:
            shape.unknown_rank = True
        return "Predict", request

    def bad_content(self):
        request = self.request()
        tensor = request.inputs[self.pick(sorted(request.inputs))]
        tensor.tensor_content = self.bytes(100)
        if self.random.integers(2):
            tensor.dtype = int(self.random.integers(-5, 150))
        return "Predict", request

    def bad_names(self):
        request = self.request()
        change = self.random.integers(6)
        name = self.bytes(20).hex() * int(self.pick([1, 1, 500]))
        if change == 0:
            request.model_spec.name = name
        elif change == 1:
            request.model_spec.signature_name = name
        elif change == 2:
            request.model_spec.version.value = int(self.random.integers(-(2**63), 2**63 - 1))
        elif change == 3:
            request.model_spec.version_label = name
        elif change == 4:
            request.output_filter.append(name)
        else:
            request.inputs[name].CopyFrom(request.inputs["seed"])
        return "Predict", request

    def bad_missing(self):
        request = self.request()
        for name in sorted(request.inputs):
            if self.random.integers(2):
                del request.inputs[name]
        return "Predict", request

    def bad_classification(self):
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = self.pick(["igpt", "gpt"])
        request.model_spec.signature_name = self.pick(["classify", "complete", ""])
        for _ in range(self.random.integers(3)):
            request.input.example_list.examples.add()
        return "Classify", request

    def bad_question(self):
        if self.random.integers(2):
            request = get_model_metadata_pb2.GetModelMetadataRequest()
            request.metadata_field.append(self.pick(["signature_def", "weights"]))
            method = "GetModelMetadata"
        else:
            request, method = get_model_status_pb2.GetModelStatusRequest(), "GetModelStatus"
        request.model_spec.name = self.pick(["igpt", "gpt", ""])
        request.model_spec.version.value = int(self.random.integers(-3, 3))
        return method, request

    def bad_batch(self):
        inputs = self.inputs(int(self.pick([9, 40, 600])))
        return "Predict", self.request(**inputs)

    def bad_size(self):
        # Few, for they take long.
        if self.random.integers(10):
            return self.bad_number()
        return self.with_image(bytes(MESSAGE_LIMIT + 1))

    def bad_patience(self):
        return "cancelled", self.request(seed=np.array([int(self.random.integers(1000))]))

    def bad_deadline(self):
        return "late", self.request(seed=np.array([int(self.random.integers(1000))]))


class Callers:
    """The stubs' methods, which take messages or bytes."""

    SERVICES = {"GetModelStatus": "ModelService"}

    def __init__(self, channel):
        self._channel = channel
        self._stubs = [
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        ]

    def start(self, method, request):
        if method in ("cancelled", "late"):
            timeout = 0.004 if method == "late" else 60
            call = self._stubs[0].Predict.future(request, timeout=timeout)
            if method == "cancelled":
                call.cancel()
            return call
        if isinstance(request, bytes):
            raw = self._channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
            return raw.future(request, timeout=60)
        (caller,) = (getattr(stub, method) for stub in self._stubs if hasattr(stub, method))
        return caller.future(request, timeout=60)


def slow_reader(address):
    """A connection that begins as HTTP/2 does, asks for something, and never reads."""
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    pings = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings + pings * 20)
    return connection


@pytest.mark.slow
def test_ten_thousand_bad_requests(exported, tmp_path):
    server = ServerProcess(exported, tmp_path)
    bad = BadRequests(seed=0)
    good = bad.request(seed=np.array([5]), keep_rows=np.array([1], np.int32))
    codes, usages = {}, []
    _, idle_threads, _ = server.usage()
    try:
        with grpc.insecure_channel(server.address) as channel:
            callers = Callers(channel)
            expected = callers.start("Predict", good).result().outputs["tokens"]
            for _ in range(ROUNDS):
                readers = [slow_reader(server.address) for _ in range(3)]
                drawn = [bad.draw() for _ in range(A_ROUND)]
                calls = [callers.start(*call) for call in drawn]
                for (method, request), call in zip(drawn, calls, strict=True):
                    code, details = call.code(), call.details() or ""
                    codes[code] = codes.get(code, 0) + 1
                    if isinstance(request, bytes) and code == Code.INTERNAL:
                        assert "deserializing" in details
                    else:
                        assert code in PROPER, (method, code, details, request)
                for reader in readers:
                    reader.close()
                answer = callers.start("Predict", good).result()
                assert answer.outputs["tokens"] == expected
                usages.append(server.usage())
    finally:
        status = server.stop()
    assert status == 0
    assert sum(codes.values()) == ROUNDS * A_ROUND
    assert codes.keys() > {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.CANCELLED, Code.INTERNAL}
    memory, threads, files = np.array(usages)[WARM_UP:].T
    # Beyond the noise of an allocator: a leak of 10 KB a request would be 70 MB.
    assert np.median(memory[-10:]) < np.median(memory[:10]) + 30
    # Threads for requests, and one for each of up to eight signatures, come as they are needed.
    assert threads.max() <= idle_threads + MAX_REQUESTS + QUESTION_THREADS + 8
    assert files[-1] <= files[:10].max() + 3
