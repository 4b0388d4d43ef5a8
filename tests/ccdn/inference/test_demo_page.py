"""The page of `ccdn demo` in a real browser: what a person does, sees and is told."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demo_server import FACES, encoded, error_of, photograph, served

from ccdn.inference.predictor import Predictor

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright, of the extra `test`, is not installed"
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 120_000  # milliseconds, with a busy machine
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
]

# Gives the page a file as a drop or a paste does.
HAND_OVER = """([kind, name, content]) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  if (name) data.items.add(new File([bytes], name, { type: "image/jpeg" }));
  else data.setData("text/plain", "no file");
  const given = kind === "drop" ? { dataTransfer: data } : { clipboardData: data };
  const event = kind === "drop" ? DragEvent : ClipboardEvent;
  document.body.dispatchEvent(new event(kind, { bubbles: true, cancelable: true, ...given }));
}"""

# The lowest contrast of a text with the ground behind it, as WCAG 2 defines it.
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgb(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
  };
  const texts = [...document.querySelectorAll("body *")].filter((node) =>
    !node.closest("svg") && node.checkVisibility() &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()));
  return Math.min(...texts.map((node) => {
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
}"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(Predictor()) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, whose webcam films the second generated face."""
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here (Debian's package chromium)")
    film = tmp_path_factory.mktemp("webcam") / "face.mjpeg"
    film.write_bytes(3 * photograph(1))
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(
            executable_path=program,
            args=[*OPTIONS, f"--use-file-for-fake-video-capture={film}"],
            timeout=PATIENCE,
        )
        yield chromium
        chromium.close()


class Visit:
    """The page in a window of its own, with what it asked for and complained about."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.address = address
        self.page.goto(address)
        self.page.wait_for_selector("#about:not(:empty)")

    def _note(self, message: Any) -> None:
        if message.type == "error" and "status of 4" not in message.text:
            self.faults.append(message.text)

    def choose(self, name: str, content: bytes, kind: str = "image/jpeg") -> None:
        self.page.set_input_files("#file", [{"name": name, "mimeType": kind, "buffer": content}])

    def told(self, text: str) -> str:
        """What the status line says, once it says this."""
        self.page.wait_for_selector(f"#said:has-text({json.dumps(text)})")
        found: str = self.page.inner_text("#said")
        return found

    def complained(self, text: str) -> str:
        self.page.wait_for_selector(f"#wrong:visible:has-text({json.dumps(text)})")
        found: str = self.page.inner_text("#wrong")
        return found

    def drawn(self) -> np.ndarray:
        """The points of the first face, (L, 2), in pixels of the picture, 0-based: from where they
        are on the screen.
        """
        found = self.page.evaluate(
            """() => {
              const whole = document.getElementById("frame").getBoundingClientRect();
              const box = document.getElementById("overlay").viewBox.baseVal;
              const dots = document.querySelectorAll("#overlay [data-face='0'] .dots");
              return [...dots].map((dot) => {
                const r = dot.getBoundingClientRect();
                return [(r.x + r.width / 2 - whole.x) / whole.width * box.width,
                        (r.y + r.height / 2 - whole.y) / whole.height * box.height];
              });
            }"""
        )
        return np.array(found) - 0.5

    def faces(self) -> int:
        found: int = self.page.locator("#faces .face").count()
        return found

    def leave(self) -> None:
        """Close the window. Nothing may have failed in it, or come from another machine."""
        self.context.close()
        assert self.faults == []
        own = ("blob:", "data:", self.address)
        assert [url for url in self.asked if not url.startswith(own)] == []


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visit]]:
    """visit(**options) opens the page; the options are those of a browser's context."""
    opened: list[Visit] = []

    def open_page(**options: Any) -> Visit:
        opened.append(Visit(browser, address, **options))
        return opened[-1]

    yield open_page
    for found in opened:
        found.leave()


def test_a_chosen_photograph(visit: Callable[..., Visit], tmp_path: Path) -> None:
    seen = visit()
    page = seen.page
    seen.choose("a face.jpg", photograph())
    assert seen.told("a face.jpg:").startswith("a face.jpg: 1 face, 256 \u00d7 256 pixels")
    assert error_of(seen.drawn()) < 0.05
    text = page.inner_text("#faces")
    for needed in ("Face 1", "score", "Detector's score", "Spread", "Yaw", "Pitch", "Roll", "Eyes"):
        assert needed in text
    assert page.get_attribute("#overlay", "aria-label") == "1 face"

    assert page.locator("#overlay .spread").first.is_hidden()
    page.check("text=spread")
    assert page.locator("#overlay .spread").first.is_visible()
    page.uncheck("#layers :text-is('points')")
    assert page.locator("#overlay .dots").first.is_hidden()

    with page.expect_download() as waiting:
        page.click("#save")
    waiting.value.save_as(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert waiting.value.suggested_filename == "a face.json"
    assert error_of(saved["faces"][0]["landmarks"]) < 0.05


def test_dropped_and_pasted(visit: Callable[..., Visit]) -> None:
    seen = visit()
    for index, kind in enumerate(("drop", "paste")):
        content = base64.b64encode(photograph(index)).decode()
        seen.page.evaluate(HAND_OVER, [kind, f"{kind}.jpg", content])
        seen.told(f"{kind}.jpg: 1 face")
        assert error_of(seen.drawn(), index) < 0.05
        seen.page.evaluate(HAND_OVER, [kind, "", ""])
        seen.complained(f"{kind.title()}: ")
        assert seen.faces() == 1


def test_bad_files(visit: Callable[..., Visit]) -> None:
    """Each is named with what is wrong; the page remains of use."""
    seen = visit()
    seen.choose("notes.jpg", b"a letter")
    assert seen.complained("notes.jpg").startswith("notes.jpg: not an image that OpenCV can decode")
    before = len(seen.asked)
    seen.page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array((64 << 20) + 1)], "film.raw"));
          document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: data }));
        }"""
    )
    assert seen.complained("film.raw") == "film.raw: the file is larger than 64 MB"
    assert len(seen.asked) == before  # it was not even sent
    nobody = encoded(np.full((40, 60, 3), 200, np.uint8), ".png")
    seen.choose("wall.png", nobody, "image/png")
    seen.told("wall.png: No face found")
    assert seen.page.is_hidden("#wrong")
    seen.choose("wall.tif", encoded(FACES.image(0), ".tif"), "image/tiff")
    assert "This browser cannot show the format" in seen.told("wall.tif: 1 face")
    assert error_of(seen.drawn()) < 0.05


def test_the_webcam(visit: Callable[..., Visit]) -> None:
    seen = visit(permissions=["camera"])
    page = seen.page
    page.click("#webcam")
    seen.told("Webcam: 1 face")
    assert page.inner_text("#webcam") == "Stop the webcam"
    assert error_of(seen.drawn() * 256 / page.evaluate("overlay.viewBox.baseVal.width"), 1) < 0.05
    # Its pictures are one film, in which a marked face stays marked while frames come.
    page.evaluate("() => { window.card = document.querySelector('#faces .face'); }")
    page.click("#faces button")
    for _ in range(3):
        with page.expect_response("**/faces?film=*"):
            pass
    films = {url.partition("film=")[2].partition("&")[0] for url in seen.asked if "film=" in url}
    assert len(films) == 1
    assert page.evaluate("card.isConnected")
    assert page.get_attribute("#faces button", "aria-pressed") == "true"
    assert page.locator("#overlay .chosen").count() == 1
    page.evaluate("() => { window.track = video.srcObject.getVideoTracks()[0]; }")
    page.click("#webcam")
    seen.told("The webcam is off.")
    assert page.evaluate("track.readyState") == "ended"
    assert page.is_visible("#empty")
    # A photograph ends it too.
    page.click("#webcam")
    seen.told("Webcam: 1 face")
    seen.choose("face.jpg", photograph())
    seen.told("face.jpg: 1 face")
    assert page.evaluate("video.srcObject") is None
    assert page.get_attribute("#webcam", "aria-pressed") == "false"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("NotAllowedError", "the browser was not allowed to use it"),
        ("NotFoundError", "none was found"),
        ("NotReadableError", "another program may be using it"),
    ],
)
def test_no_webcam(visit: Callable[..., Visit], error: str, reason: str) -> None:
    seen = visit()
    refuse = f"() => Promise.reject(new DOMException('no', '{error}'))"
    seen.page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = {refuse}; }}")
    seen.page.click("#webcam")
    assert seen.complained("Webcam") == f"Webcam: {reason}"


def test_with_the_keyboard_alone(visit: Callable[..., Visit]) -> None:
    seen = visit()
    page = seen.page
    page.evaluate("() => { Math.random = () => 6.5e-9; }")  # which face is drawn
    visited = []
    for _ in range(3):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.id"))
    assert visited == ["file", "webcam", "example"]
    page.keyboard.press("Enter")
    seen.told("generated-6.png: 1 face")
    page.focus("#layers input:last-of-type")
    while page.evaluate("document.activeElement.textContent") != "Face 1":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement !== document.body")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert page.get_attribute("#faces button", "aria-pressed") == "true"
    assert page.locator("#overlay .chosen").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_widths_and_colours(visit: Callable[..., Visit], width: int, scheme: str) -> None:
    seen = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = seen.page
    for name in ("empty", "face"):
        if name == "face":
            seen.choose("face.jpg", photograph())
            seen.told("face.jpg: 1 face")
            page.click("summary")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) >= 4.5
    aside = page.evaluate("found.getBoundingClientRect().x >= stage.getBoundingClientRect().right")
    assert aside == (width == 1600)
    seen.choose("notes.jpg", b"a letter")
    seen.complained("notes.jpg")
    assert page.evaluate(CONTRAST) >= 4.5
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert dark == (scheme == "dark")
