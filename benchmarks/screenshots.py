"""Pictures of pages, at 1280 and 390 px, and of figures, to be looked at; and what a browser says of each page.

    python benchmarks/screenshots.py OUT [PAGE, FIGURE, FOLDER or URL ...]      # default: reports

Needs Chromium from the system's packages as `chromium`; it is driven by websocket-client, which JupyterLab brings. A page at fault
is named, and the exit status is 1: it asked for something outside itself, the console has an error, it is cut on the right, it is
longer than 12 screens at 1280 x 800 px, or a text has less contrast than 4.5.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import websocket

REPORTS = Path(__file__).resolve().parents[1] / "reports"
WIDTHS, SCREEN, MOST_SCREENS, LEAST_CONTRAST = (1280, 390), 800, 12, 4.5
PIECE = 1600  # px: height of a picture, since a whole page in one could not be read
WAIT = 0.5  # seconds after a page has loaded, in which it may still ask or complain
LOOK = """(() => {
  const light = c => c.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length == 3 || c[3] > 0) return c.slice(0, 3) } return [255, 255, 255] };
  const pale = new Set();
  const words = document.createTreeWalker(document.body || document.documentElement, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const e = words.currentNode.parentElement, text = words.currentNode.data.trim();
    if (!text || e.closest('style, script') || !e.getClientRects().length) continue;
    const ink = rgb(e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color).slice(0, 3);
    const [a, b] = [light(ink), light(behind(e))].sort((a, b) => b - a);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < LEAST) pale.add(text.slice(0, 40) + ' ' + contrast.toFixed(1));
  }
  const dead = [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href'))
    .filter(href => !document.getElementById(decodeURIComponent(href.slice(1))));
  const cut = [document.documentElement, ...document.querySelectorAll('.wide, pre')].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.tagName + ' ' + e.scrollWidth + ' > ' + e.clientWidth + ' px: ' + e.innerText.trim().slice(0, 40));
  return {pale: [...pale], dead, cut};
})()""".replace("LEAST", str(LEAST_CONTRAST))


UNFOLD = "document.querySelectorAll('details').forEach(folded => folded.open = true)"


class Browser:
    """Headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, folder: str):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += ["--remote-allow-origins=*", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(["chromium", *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        place, until = Path(folder, "DevToolsActivePort"), time.monotonic() + 60
        while not (place.exists() and place.read_text().count("\n") == 1):
            if time.monotonic() > until:
                raise SystemExit("chromium does not answer after 60 seconds")
            time.sleep(0.1)
        port, path = place.read_text().split()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=120)
        self.numbers, self.events, self.session = count(1), [], None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        """The answer to a command; events that come meanwhile are kept."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise SystemExit(f"chromium, {method}: {answer['error']['message']}")
        return answer["result"]

    def run(self, script: str):
        """What a script gives on the page that is open."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def look(self, url: str, width: int, high: int = SCREEN) -> dict:
        """Open a page; how high it is, and what it asked for and complained of."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=high, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Page.navigate", url="about:blank")
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not self.run("location.href != 'about:blank' && document.readyState == 'complete'"):
            time.sleep(0.1)
        time.sleep(WAIT)
        told = [(event["method"], event["params"]) for event in self.events if "method" in event]
        asked = [params["request"]["url"] for method, params in told if method == "Network.requestWillBeSent"]
        errors = [params for method, params in told if method in ("Runtime.exceptionThrown", "Log.entryAdded")]
        errors += [p for method, p in told if method == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning")]
        others = [to for to in asked if to.split("#")[0] != url.split("#")[0] and not to.startswith("data:")]
        high = self.run("document.documentElement.scrollHeight")
        return {"high": high, "asked": others, "errors": [json.dumps(error)[:300] for error in errors]}

    def pictures(self, to: Path, width: int) -> None:
        """Pictures of the page that is open, folds and all, from top to bottom, none higher than PIECE."""
        high = self.run("document.documentElement.scrollHeight")
        for number, top in enumerate(range(0, high, PIECE)):
            clip = {"x": 0, "y": top, "width": width, "height": min(PIECE, high - top), "scale": 1}
            data = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
            to.with_name(f"{to.name}-{number:02}.png").write_bytes(base64.b64decode(data))


def faults(found: dict, width: int, report: bool) -> list[str]:
    """What is wrong with a page, in words; only a report has to be short."""
    said = [f"asks for {url}" for url in found["asked"]] + [f"console: {error}" for error in found["errors"]]
    said += [f"no place on the page: {anchor}" for anchor in found["dead"]] + [f"pale: {text}" for text in found["pale"]]
    said += [f"cut: {element}" for element in found["cut"]]
    long = report and width == max(WIDTHS) and found["high"] / SCREEN > MOST_SCREENS
    return said + [f"longer than {MOST_SCREENS} screens"] * long


def places(name: str) -> list[str]:
    """URLs of a page, a figure, or of all that lie below a folder."""
    if "://" in name:
        return [name]
    path = Path(name).resolve()
    found = sorted(p for end in ("html", "svg") for p in path.rglob(f"*.{end}")) if path.is_dir() else [path]
    return [each.as_uri() for each in found]


def main(out: Path, names: list[str]) -> int:
    """All pictures into the folder `out`; 1 where a page is at fault."""
    out.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with TemporaryDirectory() as folder:
        browser = Browser(folder)
        try:
            for url in [url for name in names or [str(REPORTS)] for url in places(name)]:
                stem = "-".join(Path(url).with_suffix("").parts[-3:]).replace(":", "")
                if url.endswith(".svg"):
                    browser.look(url, 640)
                    browser.pictures(out / stem, 640)
                    continue
                for width in WIDTHS:
                    found = browser.look(url, width)
                    browser.pictures(out / f"{stem}-{width}", width)
                    browser.run(UNFOLD)
                    found |= browser.run(LOOK)
                    browser.pictures(out / f"{stem}-{width}-unfolded", width)
                    said = faults(found, width, url.endswith("index.html"))
                    wrong += len(said)
                    print(f"{stem} at {width} px, {found['high'] / SCREEN:.1f} screens: {'; '.join(said) or 'no fault'}")
                printed = browser.ask("Page.printToPDF", printBackground=True)["data"]  # with the folds open
                (out / f"{stem}.pdf").write_bytes(base64.b64decode(printed))
        finally:
            browser.process.terminate()
            browser.process.wait()
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("names", nargs="*", help="pages, figures, folders or addresses; default: reports")
    given = parser.parse_args()
    sys.exit(main(given.out, given.names))
