"""Downloads against a server of our own: resumed, checked, unpacked once."""

from __future__ import annotations

import hashlib
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pspnet_lightning.data.download import Archive, fetch, obtain

BUFFER = io.BytesIO()
with zipfile.ZipFile(BUFFER, "w") as _archive:
    _archive.writestr("set/a.txt", "hello" * 50_000)
CONTENT = BUFFER.getvalue()


class Handler(BaseHTTPRequestHandler):
    requests: list[str | None] = []  # noqa: RUF012
    break_after: int | None = None

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = Handler.break_after
        Handler.break_after = None
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def archive() -> Iterator[Archive]:
    Handler.requests.clear()
    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Archive(f"http://127.0.0.1:{server.server_port}/set.zip", hashlib.md5(CONTENT).hexdigest())
    server.shutdown()


def test_fetched_and_unpacked_once(archive: Archive, tmp_path: Path) -> None:
    obtain([archive], tmp_path, done="set/a.txt")
    assert (tmp_path / "set" / "a.txt").read_text() == "hello" * 50_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]
    obtain([archive], tmp_path, done="set/a.txt")
    assert Handler.requests == [None]


def test_a_broken_connection_is_resumed(archive: Archive, tmp_path: Path) -> None:
    Handler.break_after = 300
    with pytest.raises(ValueError, match=r"cannot download .*set\.zip.* Run it again to go on"):
        fetch(archive, tmp_path)
    assert not (tmp_path / "set.zip").exists()
    obtain([archive], tmp_path, done="set/a.txt")
    assert Handler.requests == [None, "bytes=300-"]
    assert (tmp_path / "set" / "a.txt").is_file()


def test_a_wrong_checksum_is_refused(archive: Archive, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the checksum"):
        fetch(archive._replace(digest="0" * 32), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_unpacking_is_done_again(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("half")
    (tmp_path / ".set.zip.unpacking").touch()
    obtain([archive], tmp_path, done="set/a.txt")
    assert (tmp_path / "set" / "a.txt").read_text() == "hello" * 50_000


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fetch the file elsewhere and put it into"):
        fetch(Archive("http://127.0.0.1:9/set.zip", "0" * 32), tmp_path)


@pytest.mark.parametrize(("terminal", "ci"), [(True, ""), (True, "true"), (False, "")])
def test_a_line_that_counts_up_on_a_terminal(
    archive: Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    terminal: bool,
    ci: str,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("TERM", "xterm")
    obtain([archive], tmp_path, done="set/a.txt")
    said = capsys.readouterr()
    assert said.out == ""
    if terminal and not ci:
        size = f"{len(CONTENT) / 1e6:.0f}"
        expected = [f"set.zip: {size} of {size} MB", "unpacking set.zip: 1 of 1 files", ""]
        assert [line.rpartition("\r")[2] for line in said.err.split("\n")] == expected
    else:
        assert said.err == ""
