"""The report in a real browser, without a network: every picture is drawn, nothing complains, on screen and paper."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from phantom import write_ct_series
from PIL import Image
from scripts.app.command_line import main

BROWSER = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="needs Chromium (make test-browser)")]
#: Looks at the page from inside; put into a copy, since the report itself has no script.
PROBE = """<script>addEventListener("load", () => {
  const images = [...document.images], wide = document.documentElement.scrollWidth > innerWidth;
  const missing = images.filter(one => !one.complete || !one.naturalWidth || !one.getBoundingClientRect().height);
  const plots = [...document.querySelectorAll("svg")].filter(one => one.getBoundingClientRect().height < 100);
  document.title = `images ${images.length} missing ${missing.length} flat plots ${plots.length} wide ${wide}`;
})</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of the shipped weights."""
    folder = tmp_path_factory.mktemp("report")
    source = write_ct_series(folder / "in", shape=(160, 160), spacing=(2.0, 2.0), slices=6, noise_sd=25.0)
    assert main(["denoise", str(source), str(folder / "out"), "--quiet", "--report"]) == 0
    return folder / "out.html"


def browse(page, *options, width=1200):
    """Run the browser on a page, with nothing to be reached but the page; return its process."""
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    alone = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}"]
    return subprocess.run(
        [BROWSER, *quiet, *alone, f"--window-size={width},5000", *options, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


@pytest.mark.parametrize("width", [1200, 500])
def test_every_picture_is_drawn_and_fits_the_window(page, width):
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("</body>", f"{PROBE}</body>"))
    done = browse(probed, "--dump-dom", width=width)
    title = re.search(r"<title>(.*?)</title>", done.stdout).group(1)
    assert title == f"images {page.read_text().count('<img')} missing 0 flat plots 0 wide false"


def test_the_console_is_silent_and_the_screen_is_not_blank(page):
    picture = page.with_name("screen.png")
    done = browse(page, f"--screenshot={picture}")
    assert "CONSOLE" not in done.stderr
    screen = np.asarray(Image.open(picture).convert("L"))
    assert screen.shape == (5000, 1200)
    for top in range(0, 3500, 500):
        assert screen[top : top + 500].std() > 5, f"blank from {top} to {top + 500}"


def test_a_complaint_would_be_noticed(page):
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text().replace("</body>", "<script>console.error('wrong')</script></body>"))
    assert "CONSOLE" in browse(broken, f"--screenshot={page.with_name('broken.png')}").stderr


def test_it_prints_on_a_few_pages(page):
    paper = page.with_name("paper.pdf")
    browse(page, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    count = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 3 <= count <= 7
