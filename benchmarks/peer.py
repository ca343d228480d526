"""Beside a peer: geoai's `train_segmentation_model` on the same tiles, points and epochs as ours.

    python -m venv PEER && PEER/bin/pip install geoai-py==0.40.1
    python benchmarks/peer.py --data DATA --work WORK --peer PEER/bin/python

DATA is that of study.py. Both learn from the 290 tiles of `val`, 128 px, twenty random points each, twelve
epochs of batches of eight, and are scored on the dense masks of the 435 val tiles after the last epoch: none
is chosen. The peer trains a U-Net with `timm-tf_efficientnet_lite0` from random weights by its own defaults
(Adam at 1e-3, flips, quarter turns, brightness, contrast) and `ignore_index=255`; it keeps one tile aside,
for it must. Ours are variants of study.py: the same network, our own U-Net and the default objective, all
from random weights, and the default from ImageNet's. A row per seed is appended to a CSV; rows that are
there are passed over, and processes may share.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from functools import partial
from itertools import product
from pathlib import Path

import study
import torch
from PIL import Image

import landcover_segmentation as lc

EPOCHS, POINTS, SIZE, EVERY = 12, 20, 128, 3
OURS = (
    "plain_smp_unet_random_weights",
    "plain_unet_random_weights",
    "default_unet_random_weights",
    "default_unet",
)
TRAIN_PEER = """
import sys
from geoai.train import train_segmentation_model
images, labels, output, classes, epochs, seed = sys.argv[1:]
train_segmentation_model(
    images, labels, output, encoder_name="timm-tf_efficientnet_lite0", encoder_weights=None,
    num_classes=int(classes), num_epochs=int(epochs), seed=int(seed), val_split=1, ignore_index=255,
    num_workers=0, verbose=False,
)
"""


def write_points(config: argparse.Namespace, tiles: list, folder: Path) -> None:
    """Writes the tiles and masks of the very points that ours learn from, 255 elsewhere."""
    train_set = lc.make_dataset(config, "train")
    train_set.tiles = tiles
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index, (path, _) in enumerate(tiles):
        image, points, _ = train_set.read(index)
        Image.fromarray(image).save(folder / "images" / f"{path.stem}.png")
        Image.fromarray(points).save(folder / "labels" / f"{path.stem}.png")


def score(network: torch.nn.Module, config: argparse.Namespace, tiles: list) -> lc.Scores:
    """The scores on tiles of a network that takes RGB in 0..1, as the peer's does."""
    val_set = lc.make_dataset(config, "val", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    val_set.tiles = tiles
    loader = lc.make_loader(val_set, [[index] for index in range(len(tiles))], 0, study.CPU)
    return lc.validate(network, loader, config.num_classes, study.CPU, progress="scoring")


def run_peer(args: argparse.Namespace, tiles: Path, cell: dict) -> dict:
    """Trains the peer in its own environment and scores what it wrote after the last epoch."""
    import segmentation_models_pytorch as smp

    config = study.settings(args, tiles, cell | {"variant": "plain"})
    pairs = (lc.list_tiles(tiles / f"{split}/images", tiles / f"{split}/masks") for split in ("train", "val"))
    train, val = study.choose_tiles("val", EVERY, *pairs)
    folder = args.work / f"peer{cell['seed']}"
    write_points(config, train, folder)
    given = folder / "images", folder / "labels", folder / "model", config.num_classes, EPOCHS, cell["seed"]
    quiet = os.environ | {"OMP_NUM_THREADS": str(args.threads), "CUDA_VISIBLE_DEVICES": ""}
    before = os.times()
    subprocess.run([args.peer, "-c", TRAIN_PEER, *map(str, given)], check=True, env=quiet)
    after = os.times()
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    network = smp.Unet("timm-tf_efficientnet_lite0", encoder_weights=None, classes=config.num_classes)
    network.load_state_dict(torch.load(folder / "model/final_model.pth", weights_only=True))
    plain = score(network, config, val).as_dict()
    scores = {"miou": round(plain["miou"], 4), **study.iou_columns(plain)}
    return scores | {"seconds": round(seconds), "weights": "random initialisation"}


def run_ours(args: argparse.Namespace, tiles: Path, cell: dict) -> dict:
    cell = cell | {"epochs": EPOCHS, "size": SIZE, "every": EVERY, "split": "val"}
    row = study.run_cell(args, tiles, cell, args.work / "models" / f"{cell['variant']}-{cell['seed']}.pth")
    classes = (f"iou_{name}" for name in study.CLASSES)
    return {name: row[name] for name in ("miou", *classes, "seconds", "weights")}


def measure(args: argparse.Namespace, tiles: Path, cell: dict) -> dict:
    """Scores and provenance of a cell."""
    flags = {"variants": cell["variant"], "seeds": cell["seed"]}
    how = study.command("peer.py", data="DATA", work="WORK", peer="PYTHON", **flags)
    run = run_peer if cell["variant"] == "geoai" else run_ours
    return run(args, tiles, cell) | study.provenance(how)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--data", type=Path, required=True)
    flag("--work", type=Path, required=True)
    flag("--peer", required=True, help="the Python of an environment with geoai-py")
    flag("--csv", type=Path, default=study.ROOT / "benchmarks/results/peer.csv")
    flag("--variants", nargs="+", choices=("geoai", *OURS), default=["geoai", *OURS])
    flag("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flag("--threads", type=int, default=1)
    args = parser.parse_args()
    args.size, args.epochs, args.every, args.split = SIZE, EPOCHS, EVERY, "val"
    args.device, args.precision, args.class_names = "cpu", "float32", study.CLASSES
    torch.set_num_threads(args.threads)
    tiles = args.work / "tiles"
    study.prepare(args.data, tiles, SIZE)
    for seed, variant in product(args.seeds, args.variants):
        cell, start = {"variant": variant, "points": POINTS, "seed": seed}, time.perf_counter()
        if row := study.measure_once(
            args.csv, args.work / "claims", cell, partial(measure, args, tiles, cell)
        ):
            lasted = time.perf_counter() - start
            print(f"{variant}, seed {seed}: mIoU {row['miou']:.3f}, {lasted:.0f} s", flush=True)


if __name__ == "__main__":
    main()
