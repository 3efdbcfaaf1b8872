"""The report in headless Chromium: light, dark, narrow, on paper; skips where there is none."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_folders import make_run, make_study

from medssl_monai.apps.report import BROWSERS, browser_command, print_pdf
from medssl_monai.visualize.report import report_page

DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
WIDTHS = (1280, 400)


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip("no Chromium on PATH (on Debian and Ubuntu: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    # long names without a space are what breaks narrow pages
    names = ["benign", "a_very_long_class_name_that_goes_on_and_on_without_any_space_in_it", "rare"]
    found = {}
    for name, source in {"run": make_run(folder / "a", names=names), "study": make_study(folder / "b")}.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(report_page(source), encoding="utf-8")
    return found


def start(browser: str, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*browser_command(browser, profile), "--enable-logging=stderr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def shoot(browser: str, page: Path, folder: Path, *arguments: str) -> tuple[np.ndarray, list[str]]:
    """The picture (H, W, 3) and what the page said on the console."""
    picture = folder / "shot.png"
    done = start(
        browser, folder / "profile", f"--screenshot={picture}", "--window-size=1280,2000", "--hide-scrollbars",
        *arguments, page.as_uri(),
    )  # fmt: skip
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("name", ["run", "study"])
@pytest.mark.parametrize("look", ["light", "dark"])
def test_light_and_dark(browser: str, pages: dict[str, Path], tmp_path: Path, name: str, look: str) -> None:
    picture, said = shoot(browser, pages[name], tmp_path, LIGHT if look == "light" else DARK)
    assert said == []
    ground = picture[3, 3].astype(int)
    brightness = picture.mean(axis=2)
    assert ground.max() < 40 if look == "dark" else ground.min() > 250
    # most of the page is ground, and enough of it is ink that stands out from it
    assert 0.3 < (np.abs(brightness - ground.mean()) < 12).mean() < 0.99
    ink = np.abs(brightness - ground.mean()) > 120
    assert 0.01 < ink.mean() < 0.4
    assert ink[1000:].any(axis=1).mean() > 0.3


def test_what_the_tests_here_look_for_is_found_where_it_is(browser: str, tmp_path: Path) -> None:
    """Controls: a page with an error on the console, a blank one, and one too wide."""
    page = tmp_path / "bad.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>console.error('broken')</script>")
    picture, said = shoot(browser, page, tmp_path, LIGHT)
    assert len(said) == 1
    assert "broken" in said[0]
    assert (picture == 255).all()
    wide = "<!DOCTYPE html><title>x</title><div style='width: 900px'>wide</div>"
    assert widths(browser, [wide], tmp_path) == [(1280, 1280), (400, 908)]


def widths(
    browser: str, pages: list[str], folder: Path, needed: str = "f.contentDocument.documentElement.scrollWidth"
) -> list[tuple[int, int]]:
    """Width given and width ``needed`` (of frame ``f``) of each page in frames of 1280 and 400 pixels."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border: 0" srcdoc="{escape(page)}"></iframe>'
        for page in pages
        for width in WIDTHS
    )
    script = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map(f => f.clientWidth + ':' + "
        f"{needed}).join(' '); }}"
    )
    wrapper = folder / "frames.html"
    wrapper.write_text(f"<!DOCTYPE html><title>none</title><script>{script}</script>{frames}", encoding="utf-8")
    done = start(browser, folder / "profile", "--dump-dom", "--hide-scrollbars", wrapper.as_uri())
    found = re.search(r"<title>([\d: ]+)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    return [(int(a), int(b)) for a, b in (pair.split(":") for pair in found.group(1).split())]


def test_nothing_overflows_to_the_side(browser: str, pages: dict[str, Path], tmp_path: Path) -> None:
    found = widths(browser, [page.read_text(encoding="utf-8") for page in pages.values()], tmp_path)
    assert found == [(width, width) for _ in pages for width in WIDTHS]


def test_captions_are_read_whole_on_a_narrow_screen(browser: str, pages: dict[str, Path], tmp_path: Path) -> None:
    """The right end of the caption that reaches farthest, with every table scrolled to its right end."""
    farthest = (
        "((d) => { d.querySelectorAll('details').forEach(e => { e.open = true; }); "
        "d.querySelectorAll('.scroll').forEach(e => { e.scrollLeft = 1e4; }); "
        "const r = [...d.querySelectorAll('caption')].map(e => e.getBoundingClientRect()); "
        "return r.every(e => e.left >= 0) ? Math.ceil(Math.max(...r.map(e => e.right))) : 9999; })(f.contentDocument)"
    )
    found = widths(browser, [page.read_text(encoding="utf-8") for page in pages.values()], tmp_path, farthest)
    assert len(found) == 4
    assert all(right <= width for width, right in found), found


def test_pdf(browser: str, pages: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "study.pdf"
    print_pdf(browser, pages["study"], target)
    data = target.read_bytes()
    n_pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 4 <= n_pages <= 40
    assert b"/MediaBox [0 0 59" in data  # A4: 595 points wide
    assert len(data) > 30_000
    assert [path.name for path in tmp_path.iterdir()] == ["study.pdf"]
