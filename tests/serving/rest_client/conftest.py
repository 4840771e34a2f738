import pytest

from tests.serving.rest_client.asking import FEATURES, METADATA, PREDICT
from tests.serving.rest_server import Reply, rest_server


@pytest.fixture
def server():
    replies = {METADATA: FEATURES, PREDICT: Reply(b'{"outputs": [[0.5, 1.0, 2.0]]}')}
    with rest_server(replies) as server:
        yield server
