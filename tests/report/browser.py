"""A page as a real browser shows it: Chromium without a window."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from simple_diffusion.core import images

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SECONDS = 90
# Runs in the page: what went wrong, what was asked for, and what is where.
_PROBE = """
const wrong = [];
const note = (what, why) => wrong.push(what + ": " + why);
addEventListener("error", (e) => note("error", e.message || e.target.src), true);
addEventListener("securitypolicyviolation", (e) => note("asked", e.blockedURI));
console.error = console.warn = (...said) => note("said", said.join(" "));
const box = (e) => { const r = e.getBoundingClientRect();
  return [r.left + scrollX, r.top + scrollY, r.width, r.height].map(Math.round); };
const every = (what) => [...document.querySelectorAll(what)];
addEventListener("load", () => setTimeout(() => {
  const slider = document.querySelector("input[type=range]"), frames = [];
  const shown = () => every(".frames figure").map((e) => e.offsetHeight > 0);
  if (slider) for (const k of [slider.max, 0]) {
    slider.value = k; slider.dispatchEvent(new Event("input")); frames.push(shown()); }
  const found = { wrong, frames, height: document.documentElement.scrollHeight,
    width: document.documentElement.scrollWidth,
    asked: performance.getEntriesByType("resource").map((e) => e.name)
      .filter((name) => !name.startsWith("data:")),
    images: every("img").map((e) => [e.alt, box(e), e.naturalWidth]),
    plots: every(".plot svg").map((e) => [e.getAttribute("aria-label"), box(e)]),
    links: every("nav a").map((e) => e.getAttribute("href"))
      .map((place) => !!document.querySelector(place)) };
  const out = document.createElement("pre");
  out.id = "probe"; out.hidden = true; out.textContent = JSON.stringify(found);
  document.body.append(out);
}, 50));
"""


def find() -> str | None:
    """Returns a Chromium; $CHROMIUM names one that is elsewhere."""
    names = (os.environ.get("CHROMIUM", ""), *NAMES)
    return next((path for name in names if name and (path := shutil.which(name))), None)


def look(page: Path, folder: Path, width: int = 1200) -> tuple[dict, np.ndarray]:
    """Returns what the page says of itself, and all of it as pixels.

    Args:
      page: an HTML file.
      folder: for the browser's files.
      width: of the window.
    """
    probed = folder / "probed.html"
    # First of all scripts, so that it hears of everything.
    text = page.read_text().replace("<head>", f"<head><script>{_PROBE}</script>", 1)
    probed.write_text(text)
    dumped = _run(probed, folder, "--dump-dom", f"--window-size={width},900")
    found = re.search(r'<pre id="probe"[^>]*>(.*?)</pre>', dumped, re.S)
    assert found, f"the page did not load: {dumped[:300]}"
    about = json.loads(html.unescape(found.group(1)))
    return about, picture(probed, folder, width, about["height"])


def picture(page: Path, folder: Path, width: int, height: int) -> np.ndarray:
    """Returns a page as pixels."""
    path = folder / "page.png"
    _run(page, folder, f"--screenshot={path}", f"--window-size={width},{height}")
    return images.read_png(path)


def _run(page: Path, folder: Path, *flags: str) -> str:
    program = find()
    assert program
    command = [program, "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--hide-scrollbars", "--no-first-run", "--disable-extensions"]
    command += ["--disable-background-networking", "--disable-dev-shm-usage"]
    command += ["--virtual-time-budget=5000", "--force-color-profile=srgb"]
    # Nothing outside can be found, should anything be looked for.
    command += ["--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
