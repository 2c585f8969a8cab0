"""The script that looks for what is wider than the page: what it says without a browser, and what it finds with one."""

import runpy
import shutil
from pathlib import Path

import pytest

WIDTHS = runpy.run_path(str(Path(__file__).parents[2] / "docs/check_widths.py"))


def test_without_a_browser_it_says_what_to_install(tmp_path, capsys):
    assert WIDTHS["main"]([str(tmp_path), "--browser", "no-such-browser"]) == 2
    assert "apt-get install chromium" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, WIDTHS["BROWSERS"])), reason="needs Chromium or Chrome")
def test_what_is_too_wide_is_found(tmp_path, capsys):
    """A box of 600 px is too wide for a phone, not for a screen; inside a box that scrolls it is not."""
    box = '<div class="box" style="width:600px">box</div>'
    (tmp_path / "wide.html").write_text(f"<!doctype html><article>{box}</article>")
    (tmp_path / "inside.html").write_text(
        f'<!doctype html><article><div style="overflow-x:auto"><table><td>{box}</table></div></article>'
    )
    assert WIDTHS["main"]([str(tmp_path), "--tables", "--pictures", str(tmp_path / "pictures")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "inside.html at 400 px scrolls: table " + '"box"',
        'wide.html at 400 px: div.box "box"',
        f"wide.html at 400 px: page of {600 + 8} px",
        "1280 px: 2 pages, 0 too wide, 0 tables scroll",
        "400 px: 2 pages, 1 too wide, 1 tables scroll",
    ]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 4
