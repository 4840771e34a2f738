"""Questions to a server whose answers are given, as a client and as an asynchronous one."""

import asyncio
import json

import numpy as np
import pytest

from serving.client import AsyncClient, Client, RetryPolicy
from tests.serving.rest_server import Reply

QUICKLY = RetryPolicy(attempts=4, initial_pause=0.01, seed=0)
IMAGE = np.zeros((1, 2, 2, 3), np.uint8)
MODEL = "/v1/models/igpt"
PREDICT, METADATA = f"{MODEL}:predict", f"{MODEL}/metadata"
HALF_PLUS_TWO = b"""{
 "model_spec": {
  "name": "igpt",
  "signature_name": "",
  "version": "123"
 },
 "metadata": {
  "signature_def": {
   "signature_def": {
    "serving_default": {
     "inputs": {
      "x": {
       "dtype": "DT_FLOAT",
       "tensor_shape": {
        "dim": [
         {
          "size": "-1",
          "name": ""
         },
         {
          "size": "1",
          "name": ""
         }
        ],
        "unknown_rank": false
       },
       "name": "x:0"
      }
     },
     "outputs": {
      "y": {
       "dtype": "DT_FLOAT",
       "tensor_shape": {
        "dim": [
         {
          "size": "-1",
          "name": ""
         },
         {
          "size": "1",
          "name": ""
         }
        ],
        "unknown_rank": false
       },
       "name": "y:0"
      }
     },
     "method_name": "tensorflow/serving/predict",
     "defaults": {}
    },
    "classify_x_to_y": {
     "inputs": {
      "inputs": {
       "dtype": "DT_STRING",
       "tensor_shape": {
        "dim": [],
        "unknown_rank": true
       },
       "name": "tf_example:0"
      }
     },
     "outputs": {
      "scores": {
       "dtype": "DT_FLOAT",
       "tensor_shape": {
        "dim": [],
        "unknown_rank": true
       },
       "name": "y:0"
      }
     },
     "method_name": "tensorflow/serving/classify",
     "defaults": {}
    },
    "__saved_model_init_op": {
     "inputs": {},
     "outputs": {},
     "method_name": "",
     "defaults": {}
    }
   }
  }
 }
}
"""


def metadata(inputs, outputs, name="features"):
    """The answer that has one signature, with dtypes by name."""
    signature = {
        key: {tensor: {"dtype": dtype} for tensor, dtype in tensors.items()}
        for key, tensors in (("inputs", inputs), ("outputs", outputs))
    }
    return Reply(
        json.dumps({"metadata": {"signature_def": {"signature_def": {name: signature}}}}).encode()
    )


FEATURES = metadata({"image_bytes": "DT_STRING"}, {"features": "DT_FLOAT"})


def ask(address, method="features", *arguments, **options):
    with Client(address, **options) as client:
        return getattr(client, method)(*(arguments or (IMAGE,)))


def ask_asynchronously(address, method="features", *arguments, **options):
    async def run():
        async with AsyncClient(address, **options) as client:
            return await getattr(client, method)(*(arguments or (IMAGE,)))

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [ask, ask_asynchronously])


def drops(released):
    """A byte now and then, until the client has gone or should have."""
    for _ in range(400):
        if released.wait(0.05):
            return
        yield b" "
