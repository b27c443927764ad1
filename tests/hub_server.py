"""A stand-in for the Hugging Face Hub on this machine: the paths that huggingface_hub asks for, and ways to fail."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "owner/model"


class Hub:
    """Serves ``files`` of one repository; what it was asked for is in ``asked``.

    Attributes:
        files: content by name.
        revisions: names of the one commit there is.
        status: an HTTP status to answer everything with, or None.
        delay_s: time before each answer.
        break_after: bytes of a file after which the connection breaks, or None; once is enough.
        damage: send other bytes than those whose SHA-256 it tells.
    """

    def __init__(self):
        self.files, self.revisions = {}, ["main", "v2.0", COMMIT]
        self.asked = []
        self.status, self.delay_s, self.break_after, self.damage = None, 0.0, None, False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request, body):
        if "/resolve/" not in request.path:
            return self.refuse(request, 404, "")
        self.asked.append((request.command, request.path, request.headers.get("Range")))
        time.sleep(self.delay_s)
        repo, _, rest = request.path.lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if self.status is not None:
            return self.refuse(request, self.status, "")
        if repo != REPO:
            return self.refuse(request, 404, "RepoNotFound")
        if revision not in self.revisions:
            return self.refuse(request, 404, "RevisionNotFound")
        if name not in self.files:
            return self.refuse(request, 404, "EntryNotFound")
        return self.send(request, self.files[name], body)

    def refuse(self, request, status, code):
        request.send_response(status)
        request.send_header("Content-Length", "0")
        if code:
            request.send_header("X-Error-Code", code)
            request.send_header("X-Repo-Commit", COMMIT)
        request.end_headers()

    def send(self, request, content, body):
        etag = hashlib.sha256(content).hexdigest()
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        payload = content[start:]
        request.send_response(206 if start else 200)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("ETag", f'"{etag}"')
        request.send_header("Content-Length", str(len(payload)))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        if not body:
            return
        if self.damage:
            payload = bytes(255 - value for value in payload)
        if self.break_after is not None:
            request.wfile.write(payload[: self.break_after])
            self.break_after = None
            request.close_connection = True
            return
        request.wfile.write(payload)


def be_impatient(monkeypatch):
    """As HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT would; others wait longer, on a busy machine too."""
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running stand-in, and a cache of its own, as HF_ENDPOINT and HF_HOME would set them at start."""
    from huggingface_hub.utils import close_session

    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    close_session()
    server.close()
