"""A page in a real browser, and what tests ask of it."""

import base64
import json
import pathlib
import shutil
import time

import numpy as np
import pytest
from PIL import Image

SECONDS = 60
# The names of Debian, Ubuntu and Google.
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
CHROMEDRIVER = shutil.which("chromedriver")


def require_browser():
    """Skips tests, by name, where there is no browser to run them in."""
    pytest.importorskip("selenium", reason="needs selenium, of the extra `test`")
    for name, path in (("chromium", CHROMIUM), ("chromedriver", CHROMEDRIVER)):
        if path is None:
            pytest.skip(f"needs {name}, such as Debian's packages chromium and chromium-driver")


class Page:
    """A browser without a window.

    Args:
        downloads: The folder for downloads.
    """

    def __init__(self, downloads: pathlib.Path):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
        ):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(CHROMEDRIVER))
        self.downloads = downloads
        self.address = ""

    def close(self):
        self.driver.quit()

    def open(self, address, fragment="", width=1360, height=900, scheme="light", touch=False):
        """Opens a server's page anew."""
        self.address = address
        self.command("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.resize(width, height, mobile=touch)
        scheme = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get("about:blank")
        self.driver.get(f"{address}/{fragment}")
        self.ready()

    def resize(self, width, height, mobile=False):
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def command(self, name, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def wait(self, script, *arguments):
        """Waits until a script returns something true, and returns it."""
        end = time.monotonic() + SECONDS
        while not (value := self.run(script, *arguments)):
            assert time.monotonic() < end, f"{script} is not true; {self.errors()}"
            time.sleep(0.02)
        return value

    def ready(self):
        """Waits until the image is shown as the model sees it."""
        self.wait(
            "return document.querySelector('#complete:enabled, #view-section.off')"
            " && !document.querySelector('.busy')"
        )

    def element(self, selector):
        return self.driver.find_element("css selector", selector)

    def click(self, selector):
        self.element(selector).click()

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent.trim()", selector)

    def is_visible(self, selector):
        return self.element(selector).is_displayed()

    def fill(self, name, value):
        """Types a number into a field, and leaves it."""
        field = self.element(f"#{name}")
        field.clear()
        field.send_keys(str(value) + "\t")

    def slide(self, name, value):
        """Sets a slider as a drag does."""
        self.run(
            "const [slider, value] = arguments; slider.value = value;"
            "slider.dispatchEvent(new Event('input', {bubbles: true}))",
            self.element(f"#{name}"),
            value,
        )

    def upload(self, path):
        self.run("history.replaceState(null, '', '#')")
        self.element("#file").send_keys(str(path))
        self.wait("return location.hash.includes('image=own')")
        self.ready()

    def settings(self):
        """The settings in the address."""
        script = "return Object.fromEntries(new URLSearchParams(location.hash.slice(1)))"
        return self.run(script)

    def pixels(self, selector, index=0):
        """What a canvas holds, uint8 [height, width, 4]."""
        width, height, data = self.run(
            """const canvas = document.querySelectorAll(arguments[0])[arguments[1]];
            const {data, width, height} =
              canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let text = "";
            for (const byte of data) text += String.fromCharCode(byte);
            return [width, height, btoa(text)]""",
            selector,
            index,
        )
        return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)

    def completions(self):
        """The completions in the grid, uint8 [N, R, R, 3]."""
        count = self.run("return document.querySelectorAll('button.pictures').length")
        selector = "button.pictures .pixels"
        return np.stack([self.pixels(selector, index)[..., :3] for index in range(count)])

    def complete(self, selector="#complete"):
        """Presses a button that completes, and waits for the last row."""
        self.click(selector)
        self.completed()

    def completed(self):
        self.wait(
            "return document.getElementById('running').hidden"
            " && [...document.querySelectorAll('button.pictures + figcaption .score')]"
            ".every((score) => score.textContent)"
            " && document.querySelector('button.pictures')"
        )

    def downloaded(self, name):
        """Waits for a download and returns the picture."""
        path = self.downloads / name
        end = time.monotonic() + SECONDS
        while not path.exists():
            assert time.monotonic() < end, f"{name} is not among {list(self.downloads.iterdir())}"
            time.sleep(0.02)
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))

    def errors(self):
        """What the browser complained of since this was asked last."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self):
        """What was asked for since this was asked last."""
        messages = (json.loads(entry["message"]) for entry in self.driver.get_log("performance"))
        events = (message["message"] for message in messages)
        return [
            event["params"]["request"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def sent(self):
        """The bodies of the requests for rows since this was asked last."""
        requests = self.requests()
        return [json.loads(r["postData"]) for r in requests if r["url"].endswith(":stream")]
