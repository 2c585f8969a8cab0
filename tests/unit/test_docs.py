"""Generated pages are up to date, and links between pages lead somewhere."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_parameters_page_is_current():
    page = runpy.run_path(str(ROOT / "docs/make_parameters.py"))["page"]
    assert (ROOT / "docs/parameters.md").read_text() == page(), "run python docs/make_parameters.py"


def test_documented_messages_exist():
    """What the troubleshooting page says in the name of this package is what its code says."""
    source = "".join(path.read_text() for path in ROOT.glob("deepmd_gnn/**/*.py"))
    # Neighbouring literals are one text; what stands in braces or behind % depends on the input.
    source = re.sub(r"[\"']\s*\n\s*f?[\"']", "", source)
    page = (ROOT / "docs/troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    ours = [
        message
        for message in messages
        if message.startswith(("mace model:", "deepmd-gnn", "was ", "is ", "holds "))
    ]
    assert len(ours) > 15
    for message in ours:
        parts = [part.strip(" '") for part in message.split("…")]
        for part in filter(None, parts):
            assert part in source, f"{message}: the code does not say {part!r}"


def test_every_message_about_input_is_documented():
    source = "".join(path.read_text() for path in ROOT.glob("deepmd_gnn/*.py"))
    page = (ROOT / "docs/troubleshooting.md").read_text()
    beginnings = set(re.findall(r"mace model: ([a-z][a-z ]{8,})", source))
    internal = {"communication tensors need exactly one frame", "ghost atoms need a mapping to their owners or communication tensors",
                "embeddings need eval mode", "no case embedding", "no generated kernels ", "generated kernels exist inside a "}  # fmt: skip
    for words in beginnings - internal:
        assert words.strip() in page or words.strip()[:20] in page, words


def test_links_lead_somewhere():
    for source in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", source.read_text()):
            if "://" not in target:
                assert (source.parent / target).exists(), f"{source.relative_to(ROOT)} links to {target}"
