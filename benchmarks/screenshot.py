"""The README's picture of the report page: python benchmarks/screenshot.py results/page/report.html

Needs Chromium. benchmarks/README.md names the commands that write the page.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

OUT = Path(__file__).parent / "results" / "report.png"
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def picture(page: Path, out: Path, width: int, height: int) -> Path:
    """The top of the page in a window of that size, as PNG."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"no browser on the path: install one of {', '.join(NAMES)}")
    with tempfile.TemporaryDirectory() as profile:
        size = f"--window-size={width},{height}"
        command = [found, *QUIET, f"--user-data-dir={profile}", size, f"--screenshot={out.resolve()}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=1950)
    options = parser.parse_args()
    print(picture(options.page, options.out, options.width, options.height))


if __name__ == "__main__":
    main()
