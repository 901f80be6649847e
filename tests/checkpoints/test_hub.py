"""Files from a local server that speaks the protocol of the hub: pinned, resumed, refused."""

import hashlib
import http.server
import threading

import numpy as np
import pytest
from small_model import DIT_CONFIG

from skipsr_jax.checkpoints import convert, hub, keys, lazy, safetensors_file, store
from skipsr_jax.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """Serves ``files`` of the repository owner/name, and notes the ranges that are asked for.

    Attributes:
      files: name -> bytes.
      cut: bytes after which the next answer ends, as where a connection breaks; None: never.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.ranges, self.cut = {}, [], None

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        owner, name, _, revision, file = self.path.strip("/").split("/", 4)
        data = self.server.files.get(file)
        if (owner, name) != ("owner", "name") or revision not in ("main", COMMIT) or data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, asked = 0, self.headers.get("Range")
        if body:
            self.server.ranges.append(asked)
        if asked:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if body:
            cut, self.server.cut = self.server.cut, None
            self.wfile.write(data[first:cut])
            self.close_connection = cut is not None


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
    from huggingface_hub import constants

    server = Hub()
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_that_breaks_is_continued_and_converted(server, tmp_path):
    tensors = {
        entry.official: lazy.of_array(np.ones(entry.shape, np.float32))
        for entry in keys.entries_of(DIT_CONFIG)
        if entry.official is not None
    }
    safetensors_file.write(tmp_path / "dit.safetensors", tensors)
    data = (tmp_path / "dit.safetensors").read_bytes()
    server.files["weights/dit.safetensors"], server.cut = data, 5000
    digest = hashlib.sha256(data).hexdigest()
    arguments = [
        "convert", "--hub=owner/name@main", "--dit=weights/dit.safetensors",
        f"--sha256=weights/dit.safetensors={digest}", f"--out={tmp_path}/model",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"dit\.safetensors cannot be downloaded: .*continues"):
        convert.run(arguments)
    assert not (tmp_path / "model").exists()
    (partial,) = (tmp_path / "model.hub").rglob("*.partial")
    assert partial.read_bytes() == data[: partial.stat().st_size]
    have = partial.stat().st_size
    said = convert.run(arguments)
    assert server.ranges == [None, f"bytes={have}-" if have else None]
    assert digest in said and f"owner/name@{COMMIT}" in said
    source = store.load_config(tmp_path / "model")["sources"]["dit"]
    assert source["sha256"] == digest and source["hub"] == f"owner/name@{COMMIT}"
    assert not (tmp_path / "model.hub").exists()


def test_another_sha256_is_refused_and_nothing_is_kept(server, tmp_path):
    server.files["a.pt"] = b"weights"
    with pytest.raises(UserError, match=r"a\.pt: the hub has sha256 .*, --sha256 has 0000"):
        hub.fetch(f"owner/name@{COMMIT}", ["a.pt"], tmp_path, {"a.pt": "0" * 64})
    assert not list(tmp_path.rglob("*.p*"))
    (found,) = hub.fetch(f"owner/name@{COMMIT}", ["a.pt"], tmp_path, {})
    assert found.path.read_bytes() == b"weights"
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()
    again = hub.fetch(f"owner/name@{COMMIT}", ["a.pt"], tmp_path, {})
    assert again == [found] and server.ranges == [None]  # fetched once


def test_a_file_that_is_not_there(server, tmp_path):
    with pytest.raises(UserError, match=r"owner/name@main: b\.pt cannot be downloaded"):
        hub.fetch("owner/name@main", ["b.pt"], tmp_path, {})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hub=name", "--dit=a"], "must be OWNER/NAME@REVISION"),
        (["--hub=owner/name", "--dit=a"], "must be OWNER/NAME@REVISION"),
        (["--hub=o/n@main", "--dit=a", "--sha256=a=12"], "64 hexadecimal digits"),
        (["--hub=o/n@main", "--dit=a", f"--sha256=b={'0' * 64}"], "b is none of the files: a"),
        (["--dit=a", f"--sha256=a={'0' * 64}"], "--sha256 pins files of --hub"),
    ],
)
def test_what_is_no_address_or_pin(tmp_path, arguments, says):
    with pytest.raises(UserError, match=says):
        convert.run(["convert", *arguments, f"--out={tmp_path}/model"])
