"""The page of `ccdn demo` as a web application: pictures come in, faces go out, none is kept."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ccdn.data import DataError
from ccdn.data.images import cv2, decode
from ccdn.inference.predictor import Predictor
from ccdn.inference.results import Face, Faces
from ccdn.inference.tracking import TimeError, Tracker
from ccdn.runtime.numbers import is_whole
from ccdn.synthetic_faces import SyntheticFaces
from ccdn_ops._version import __version__

PAGE = Path(__file__).parent / "page"
MOST_BYTES = 64 << 20  # of a picture's file
# The names of this machine for itself. A page of another site whose name was pointed here, which
# is called DNS rebinding, comes with its own name.
HOSTS = ["127.0.0.1", "localhost"]
MOST_FILMS = 8  # that are followed at a time
EXAMPLE_SIDE = 512  # pixels
MEASURED = (68, 98)  # numbers of points for which a face has a pose and aspect ratios
_PICTURE = Path("picture")  # how messages name it: the server does not know the file
_FILM = re.compile(r"[0-9a-z-]{1,36}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' blob: data:; media-src 'self' blob: mediastream:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(predictor: Predictor) -> Starlette:
    """The application: the page, and what it asks for.

    GET /about tells which network and detector answer. POST /faces takes the bytes of a picture's
    file, at most MOST_BYTES, and gives its faces as `ccdn predict` writes them, with their head
    poses and aspect ratios; an error has a code of 400 to 499 and {"error": ...}. POST
    /faces?film=NAME&time=SECONDS takes a frame of a film, later than the last one of that name, and
    follows its faces: they have ids and are smoothed. Of the last MOST_FILMS films the faces of the
    last second are remembered. GET /example?seed=N is a generated face as PNG. Requests under
    another name than this machine's are refused, and so are those of other sites' pages. A picture
    stays in memory until it is answered.
    """
    service = _Service(predictor)
    return Starlette(
        routes=[
            Route("/about", service.about),
            Route("/example", service.example),
            Route("/faces", service.faces, methods=["POST"]),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
            Middleware(_OwnPages),
        ],
    )


class _Service:
    """The answers. One picture is searched at a time: a second one waits."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._turn = asyncio.Lock()
        self._films: OrderedDict[str, Tracker] = OrderedDict()  # the one that waits longest first

    async def about(self, request: Request) -> Response:
        layout = self._predictor.layout
        return JSONResponse(
            {
                "version": __version__,
                "detector": self._predictor.detector.name,
                "min_score": self._predictor.min_score,
                "points": layout.points,
                "parts": layout.parts,
                "most_bytes": MOST_BYTES,
            }
        )

    async def example(self, request: Request) -> Response:
        seed = request.query_params.get("seed", "0")
        if not is_whole(seed) or len(seed) > 9:
            return _refusal(400, f"seed: expected a whole number of at most 9 digits, found {seed}")
        return Response(await run_in_threadpool(_example, int(seed)), media_type="image/png")

    async def faces(self, request: Request) -> Response:
        film, time = request.query_params.get("film"), request.query_params.get("time", "")
        if film is not None and not (_FILM.fullmatch(film) and _SECONDS.fullmatch(time)):
            return _refusal(
                400,
                "film and time: expected a name of at most 36 digits, small letters and hyphens,"
                f" and seconds, found {film!r} and {time!r}",
            )
        content = await _content(request)
        if content is None:
            return _refusal(413, f"the file is larger than {MOST_BYTES >> 20} MB")
        try:
            async with self._turn:
                if film is None:
                    return JSONResponse(await run_in_threadpool(_find, self._predictor, content))
                follow = partial(self._tracker(film), time=float(time))
                return JSONResponse(await run_in_threadpool(_find, follow, content))
        except DataError as error:
            return _refusal(422, str(error).removeprefix(f"{_PICTURE}: "))
        except TimeError as error:
            return _refusal(409, str(error))

    def _tracker(self, film: str) -> Tracker:
        """That of a film, which is now the one used last; the one that waits longest is dropped."""
        tracker = self._films.pop(film, None) or Tracker(self._predictor)
        self._films[film] = tracker
        if len(self._films) > MOST_FILMS:
            self._films.popitem(last=False)
        return tracker


def _find(search: Callable[[np.ndarray], Faces], content: bytes) -> dict[str, Any]:
    if not content:
        raise DataError(f"{_PICTURE}: the file is empty")
    image = cv2.cvtColor(decode(_PICTURE, content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    faces = search(image)
    height, width = image.shape[:2]
    return {"width": width, "height": height, "faces": [_record(face) for face in faces]}


def _record(face: Face) -> dict[str, Any]:
    values = face.to_dict()
    if face.layout.points in MEASURED:
        values["head_pose"] = {k: round(v, 1) for k, v in face.head_pose()._asdict().items()}
        values["eye_aspect_ratio"] = [round(ratio, 3) for ratio in face.eye_aspect_ratio()]
        values["mouth_aspect_ratio"] = round(face.mouth_aspect_ratio(), 3)
    return values


def _example(seed: int) -> bytes:
    image = SyntheticFaces(1, seed, size=EXAMPLE_SIDE, pose=20, occlusion=0).image(0)
    encoded: np.ndarray = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    return encoded.tobytes()


async def _content(request: Request) -> bytes | None:
    """The body of a request, or None for one that is larger than MOST_BYTES."""
    stated = request.headers.get("content-length", "0")
    if is_whole(stated) and int(stated) > MOST_BYTES:
        return None
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_BYTES:
            return None
    return bytes(content)


def _refusal(code: int, reason: str) -> JSONResponse:
    return JSONResponse({"error": reason}, status_code=code)


class _OwnPages:
    """Refuses what the page of another site sends, which browsers mark."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _foreign(scope["method"], Headers(scope=scope)):
            refusal = _refusal(403, "a page of another site may not ask for this")
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _foreign(method: str, headers: Headers) -> bool:
    """Whether a page of another site asks; a link to this page is no such request."""
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return True
    if method == "GET" and headers.get("sec-fetch-mode") == "navigate":
        return False
    return headers.get("sec-fetch-site", "none") not in ("same-origin", "none")


class _Headers:
    """Adds to every answer the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, answer)
