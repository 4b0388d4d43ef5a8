"""`ccdn demo`: its answers, whom it refuses, and how it starts and ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from demo_server import FACES, TIMEOUT, ask, encoded, error_of, photograph, served

from ccdn.cli import demo
from ccdn.inference.demo import server
from ccdn.inference.demo.app import MOST_BYTES, PAGE
from ccdn.inference.predictor import Predictor
from ccdn.inference.scores import combined


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(Predictor()) as found:
        yield found


# ---- answers -----------------------------------------------------------------------------------


def test_a_photograph(address: str) -> None:
    found = ask(address, "/faces", photograph()).json
    assert (found["width"], found["height"]) == (256, 256)
    (face,) = found["faces"]
    assert error_of(face["landmarks"]) < 0.05
    both = combined(face["detection_score"], face["landmark_score"])
    assert face["score"] == pytest.approx(both, abs=1e-3)
    assert len(face["spread"]) == 68
    assert set(face["head_pose"]) == {"yaw", "pitch", "roll"}
    assert all(abs(degrees) < 40 for degrees in face["head_pose"].values())
    assert len(face["eye_aspect_ratio"]) == 2
    assert face["mouth_aspect_ratio"] >= 0


def test_a_picture_without_a_face(address: str) -> None:
    plain = np.full((64, 80, 3), 127, np.uint8)
    assert ask(address, "/faces", encoded(plain, ".png")).json == {
        "width": 80,
        "height": 64,
        "faces": [],
    }


def test_the_orientation_of_a_telephone(address: str) -> None:
    """A picture that lies on its side is turned upright, as the browser shows it."""
    lying = encoded(np.ascontiguousarray(np.rot90(FACES.image(0)[:, :200])))
    exif = b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    turned = lying[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + lying[2:]
    found = ask(address, "/faces", turned).json
    assert (found["width"], found["height"]) == (200, 256)
    assert error_of(found["faces"][0]["landmarks"]) < 0.05


def test_several_at_once(address: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: ask(address, "/faces", photograph(i % 2)).json, range(4)))
    for i, answer in enumerate(answers):
        assert error_of(answer["faces"][0]["landmarks"], i % 2) < 0.05


def test_what_it_tells_about_itself(address: str) -> None:
    found = ask(address, "/about").json
    assert found["points"] == 68
    assert found["most_bytes"] == MOST_BYTES
    assert sorted({i for part in found["parts"] for i in part}) == list(range(68))


def test_a_generated_face(address: str) -> None:
    first, again = (ask(address, "/example?seed=6") for _ in range(2))
    assert first.headers["content-type"] == "image/png"
    assert first.body == again.body
    assert len(ask(address, "/faces", first.body).json["faces"]) == 1
    assert ask(address, "/example?seed=7").body != first.body
    for seed in ("-1", "x", "1" * 10):
        assert ask(address, f"/example?seed={seed}").code == 400


# ---- bad files ---------------------------------------------------------------------------------


def enormous() -> bytes:
    """A PNG of a few bytes that states 60000 x 60000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    size = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"a letter, not a picture", "not an image that OpenCV can decode"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that OpenCV can decode"),
        (photograph()[:2000], "the image file is truncated"),
        (enormous(), "more pixels than"),
    ],
    ids=["empty", "text", "svg", "truncated", "enormous"],
)
def test_a_bad_file(address: str, content: bytes, reason: str) -> None:
    answer = ask(address, "/faces", content)
    assert answer.code == 422
    assert reason in answer.json["error"]
    assert "picture:" not in answer.json["error"]


def test_a_file_that_is_too_large_is_not_read(address: str) -> None:
    stated = ask(address, "/faces", b"", Content_Length=str(MOST_BYTES + 1))
    assert (stated.code, stated.json) == (413, {"error": "the file is larger than 64 MB"})


def test_a_file_of_unknown_size_is_read_to_the_limit(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccdn.inference.demo.app.MOST_BYTES", 1 << 20)
    answer = ask(address, "/faces", iter([b"x" * (1 << 19)] * 3), Transfer_Encoding="chunked")
    assert (answer.code, answer.json) == (413, {"error": "the file is larger than 1 MB"})


# ---- who may ask -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["faces.example", "127.0.0.1.faces.example", "10.0.0.1"])
def test_another_name_is_refused(address: str, host: str) -> None:
    """A name of another site that was pointed to this machine (DNS rebinding)."""
    port = urlsplit(address).port
    for path, body in (("/", None), ("/faces", photograph())):
        answer = ask(address, path, body, Host=f"{host}:{port}", Origin=f"http://{host}:{port}")
        assert answer.code == 400
        assert b"landmarks" not in answer.body


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://faces.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"},  # a form
    ],
)
def test_pages_of_other_sites_are_refused(address: str, headers: dict[str, str]) -> None:
    answer = ask(address, "/faces", photograph(), **headers)
    assert answer.code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_page_itself_may_ask(address: str) -> None:
    port = urlsplit(address).port
    for host in ("127.0.0.1", "localhost"):
        netloc = f"{host}:{port}"
        same = {"Host": netloc, "Origin": f"http://{netloc}", "Sec_Fetch_Site": "same-origin"}
        assert ask(address, "/faces", photograph(), **same).code == 200
    assert ask(address, "/", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate").code == 200
    link = ask(address, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert link.code == 200
    assert ask(address, "/example", Sec_Fetch_Site="cross-site").code == 403
    assert ask(address, "/faces").code == 404  # pictures are posted
    assert ask(address, "/../app.py").code == 404


def test_the_page_loads_nothing_from_elsewhere(address: str) -> None:
    assert b"Facial landmarks" in ask(address, "/").body
    for path in ("/", "/page.css", "/page.js", "/about", "/missing"):
        headers = ask(address, path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert not re.search(r"https?:|\*|unsafe", policy)
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers
    for path in PAGE.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:https?:)?//\w+\.\w", text), path.name


def test_only_this_machine_is_served() -> None:
    with server.listening(0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


# ---- start and end -----------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs of the command with a server that ends at once, and what it opened."""
    found: dict[str, Any] = {"opened": []}
    monkeypatch.setattr(server, "serve", lambda app, socket: None)
    monkeypatch.setattr(server, "open_browser", found["opened"].append)
    return found


def test_the_browser(
    started: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    assert demo.main(["--port", "0"]) == 0
    (url,) = started["opened"]
    assert f"{url} shows faces" in capsys.readouterr().out
    assert demo.main(["--port", "0", "--no-browser"]) == 0
    monkeypatch.delenv("DISPLAY")
    assert demo.main(["--port", "0"]) == 0  # a text browser would take the terminal
    assert len(started["opened"]) == 1


def test_a_port_in_use(started: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with server.listening(0) as other:
        port = other.getsockname()[1]
        assert demo.main(["--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error == f"ccdn demo: --port {port}: it is in use; --port 0 takes a free one\n"
    with pytest.raises(SystemExit):
        demo.main(["--port", "65536"])
    assert "expected a port of 0 to 65535, found 65536" in capsys.readouterr().err


def test_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert demo.main([]) == 2
    error = capsys.readouterr().err
    assert error == (
        "ccdn demo: the page needs starlette and uvicorn; `pip install '.[demo]'` in the clone\n"
    )


@pytest.mark.parametrize(
    ("signum", "code", "last"),
    [
        (signal.SIGINT, 130, "ccdn demo: interrupted\n"),
        (signal.SIGTERM, -signal.SIGTERM, ""),
    ],
)
def test_it_ends_and_leaves_nothing(
    signum: signal.Signals, code: int, last: str, tmp_path: Path
) -> None:
    """While a browser holds a connection, and after a picture."""
    environment = os.environ | dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(tmp_path))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "ccdn", "demo", "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        assert len(ask(url, "/faces", photograph()).json["faces"]) == 1
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port)) as held:
            held.sendall(b"GET /about HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert held.recv(15) == b"HTTP/1.1 200 OK"
            process.send_signal(signum)
            out, error = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
    assert process.returncode == code
    assert out == ""
    assert error.endswith(last or error)
    assert "Traceback" not in error
    assert [*tmp_path.rglob("*")] == []
