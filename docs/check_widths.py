"""Open every page of the built site in a browser at two widths: ``python docs/check_widths.py docs/_build``.

Reports what is wider than the page, which a reader on a phone would have to move sideways, and counts the tables that scroll
inside the page (``--tables`` names them); listings may. Needs Chromium or Chrome, and builds nothing.
"""

import argparse
import functools
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (1280, 400)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = "no browser found ({}). Install one, on Debian: apt-get install chromium\n"
# A window of a browser cannot be as narrow as a phone, a frame in it can; styles see the width of the frame.
FRAMES = """<!doctype html><body style="margin:0"><script>
const pages = %s, widths = %s;
const frame = document.createElement("iframe");
frame.style.cssText = "border:0;height:1000px";
document.body.append(frame);
function name(element) {
  const kind = element.className && element.className.baseVal === undefined ? "." + element.className.trim().replace(/\\s+/g, ".") : "";
  return element.tagName.toLowerCase() + kind + " " + JSON.stringify((element.textContent || "").trim().slice(0, 60));
}
function scrolls(element) { return ["auto", "scroll", "hidden"].includes(getComputedStyle(element).overflowX); }
function look(page, width) {
  const root = frame.contentDocument, wide = [], tables = [], seen = new Set();
  const edge = root.documentElement.clientWidth + 1;
  for (const element of root.querySelectorAll("article *")) {
    if (scrolls(element)) {
      if (element.scrollWidth > element.clientWidth + 1 && element.querySelector("table")) tables.push(name(element.querySelector("table")));
      continue;
    }
    if (element.getBoundingClientRect().right <= edge || !element.getClientRects().length) continue;
    let inside = element.parentElement;
    while (inside && inside.tagName !== "ARTICLE" && !scrolls(inside)) inside = inside.parentElement;
    if (inside && inside.tagName !== "ARTICLE") continue;
    if (!seen.has(element.parentElement)) wide.push(name(element));
    seen.add(element);
  }
  if (root.documentElement.scrollWidth > edge) wide.push("page of " + root.documentElement.scrollWidth + " px");
  return {page, width, wide, tables};
}
(async () => {
  const found = [];
  for (const width of widths) for (const page of pages) {
    frame.style.width = width + "px";
    await new Promise((done) => { frame.onload = done; frame.src = "/" + page; });
    found.push(look(page, width));
  }
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""


class Site(SimpleHTTPRequestHandler):
    """Serves the site and the page with the frame, and takes what that page found."""

    def __init__(self, *arguments: Any, frames: str, found: "queue.Queue[str]", **options: Any) -> None:
        self.frames, self.found = frames, found
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        """The page with the frame has an address that no page of the site has."""
        if self.path != "/frames":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.frames.encode())
        return None

    def do_POST(self) -> None:
        """The end of the look."""
        self.found.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing to say about each file."""


@contextmanager
def served(site: Path, frames: str, found: "queue.Queue[str]") -> Iterator[str]:
    """Address of the page with the frame, on this machine only."""
    handler = functools.partial(Site, directory=str(site), frames=frames, found=found)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/frames"
        server.shutdown()


@contextmanager
def browser(program: str, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """A browser without window and with a profile of its own, which ends at the latest here."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Chromium refuses to sandbox root, as whom containers run; the pages are ours.
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]
        process = subprocess.Popen(
            [program, *options, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def look(program: str, site: Path, pages: list[str], seconds: float) -> list[dict[str, Any]]:
    """What is too wide, one entry for each page and width.

    Parameters
    ----------
    program : str
        The browser.
    site : Path
        Folder of the built site.
    pages : list[str]
        Paths in it.
    seconds : float
        After which a browser that says nothing is ended.

    Returns
    -------
    list[dict]
        ``page``, ``width`` in px, ``wide`` (the outermost of the elements) and ``tables`` that scroll inside the page.
    """
    found: queue.Queue[str] = queue.Queue()
    frames = FRAMES % (json.dumps(pages), json.dumps(WIDTHS))
    with (
        served(site, frames, found) as address,
        browser(program, "--window-size=1280,1000", "--remote-debugging-port=0", address),
    ):
        return json.loads(found.get(timeout=seconds))


def picture(program: str, site: Path, page: str, width: int, height: int, file: Path) -> None:
    """Write what one page looks like to a PNG."""
    frames = f'<!doctype html><body style="margin:0"><iframe src="/{page}" style="border:0;width:{width}px;height:{height}px">'
    with served(site, frames, queue.Queue()) as address:
        # No window is narrower than 500 px: the rest stays white.
        size = f"--window-size={max(width, 500)},{height}"
        with browser(program, size, "--virtual-time-budget=5000", f"--screenshot={file}", address) as process:
            process.wait(timeout=60)


def main(arguments: list[str] | None = None) -> int:
    """Look, and say what was seen; 1 if something is too wide, 2 without a browser or a site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="folder that `make docs` wrote")
    parser.add_argument("--browser", help="program (default: the first of " + ", ".join(BROWSERS) + ")")
    parser.add_argument(
        "--pictures", type=Path, help="folder for a picture of the top of every page at each width"
    )
    parser.add_argument("--tables", action="store_true", help="name the tables that scroll")
    parser.add_argument("--pages", nargs="+", help="only these, such as parameters.html")
    options = parser.parse_args(arguments)
    program = shutil.which(options.browser) if options.browser else next(filter(None, map(shutil.which, BROWSERS)), None)  # fmt: skip
    if program is None:
        sys.stderr.write(MISSING.format(options.browser or ", ".join(BROWSERS)))
        return 2
    every = sorted(str(path.relative_to(options.site)) for path in options.site.rglob("*.html"))
    pages = options.pages or [page for page in every if not page.startswith(("_static/", "_modules/"))]
    if not pages:
        sys.stderr.write(f"{options.site}: has no pages. Build the site first: make docs\n")
        return 2
    found = look(program, options.site, pages, 10 + 5 * len(pages))
    for one in found:
        for element in one["wide"]:
            sys.stdout.write(f"{one['page']} at {one['width']} px: {element}\n")
        for table in one["tables"] if options.tables else ():
            sys.stdout.write(f"{one['page']} at {one['width']} px scrolls: {table}\n")
    for width in WIDTHS:
        scrolled = sum(len(one["tables"]) for one in found if one["width"] == width)
        faults = sum(bool(one["wide"]) for one in found if one["width"] == width)
        sys.stdout.write(f"{width} px: {len(pages)} pages, {faults} too wide, {scrolled} tables scroll\n")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for page in pages:
            for width in WIDTHS:
                name = page.removesuffix(".html").replace("/", "-")
                picture(program, options.site, page, width, 1400, options.pictures / f"{name}-{width}.png")
    return int(any(one["wide"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
