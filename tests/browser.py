"""A headless browser that says what a page did, by the DevTools protocol, whose methods it sends."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
WATCHED = ("Page", "Runtime", "Log", "Network")


@contextmanager
def opened(folder: Path) -> Iterator["Tab"]:
    """A browser whose profile lies in the folder, with one tab. It gets nothing from outside 127.0.0.1."""
    command = [FOUND, "--headless", "--no-sandbox", "--disable-gpu", "--no-proxy-server", *QUIET, OFFLINE]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    port, end = folder / "DevToolsActivePort", time.monotonic() + 120
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not (port.exists() and len(lines := port.read_text().splitlines()) == 2):
                assert time.monotonic() < end, "the browser does not start"
                time.sleep(0.1)
            wire = socket.create_connection(("127.0.0.1", int(lines[0])), timeout=120)  # past any proxy
            address = f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            how = {"socket": wire, "suppress_origin": True}
            with closing(websocket.create_connection(address, **how)) as connection:
                yield Tab(connection)
        finally:
            process.terminate()


class Tab:
    """One tab: `requests`, also those in vain, and `errors` are what its page did."""

    def __init__(self, connection: websocket.WebSocket):
        self._socket, self._count, self._session = connection, 0, {}
        self.loaded, self.requests, self.errors = False, [], []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in WATCHED:
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: object) -> dict:
        """Its result; what happens meanwhile is noted."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters, **self._session}
        self._socket.send(json.dumps(message))
        while (answer := json.loads(self._socket.recv())).get("id") != self._count:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def _note(self, event: dict) -> None:
        method, said = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.errors.append(str(said["args"]))
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")

    def open(self, url: str, width: int = 1400) -> None:
        """Load a page in a window of this width, and forget what the last one did."""
        self.loaded, self.requests, self.errors = False, [], []
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        self.send("Page.navigate", url=url)
        while not self.loaded:
            self._note(json.loads(self._socket.recv()))
        self.ask("new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")

    def ask(self, expression: str) -> object:
        """The value of a JavaScript expression, or what its promise gives."""
        how = {"awaitPromise": True, "returnByValue": True}
        return self.send("Runtime.evaluate", expression=expression, **how)["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Until it is true."""
        end = time.monotonic() + 60
        while not self.ask(f"!!({expression})"):
            assert time.monotonic() < end, expression
            time.sleep(0.05)
