"""Configuration of the documentation site: ``make docs``."""

import os
import re
from pathlib import Path

from pygments.lexers.shell import BashLexer
from sphinx.application import Sphinx

from deepmd_gnn import __version__

project = "deepmd_gnn"
author = copyright = "The deepmd_gnn developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
smartquotes = False  # what is between quotes is often typed
html_extra_path = ["llms.txt"]
html_title = f"deepmd_gnn {__version__}"

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections say the types with their shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
# A page that is listed in index.md but not written yet; one that is written but not listed does fail.
suppress_warnings = ["toc.not_readable"]
html_static_path = ["_static"]
html_css_files = ["narrow.css"]

ROOT = Path(__file__).parent.parent
# Pages whose text is elsewhere in the repository.
ORIGINS = {
    **{f"examples/{readme.parent.name}": f"examples/{readme.parent.name}/README.md" for readme in ROOT.glob("examples/*/README.md")},
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
}  # fmt: skip
PAGES = {origin: name for name, origin in ORIGINS.items()}


def read_page(_: Sphinx, name: str, source: list[str]) -> None:
    """Take the text from where it is, with links that lead to the same things from the site."""
    origin = ORIGINS.get(name, f"docs/{name}.md")

    def link(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(origin), path))
        if not path or not (ROOT / target).exists():
            return match[0]
        place = f"docs/{PAGES[target]}.md" if target in PAGES else target
        relative = os.path.relpath(place, os.path.dirname(f"docs/{name}.md"))
        return f"]({relative}{'#' + anchor if anchor else ''})"

    source[0] = re.sub(r"\]\(([^)\s]+)\)", link, (ROOT / origin).read_text())


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    # Comments and ${variables} of a LAMMPS input look like the shell's.
    app.add_lexer("lammps", BashLexer)
    app.connect("source-read", read_page)
