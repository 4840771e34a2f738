"""Exports a model, serves it, and asks for completions with plain TensorFlow Serving stubs.

A client needs nothing of this package: the stubs of `tensorflow-serving-api` and a request of
named tensors are enough. The same requests work against TensorFlow Serving.

    python examples/serve_with_stubs.py my-model photo.jpg
    python examples/serve_with_stubs.py my-conditional-model photo.jpg --label 3 --guidance-scale 2
"""

import argparse
import pathlib
import tempfile

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import igpt_keras
from serving import Server, export


def complete(
    address: str, image_bytes: bytes, keep_rows: int, count: int, condition: dict[str, tf.Tensor]
) -> list[bytes]:
    """Returns `count` completions of an image file as PNG files.

    `condition` holds the inputs that the signature has only for class-conditional models.
    """
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "igpt"
    request.model_spec.signature_name = "complete"
    inputs = {
        "image_bytes": tf.constant([image_bytes] * count),
        "keep_rows": tf.fill([count], keep_rows),
        "temperature": tf.ones([count]),
        "top_k": tf.zeros([count], tf.int32),
        "top_p": tf.ones([count]),
        "seed": tf.range(count, dtype=tf.int64),
        **condition,
    }
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        response = stub.Predict(request, timeout=600)
    return list(tf.make_ndarray(response.outputs["png_bytes"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="anything that igpt_keras.load reads")
    parser.add_argument("image", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=4, help="number of completions")
    parser.add_argument("--label", type=int, default=-1, help="number of a class; -1 for any")
    parser.add_argument("--guidance-scale", type=float, default=1.0)
    arguments = parser.parse_args()

    model = igpt_keras.load(arguments.model)
    condition = {}
    if model.config.num_classes is not None:
        condition = {
            "labels": tf.fill([arguments.count], arguments.label),
            "guidance_scale": tf.fill([arguments.count], arguments.guidance_scale),
        }
    with tempfile.TemporaryDirectory() as folder:
        export(model, folder)
        with Server(folder) as server:
            keep_rows = model.config.image_size // 2
            content = arguments.image.read_bytes()
            completions = complete(server.address, content, keep_rows, arguments.count, condition)
    for number, png in enumerate(completions):
        path = pathlib.Path(f"{arguments.image.stem}-{number}.png")
        path.write_bytes(png)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
