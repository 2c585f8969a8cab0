"""Configuration of the documentation site: ``make docs``."""

from deepmd_gnn import __version__

project = "deepmd_gnn"
author = copyright = "The deepmd_gnn developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"deepmd_gnn {__version__}"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc sections say the types with their shapes
napoleon_google_docstring = False
napoleon_use_rtype = False
suppress_warnings = [
    # Pages link to source files in the repository, which are no pages of the site.
    "myst.xref_missing",
    # A page that is listed below but not written yet; one that is written but not listed does fail.
    "toc.not_readable",
    # Included READMEs begin with their own heading levels.
    "myst.header",
]
