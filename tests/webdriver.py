"""Chromium driven through chromedriver's own protocol (WebDriver), with what it logs and what it asks for."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """One window.

    Args:
        profile: Empty folder for its profile.
        *flags: Further flags of Chromium.
    """

    def __init__(self, profile, *flags):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
        self.base = f"http://127.0.0.1:{port}"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--disable-component-update", "--disable-sync", "--no-first-run", f"--user-data-dir={profile}",
                     "--window-size=1280,1000", *flags]  # fmt: skip
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            for _ in range(200):
                try:
                    made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)
            self.session = f"/session/{made['sessionId']}"
        except BaseException:
            self.driver.kill()
            raise
        self.requests = []

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def resize(self, width, height=1000):
        """Show pages as on a screen of this size in pixels, also where a window would be wider."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        body = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._call("POST", f"{self.session}/goog/cdp/execute", body)

    def open(self, url):
        self._call("POST", f"{self.session}/url", {"url": url})

    def run(self, script, *args):
        """What a script returns."""
        return self._call("POST", f"{self.session}/execute/sync", {"script": script, "args": list(args)})

    def find(self, css):
        """The first element, as soon as there is one."""
        return self.wait(lambda: self._find(css), css)

    def _find(self, css):
        found = self._call("POST", f"{self.session}/elements", {"using": "css selector", "value": css})
        return found[0][_ELEMENT] if found else None

    def click(self, css):
        """Click an element, as soon as it can be."""

        def clicked():
            try:
                self._call("POST", f"{self.session}/element/{self.find(css)}/click", {})
                return True
            except AssertionError:
                return False

        self.wait(clicked, f"click on {css}")

    def type(self, css, text):
        """Type into an element; a file chooser takes a path."""
        self._call("POST", f"{self.session}/element/{self.find(css)}/value", {"text": text})

    def text(self, css):
        return self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", css)

    def wait(self, condition, what, seconds=60):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"never: {what}"
            time.sleep(0.1)
        return found

    def shoot(self, path):
        path.write_bytes(base64.b64decode(self._call("GET", f"{self.session}/screenshot")))

    def logged(self):
        """Errors of the console since the last call."""
        lines = self._call("POST", f"{self.session}/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] == "SEVERE"]

    def asked(self):
        """Addresses that were requested so far."""
        for line in self._call("POST", f"{self.session}/se/log", {"type": "performance"}):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return self.requests

    def close(self):
        try:
            self._call("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait()
