"""Open every page of the built site in a browser, 1280 and 400 px wide, and name what is wider than the page.

``make docs && python docs/check_widths.py`` needs Chromium (Debian: ``apt install chromium``), or any browser of its family that the
variable ``BROWSER`` names. What scrolls by itself, as long lines of code do, is not counted. ``--pictures FOLDER`` also writes a picture
of some pages in both widths, to look at.
"""

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SITE = Path(__file__).parent / "_build"
WIDTHS = (1280, 400)
PICTURED = ("index", "parameters", "performance", "data", "lammps")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A page in a frame has the frame's width, whatever the smallest window of the browser is.
LOOK = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="found"></pre><script>
const pages = PAGES, widths = WIDTHS, found = [];
function scrolls(element) {
  for (let e = element; e; e = e.parentElement)
    if (e.scrollWidth > e.clientWidth && /auto|scroll|hidden/.test(getComputedStyle(e).overflowX)) return true;
  return false;
}
function look(page, width) {
  return new Promise(done => {
    const frame = document.createElement("iframe");
    frame.style.cssText = `border:0;height:900px;width:${width}px`;
    frame.onload = () => {
      const page_ = frame.contentDocument;
      if (page_.documentElement.scrollWidth > width)
        for (const e of page_.querySelectorAll("main *, article *")) {
          const box = e.getBoundingClientRect();
          if (box.right > width + 1 && box.width && !scrolls(e))
            found.push([page, width, e.tagName.toLowerCase(), Math.round(box.right), e.textContent.trim().slice(0, 50)]);
        }
      frame.remove();
      done();
    };
    frame.onerror = () => { found.push([page, width, "", 0, "not loaded"]); done(); };
    frame.src = page;
    document.body.append(frame);
  });
}
(async () => {
  for (const width of widths) for (const page of pages) await look(page, width);
  document.getElementById("found").textContent = JSON.stringify({found, looked: pages.length * widths.length});
})();
</script></body>
"""


def browser() -> str:
    """Path of a browser; ends the program without one."""
    for name in (os.environ.get("BROWSER", ""), *BROWSERS):
        path = shutil.which(name) if name else None
        if path:
            return path
    sys.exit("no browser found: apt install chromium, or name one in the environment variable BROWSER")


def run(program: str, *arguments: str) -> str:
    """Output of the browser without a window."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--hide-scrollbars",
    ]
    done = subprocess.run(
        [program, *options, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    return done.stdout


def main() -> None:
    """Print what is too wide; exit status 1 if anything is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=Path, help="also write pictures here")
    arguments = parser.parse_args()
    if not (SITE / "index.html").exists():
        sys.exit(f"{SITE} has no site: make docs")
    program = browser()
    pages = sorted(page.as_uri() for page in SITE.rglob("*.html") if "_static" not in page.parts)
    with tempfile.TemporaryDirectory() as folder:
        look = Path(folder, "look.html")
        look.write_text(LOOK.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS)))
        budget = f"--virtual-time-budget={2000 * len(pages)}"
        answer = re.search(
            r'<pre id="found">(.*?)</pre>', run(program, budget, "--dump-dom", look.as_uri()), re.DOTALL
        )
        if not answer or not answer[1]:
            sys.exit(f"{program} gave no answer")
        result = json.loads(html.unescape(answer[1]))
        for page, width, tag, right, text in result["found"]:
            print(f"{page.removeprefix(SITE.as_uri() + '/')}, {width} px: <{tag}> reaches to {right}: {text}")
        print(f"{result['looked']} pages looked at, {len(result['found'])} elements too wide")
        for name in PICTURED if arguments.pictures else ():
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            for width in WIDTHS:
                frame = Path(folder, f"{name}.html")
                page = (SITE / f"{name}.html").as_uri()
                frame.write_text(
                    f'<body style="margin:0"><iframe src="{page}" style="border:0;width:{width}px;height:1600px">'
                )
                target = arguments.pictures.resolve() / f"{name}_{width}.png"
                run(
                    program, f"--window-size={max(width, 500)},1600", f"--screenshot={target}", frame.as_uri()
                )
    if result["found"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
