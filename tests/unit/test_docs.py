"""Generated pages are up to date, and links between pages lead somewhere."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_parameters_page_is_current():
    page = runpy.run_path(str(ROOT / "docs/make_parameters.py"))["page"]
    assert (ROOT / "docs/parameters.md").read_text() == page(), "run python docs/make_parameters.py"


def test_links_lead_somewhere():
    for source in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", source.read_text()):
            if "://" not in target:
                assert (source.parent / target).exists(), f"{source.relative_to(ROOT)} links to {target}"
