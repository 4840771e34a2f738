"""A local server that speaks as much of the Hugging Face Hub's protocol as a download needs."""

import hashlib
import http.server
import json
import pathlib
import re
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(http.server.ThreadingHTTPServer):
    """Serves the files of one folder at a time as a repository with the branch `main`.

    Attributes:
        requests: Method and path of each request, in order.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)

    def serve(self, repo: str, folder: pathlib.Path) -> None:
        """Serves `folder` as `repo`, instead of what was served before."""
        self.repo, self.folder, self.requests = repo, folder, []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body: bool):
        self.server.requests.append((self.command, self.path))
        path, repo = self.path.partition("?")[0], re.escape(self.server.repo)
        revisions = f"main|{COMMIT}"
        if re.fullmatch(rf"/api/models/{repo}(/revision/({revisions}))?", path):
            self._send_json(
                {
                    "id": self.server.repo,
                    "sha": COMMIT,
                    "siblings": [{"rfilename": name} for name in self._names()],
                },
                body,
            )
        elif re.fullmatch(rf"/api/models/{repo}/tree/({revisions})", path):
            self._send_json([self._entry(name) for name in self._names()], body)
        elif match := re.fullmatch(rf"/{repo}/resolve/({revisions})/(.+)", path):
            file = self.server.folder / match[2]
            if file.is_file():
                self._send(200, file.read_bytes(), {"X-Repo-Commit": COMMIT}, body)
            else:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
        elif path.startswith(f"/api/models/{self.server.repo}/"):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        else:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)

    def _names(self) -> list[str]:
        return sorted(file.name for file in self.server.folder.iterdir())

    def _entry(self, name: str) -> dict:
        content = (self.server.folder / name).read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def _send_json(self, value, body: bool):
        content = json.dumps(value).encode()
        self._send(200, content, {"Content-Type": "application/json"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool):
        self.send_response(status)
        etag = hashlib.sha1(content).hexdigest()
        for name, value in {"ETag": f'"{etag}"', "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass
