"""Generated faces as files, the page's server, and requests to it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from ccdn.inference.demo.app import application
from ccdn.inference.demo.server import address, listening, web_server
from ccdn.inference.predictor import Predictor
from ccdn.synthetic_faces import SyntheticFaces

TIMEOUT = 300  # seconds of patience with a busy machine
FACES = SyntheticFaces(2, seed=12, size=256, pose=10, occlusion=0)


def encoded(image: np.ndarray, suffix: str = ".jpg") -> bytes:
    """A picture, uint8 RGB, as the bytes of a file."""
    written, content = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert written
    data: bytes = content.tobytes()
    return data


def photograph(index: int = 0) -> bytes:
    """A generated face as a JPEG."""
    return encoded(FACES.image(index))


def error_of(landmarks: object, index: int = 0) -> float:
    """Mean distance from the true landmarks, in widths of the face."""
    truth = FACES.face(index).landmarks
    distances = np.linalg.norm(np.asarray(landmarks) - truth, axis=1)
    return float(distances.mean() / np.ptp(truth[:, 0]))


@contextmanager
def served(predictor: Predictor) -> Iterator[str]:
    """The page's address while a thread serves it."""
    with listening(0) as socket:
        server = web_server(application(predictor))
        thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
        thread.start()
        yield address(socket)
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.code, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    address: str, path: str, body: Any = None, method: str | None = None, **headers: str
) -> Answer:
    """A request as a browser sends it; a body makes it a POST. Headers: Sec_Fetch_Site=..."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=TIMEOUT)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    method = method or ("GET" if body is None else "POST")
    connection.request(method, path, body, named, encode_chunked=hasattr(body, "__next__"))
    with connection.getresponse() as response:
        return Answer(response)
