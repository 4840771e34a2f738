"""How the server sends the page's files."""

import pytest
import requests

from igpt_keras.errors import InputError
from serving import Server
from serving.page import page_files
from tests.serving.server.test_operations import save


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("served")
    save(directory, lambda x: x)
    return directory


@pytest.fixture(scope="module")
def address(directory):
    with Server(directory, rest_port=0, page=True) as server:
        yield server.rest_address


def test_every_file_is_sent_as_it_is(address):
    for path, (content_type, content) in page_files().items():
        for query in ("", "?version=2"):
            answer = requests.get(f"{address}{path}{query}", timeout=30)
            assert answer.status_code == 200
            assert answer.content == content
            assert answer.headers["Content-Type"] == content_type


def test_head_is_get_without_the_file(address):
    with requests.Session() as session:
        for path in page_files():
            got, asked = (session.request(m, address + path, timeout=30) for m in ("GET", "HEAD"))
            assert (asked.status_code, asked.content) == (200, b"")
            # `Date` may be a second later.
            asked.headers["Date"] = got.headers["Date"]
            assert asked.headers == got.headers
        refused = session.head(f"{address}/", headers={"Host": "evil.example"}, timeout=30)
        assert refused.status_code == 403
        assert session.head(f"{address}/page/", timeout=30).status_code == 404


def test_the_page_may_load_nothing_from_elsewhere(address):
    headers = requests.get(f"{address}/", timeout=30).headers
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path", ["/page/", "/page/js/", "/page/../files.py", "/page/js/..%2f..%2ffiles.py", "//page"]
)
def test_no_other_path_is_a_file(address, path):
    request = requests.Request("GET", address).prepare()
    request.url = address + path  # As it is; `requests` would resolve the dots.
    answer = requests.Session().send(request, timeout=30)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/json"


def test_a_site_of_another_name_gets_no_page(address):
    answer = requests.get(f"{address}/", headers={"Host": "evil.example"}, timeout=30)
    assert answer.status_code == 403


def test_there_is_no_page_unless_it_is_asked_for(directory):
    with Server(directory, rest_port=0) as server:
        assert requests.get(f"{server.rest_address}/", timeout=30).status_code == 404
    with pytest.raises(InputError, match="page needs rest_port"):
        Server(directory, page=True)
