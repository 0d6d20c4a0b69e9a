"""Pictures of every report page, at 1280 and 390 px, and of every figure, to be looked at: python benchmarks/screenshots.py OUT.

Needs Chromium from the system's packages as `chromium`; nothing is fetched.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPORTS = Path(__file__).resolve().parents[1] / "reports"
WIDTHS, HIGH = (1280, 390), 12000  # px; a page that is longer is cut


def picture(page: Path, to: Path, width: int, height: int) -> None:
    """A picture of a page or of an SVG, as headless Chromium draws it."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--window-size={width},{height}", f"--screenshot={to}"]
    subprocess.run(["chromium", *options, page.as_uri()], check=True, capture_output=True, timeout=120)


def main(out: Path) -> None:
    """All pictures into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for page in sorted(REPORTS.glob("*/index.html")):
        for width in WIDTHS:
            picture(page, out / f"{page.parent.name}-{width}.png", width, HIGH)
    for figure in sorted(REPORTS.glob("*/figures/*.svg")):
        picture(figure, out / f"{figure.parents[1].name}-{figure.stem}.png", 760, 1400)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
