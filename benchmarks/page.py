"""Gives thousands of labels by keys in the page of tools/annotate.py, in a browser, with the live map on.

    python benchmarks/page.py --data DATA --work WORK [--clicks 2000]

The masks answer. Measured: from a key to its label in the CSV, to the tile's map that has learnt from it, and
to the maps of all tiles in the page, that is of the tile and those around it. A row for each hundred clicks,
with the memory of the program and of the browser and the processor's time of the program; in the last also
what the maps of all tiles of the folder take, and of the last KEPT of them, which memory holds. Linux,
`pip install playwright` and a Chromium. DATA is that of study.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import study

import landcover_segmentation as lc

SIZE, PER_TILE, EVERY, KEPT = 128, 20, 100, 120
SECONDS = """async (given) => {
  const until = async (reached) => {
    while (!reached()) await new Promise((go) => setTimeout(go, 2));
    return (performance.now() - hit) / 1000;
  };
  return [
    await until(() => counts.reduce((sum, count) => sum + count, 0) === given),
    await until(() => mapSays.startsWith(`Learnt from ${given} click`)),
    await until(() => mapAsked === mapWanted && !mapBusy && neighbours.every(({map}) => map)),
    1 + neighbours.length,
  ];
}"""  # since the last key; and the tiles in the page


@contextlib.contextmanager
def serving(images: Path, points: Path) -> Iterator[tuple[str, int]]:
    """The page's address, and the id of the program that serves it."""
    words = [sys.executable, study.ROOT / "tools/annotate.py", "--images", images, "--points", points]
    words += ["--num-points", PER_TILE, "--port", 0, "--no-browser", "--class-names", ",".join(study.CLASSES)]
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield re.search(r"http://127.0.0.1:\d+", process.stdout.readline())[0], process.pid
        finally:
            process.kill()


@contextlib.contextmanager
def opened(address: str):
    from playwright.sync_api import sync_playwright

    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as run, run.chromium.launch(executable_path=installed) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.locator("#where").filter(has_text="Suggestion 1 of").wait_for()
        page.evaluate("document.addEventListener('keydown', () => { window.hit = performance.now(); }, true)")
        yield page


def megabytes(root: int, without: int = 0) -> int:
    """What a process and those that it started hold in memory (PSS: what several share counts once)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    family = [root]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid and child != without]
    total = 0
    for pid in family:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1000)


def label(page, masks: dict[str, np.ndarray], clicks: int) -> Iterator[list[list[float]]]:
    """Answers by keys; yields what SECONDS found at each of a hundred clicks, again and again."""
    found = []
    for given in range(1, clicks + 1):
        while (at := next_pixel(page)) is None or masks[at[0]][at[2], at[1]] == lc.IGNORE_INDEX:
            page.keyboard.press("s" if at else "n")
        page.keyboard.press(str(masks[at[0]][at[2], at[1]] + 1))
        if given == 2:  # earlier there is none
            page.keyboard.press("m")
        if given > 2:
            found.append(page.evaluate(SECONDS, given))
        if given % EVERY == 0:
            yield found
            found = []


def next_pixel(page) -> tuple[str, int, int] | None:
    """The tile and the pixel that the page asks for; None if all of this tile are answered."""
    return page.evaluate("""async () => {
      do { await actions; await new Promise((go) => setTimeout(go, 2)); } while (!image || looking);
      return cursor && [tileName().replace(/[.]png$/, ""), cursor.x, cursor.y];
    }""")


def seconds_of_maps(address: str, names: list[str]) -> float:
    start = time.perf_counter()
    for name in names:
        with urllib.request.urlopen(f"{address}/live?image={name}.png") as answer:
            assert json.load(answer)["map"]
    return time.perf_counter() - start


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--data", type=Path, required=True)
    flag("--work", type=Path, required=True, help="resized tiles, and the labels")
    flag("--csv", type=Path, default=study.ROOT / "benchmarks/results/page.csv")
    flag("--clicks", type=int, default=2000)
    args = parser.parse_args()
    tiles, points = args.work / f"tiles/{SIZE}", args.work / "page.csv"
    study.prepare(args.data, tiles, SIZE)
    points.unlink(missing_ok=True)
    masks = {path.stem: lc.read_mask(path) for path in (tiles / "train/masks").iterdir()}
    source = study.provenance(study.command("page.py", data="DATA", work="WORK", clicks=args.clicks))
    with serving(tiles / "train/images", points) as (address, pid), opened(address) as page:
        for number, found in enumerate(label(page, masks, args.clicks), 1):
            written, own, whole, shown = np.transpose(found)
            row = {"clicks": number * EVERY, "tiles": len(masks), "tiles_in_page": round(shown.mean(), 1)}
            for name, seconds in (("written", written), ("tile", own), ("page", whole)):
                row |= {
                    f"{name}_median": round(np.median(seconds), 3),
                    f"{name}_max": round(seconds.max(), 3),
                }
            row |= {"megabytes_program": megabytes(pid), "megabytes_browser": megabytes(os.getpid(), pid)}
            row["processor_seconds"] = processor_seconds(pid)
            row |= {"every_tile": "", "kept_tiles": ""}
            if number * EVERY > args.clicks - EVERY:
                row["every_tile"] = round(seconds_of_maps(address, sorted(masks)), 1)
                page.keyboard.press("u")  # of the last click: all is learnt anew
                page.evaluate("actions")
                row["kept_tiles"] = round(seconds_of_maps(address, sorted(masks)[-KEPT:]), 1)
            print(row, flush=True)
            study.append(args.csv, row | source)


if __name__ == "__main__":
    main()
