"""The page in a real browser: what it draws is what the command draws, and what people wrote is text.

``LLMDIFF_SCREENSHOTS=docs/how-to/app LLMDIFF_DEMO=runs`` takes the screenshots of the docs of what `make demo` left in
``runs``.
"""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from llmdiff.process.tcp_ports import free_port
from tests.app.conftest import MARKUP, ODD
from tests.app.test_drawing import pixels

pytest.importorskip("gradio", reason="llmdiff[app] is not installed")
CHROMIUM = shutil.which("chromium")
PROMPT, SEED, STEPS = "a red circle to the left of a blue square", 3, 12
LOGIN = ("ada", "a secret")


@pytest.fixture
def home(demo_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(os.environ.get("LLMDIFF_DEMO", demo_home)).resolve()
    monkeypatch.setenv("LLMDIFF_HOME", str(folder))
    return folder


@pytest.fixture
def address(home: Path) -> Iterator[str]:
    """A page that asks for a login."""
    import uvicorn

    from pipelines.app.server import build_app
    from pipelines.requests.app import AppRequest

    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(build_app(AppRequest(), LOGIN), host="127.0.0.1", port=port, log_level="warning")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


def picture(page: Any, selector: str) -> Image.Image:
    """The picture of an element, as its PNG is downloaded."""
    source = page.locator(f"{selector} img").first.get_attribute("src")
    return Image.open(io.BytesIO(page.request.get(source).body()))


def keep(page: Any, name: str) -> None:
    """Keep a screenshot, where they are wanted."""
    if folder := os.environ.get("LLMDIFF_SCREENSHOTS"):
        page.wait_for_timeout(700)
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.process
@pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
def test_the_page_in_chromium(address: str, home: Path, tmp_path: Path) -> None:
    from pipelines.app.sources import choices
    from pipelines.flows.generate import draw_into, load_source, resolve_adapter
    from pipelines.requests.app import AppRequest
    from pipelines.requests.generate import GenerateRequest

    assert httpx.get(f"{address}/config").status_code == 401
    assert httpx.get(f"{address}/", headers={"Origin": "http://evil.example"}).status_code == 403
    asked: set[str] = set()
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.add(request.url.partition("://")[2].partition("/")[0]))
        page.goto(address)
        page.get_by_role("button", name="Login").wait_for()
        for box, text in zip(page.locator("input").all(), LOGIN, strict=True):
            box.fill(text)
        page.get_by_role("button", name="Login").click()
        page.wait_for_function("document.querySelector('#adapter input')?.value")

        page.fill("#prompts textarea", PROMPT)
        page.fill("#seed input", str(SEED))
        page.fill("#steps input[type=number]", str(STEPS))
        page.click("#draw")
        page.wait_for_selector("#adapted img")
        adapted = picture(page, "#adapted")
        page.click("#strip")
        page.wait_for_selector("#scales img")
        keep(page, "try")

        page.get_by_role("tab", name="See why").click()
        page.click("#show-why")
        page.wait_for_selector("#new-path img")
        keep(page, "why")

        page.get_by_role("tab", name="The store").click()
        page.fill("#words textarea, #words input", "circle" if "LLMDIFF_DEMO" in os.environ else "onerror")
        page.click("#look")
        page.wait_for_selector("#samples img")
        keep(page, "store")
        if "LLMDIFF_DEMO" not in os.environ:
            page.get_by_role("tab", name="Rejects").click()  # and they are listed
            page.locator("#rejects").get_by_text(ODD).locator("visible=true").first.wait_for()
        page.get_by_role("tab", name="Sources").click()  # and they are counted
        page.locator("#sources").get_by_text("shapes-00000").locator("visible=true").first.wait_for()

        page.get_by_role("tab", name="A run").click()  # and the newest run is shown
        page.wait_for_selector("#weights img")
        page.locator("#run-link").get_by_text("runs are kept in a file").wait_for()
        keep(page, "run")

        page.get_by_role("tab", name="Try").click()
        page.fill("#prompts textarea", MARKUP)
        page.fill("#steps input[type=number]", "1")
        page.click("#draw")
        page.locator("#history").get_by_text(MARKUP).wait_for()
        page.locator("#adapter input").fill(f"{MARKUP}/x")
        page.locator("#adapter input").press("Enter")
        page.click("#draw")
        page.get_by_text(f"{MARKUP}/x: no such adapter folder").wait_for()
        assert page.evaluate("window.hacked") is None
        for secret in ("/etc/hostname", home / "mlflow.db"):  # only what a page showed is served
            assert page.request.get(f"{address}/gradio_api/file={secret}").status in (403, 404)
        browser.close()
    assert asked == {address.removeprefix("http://")}

    found = choices(AppRequest())
    source = resolve_adapter.fn(found.adapters[0], None, None)
    request = GenerateRequest(prompts=[PROMPT], seed=SEED, steps=STEPS)
    pipe = load_source(source, True, request.sampling)
    (path,) = draw_into.fn(tmp_path, pipe, source, request, adapted=True)
    assert pixels(adapted) == pixels(Image.open(path))
    assert adapted.info == Image.open(path).info
