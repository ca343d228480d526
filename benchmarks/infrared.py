"""Does near infrared help where it should? The same tiles and points with --bands 1,2,3 and 1,2,3,4.

    python benchmarks/infrared.py --work WORK

WORK gets the tiles, of `tools/generate_dataset.py --scenes 8 --infrared`: 128 px, two of their ten classes,
conifer and artificial turf, told by the fourth band alone; results/figures/scenes.jpg shows eight. The
module is started as a user starts it, with `efficientnet_lite0` from ImageNet, 20 points per tile and no
soft labels. A row per seed and bands is appended to a CSV: scores of the last epoch on dense masks, so no
epoch is chosen. Rows that are there are passed over.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import generate_dataset
import numpy as np
from PIL import Image
from study import already_in, append, command, in_csv, provenance, read_csv

import landcover_segmentation as lc

CLASSES = [*generate_dataset.CLASS_NAMES, *generate_dataset.RARE_NAMES, *generate_dataset.INFRARED_NAMES]
COLORS = ["#286ec8", "#145a1e", "#e6be46", "#8cc85a", "#c83c3c",
          "#787878", "#f0f0ff", "#96643c", "#00323c", "#ff00ff"]  # fmt: skip
TRAIN, VAL, SIZE, BATCH, EPOCHS, POINTS = 80, 48, 128, 4, 12, 20


def generate(tiles: Path) -> None:
    """Writes the tiles, unless they are there."""
    if not (tiles / "val").exists():
        counts = {"train": TRAIN, "val": VAL}
        generate_dataset.write_dataset(tiles, counts, seed=0, size=SIZE, scenes=8, infrared=True)


def draw_tiles(tiles: Path) -> None:
    """Draws a tile of each scene: as it looks, in false colours (infrared as red), and its classes."""
    shown, palette = [], lc.class_palette(COLORS, len(CLASSES))
    for image, mask in lc.list_tiles(tiles / "train/images", tiles / "train/masks")[:: TRAIN // 8]:
        bands = lc.read_image(image, bands=[1, 2, 3, 4])
        classes = lc.colorize(lc.read_mask(mask), palette)
        shown.append(np.vstack([bands[..., :3], bands[..., [3, 0, 1]], classes]))
    with lc.atomic_write(ROOT / "benchmarks/results/figures/scenes.jpg") as path:
        Image.fromarray(np.hstack(shown)).save(path, format="JPEG", quality=85)


def train(tiles: Path, bands: str, seed: int) -> dict:
    """Trains once; returns the last epoch's scores as columns."""
    settings = {"num_classes": len(CLASSES), "class_names": ",".join(CLASSES), "class_colors": "none"}
    settings |= {f"{part}_{kind}_dir": tiles / part / f"{kind}s"
                 for part in ("train", "val") for kind in ("image", "mask")}  # fmt: skip
    settings |= {"bands": bands, "seed": seed, "num_points": POINTS, "epochs": EPOCHS, "crop_size": SIZE}
    settings |= {
        "architecture": "deeplabv3",
        "backbone": "efficientnet_lite0",
        "weights": "imagenet",
        "device": "cpu",
    }
    settings |= {"batch_size": BATCH, "pseudo_label_weight": 0}  # half of the time, for no other question
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        program = [sys.executable, ROOT / "landcover_segmentation.py", *flags, "--output-dir", folder]
        start = time.perf_counter()
        subprocess.run(program, env=one_thread, check=True)
        seconds = time.perf_counter() - start
        *_, last = read_csv(Path(folder, "training_history.csv"))
    scores = {f"iou_{name}": round(float(last[f"iou_{name}"]), 4) for name in CLASSES}
    return {"miou": round(float(last["val_miou"]), 4), **scores, "seconds": round(seconds),
            "weights": last["starting_weights"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/infrared.csv")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    generate(args.work)
    draw_tiles(args.work)
    for seed, bands in product(args.seeds, ("1,2,3", "1,2,3,4")):
        cell = {"bands": bands, "seed": seed}
        if in_csv(args.csv, cell):
            print(f"bands {bands}, seed {seed}: {already_in(args.csv)}")
            continue
        row = cell | {"train_tiles": TRAIN, "val_tiles": VAL, "points": POINTS, "epochs": EPOCHS}
        row |= train(args.work, bands, seed)
        append(args.csv, row | provenance(command("infrared.py", work="WORK", seeds=seed)))
        print(f"bands {bands}, seed {seed}: mIoU {row['miou']:.3f} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
