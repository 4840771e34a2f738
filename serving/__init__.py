"""Export models as SavedModels, serve them over gRPC, and ask a server.

```python
import igpt_keras
from serving import Client, Server, export

model = igpt_keras.load("my-model")
export(model, "served")
with Server("served") as server, Client(server.address) as client:
    completions = client.complete(["cat.png"], keep_rows=16, num_completions=4)
```

The protocol is that of TensorFlow Serving: its `tensorflow_model_server` can serve an export, and
the client can ask it. The package needs the extra `serve`. `Client` and `AsyncClient` import
neither TensorFlow nor Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

from igpt_keras.extras import require

if TYPE_CHECKING:
    from serving.client import AsyncClient, Client, ServingError
    from serving.exporting import export
    from serving.server import Server

__all__ = ["AsyncClient", "Client", "Server", "ServingError", "export"]

_HOMES = {
    "AsyncClient": "serving.client",
    "Client": "serving.client",
    "Server": "serving.server",
    "ServingError": "serving.client",
    "export": "serving.exporting",
}

for _module in ("grpc", "grpc_health", "tensorflow_serving"):
    require(_module, "serve")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
