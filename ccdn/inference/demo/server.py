"""Serves the page of `ccdn demo` to this machine alone."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser

import uvicorn
from starlette.types import ASGIApp

from ccdn.runtime.errors import ConfigError

HOST = "127.0.0.1"
CONNECTIONS = 32  # at once; more are told to come later
PATIENCE = 3  # seconds that a picture may still take after Ctrl-C


def listening(port: int) -> socket.socket:
    """A socket on this machine's own address; port 0 takes a free one. Raises ConfigError for a
    port that cannot be had.
    """
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
        server.listen()
    except OSError as error:
        server.close()
        used = error.errno == errno.EADDRINUSE
        why = "it is in use" if used else error.strerror
        raise ConfigError(f"--port {port}: {why}; --port 0 takes a free one") from None
    return server


def address(server: socket.socket) -> str:
    """The page's address, for a browser on this machine."""
    return f"http://{HOST}:{server.getsockname()[1]}/"


def web_server(app: ASGIApp) -> uvicorn.Server:
    """What answers requests to the application. It does not look for WebSockets, and adds nothing
    to the terminal but errors.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE,
        ws="none",
        lifespan="off",
    )
    return uvicorn.Server(config)


def serve(app: ASGIApp, server: socket.socket) -> None:
    """Answer requests until SIGINT, which then raises KeyboardInterrupt, or SIGTERM, which then
    ends the process.
    """
    web_server(app).run([server])


def open_browser(url: str) -> None:
    """Open the page in the user's browser, without waiting for it."""
    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def has_screen() -> bool:
    """Whether a browser could open a window; a text browser would take the terminal instead."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in screens)
