"""Maps of some val tiles beside the truth, good ones and failures alike, into results/figures/pictures.png.

    python benchmarks/pictures.py --models WORK/models       the models that benchmarks/study.py has left

The tiles are chosen by rule: of those with two classes or more the ones at the PERCENTILES of the pixel
accuracy that `default` reaches tile by tile. Which they are, and what each method reaches on them, goes
to benchmarks/results/pictures.csv, from which the report's table is made.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import report
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from study import CLASSES, command, provenance
from tqdm import tqdm

import landcover_segmentation as lc

PERCENTILES = (90, 50, 10, 0)
MODELS = {"plain": "plain-100-0", "default": "default-100-0", "dense": "dense-all-0"}  # variant, points, seed
COLORS = [
    "#e9dfc4",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#222222",
]  # of CLASSES; told apart by the colour-blind too


def accuracy(class_ids: np.ndarray, truth: np.ndarray) -> float:
    return float((class_ids == truth)[truth != lc.IGNORE_INDEX].mean())


def choose(model: torch.nn.Module, tiles: list[tuple[Path, Path]]) -> list[tuple[int, Path, Path]]:
    """(percentile, image, mask) of the tiles at the PERCENTILES of this model's accuracy."""
    masks = {path: lc.read_mask(path) for _, path in tiles}
    several = [tile for tile in tiles if len(set(np.unique(masks[tile[1]])) - {lc.IGNORE_INDEX}) > 1]
    scores = []
    for image, mask in tqdm(several, "tiles", leave=False, disable=None):
        scores.append(accuracy(lc.predict_class_ids(model, lc.read_image(image)), masks[mask]))
    order, last = np.argsort(scores, kind="stable"), len(several) - 1
    return [(percentile, *several[order[round(percentile / 100 * last)]]) for percentile in PERCENTILES]


def draw_line(
    line: list, models: dict, tile: tuple[int, Path, Path], palette: np.ndarray, with_image: bool
) -> dict:
    """Draws image, points, truth and maps of a tile into a line of axes; returns its row of the CSV."""
    percentile, image_path, mask_path = tile
    image, truth = lc.read_image(image_path), lc.read_mask(mask_path)
    points = lc.sample_random_points(truth, 100, lc.named_rng(0, image_path.stem))
    maps = {name: lc.predict_class_ids(model, image) for name, model in models.items()}
    if with_image:
        line[0].imshow(image)
    behind = image // 2 + 127 if with_image else np.full_like(image, 245)
    lc.draw_labels(line[-5], behind, points, palette)
    for axes, class_ids in zip(line[-4:], (truth, *maps.values()), strict=True):
        axes.imshow(lc.colorize(class_ids, palette))
    scores = {name: round(accuracy(class_ids, truth), 4) for name, class_ids in maps.items()}
    for axes, score in zip(line[-3:], scores.values(), strict=True):
        axes.set_xlabel(f"{score:.0%} right", fontsize=9)
    place = f"{report.ordinal(str(percentile))} percentile" if percentile else "lowest"
    line[0].set_ylabel(place, fontsize=9)
    return {"percentile": percentile, "tile": image_path.stem, **scores}


def draw(figure: Figure, models: dict, chosen: list[tuple[int, Path, Path]], with_images: bool) -> list[dict]:
    """Draws a line for each tile; returns the rows of the CSV."""
    palette = lc.class_palette(COLORS, len(CLASSES))
    headings = [*(["image"] if with_images else []), "100 random points", "truth", *models]
    figure.set_size_inches(1.75 * len(headings), 1.95 * len(chosen) + 0.6)
    lines = figure.subplots(len(chosen), len(headings))
    both = zip(lines, chosen, strict=True)
    found = [draw_line(line, models, tile, palette, with_images) for line, tile in both]
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
    for axes, heading in zip(figure.axes, headings, strict=False):
        axes.set_title(heading, fontsize=10)
    handles = [Patch(color=color, label=name) for color, name in zip(COLORS, CLASSES, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--models", type=Path, required=True, help="study.py's WORK/models, beside its WORK/tiles")
    flag("--with-images", action="store_true", help="show the tiles too: look at their licence first")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.models.parent / "tiles/128/val"
    paths = {name: args.models / f"val-{cell}-24-128-3.pth" for name, cell in MODELS.items()}
    models = {name: lc.load_model(path, "cpu") for name, path in paths.items()}
    chosen = choose(models["default"], lc.list_tiles(folder / "images", folder / "masks"))
    figure = Figure(layout="constrained")
    source = provenance(command("pictures.py", models="WORK/models"))
    source = {"weights": models["default"].starting_weights} | source
    found = [row | source for row in draw(figure, models, chosen, args.with_images)]
    with (report.ROOT / "benchmarks/results/pictures.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=found[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    report.save_figure(figure, "pictures", report.rows("pictures.csv"))


if __name__ == "__main__":
    main()
