"""What is gained after training, and what it costs: test-time augmentation, local CRF, ensemble.

    python benchmarks/inference.py --data ../shared/data/dubai256        the models that benchmarks/study.py has left

Each way of predicting is scored with the last epoch's model of every seed on the study's tiles, on dense masks by one
confusion matrix, and appended to a CSV with the processor's seconds per tile. An
ensemble takes the seeds together, so there is one row of it. Rows that are in the CSV already are passed over.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2
import torch
from study import CLASSES, already_in, append, choose_tiles, command, in_csv, iou_columns, prepare, provenance
from tqdm import tqdm

import landcover_segmentation as lc


def plain(model, images):
    return lc.predict_probabilities(model, images)


def crf(model, images):
    return lc.refine_with_crf(plain(model, images), images)


@cache
def adapted(model: torch.nn.Module, tiles: tuple[tuple[Path, Path], ...]) -> torch.nn.Module:
    """A copy whose batch norms have the statistics of the tiles to be predicted (Li et al. 2016, https://arxiv.org/abs/1603.04779)."""
    model = copy.deepcopy(model)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for first in range(0, len(tiles), 8):
            model(torch.cat([lc.load_and_preprocess_image(image) for image, _ in tiles[first : first + 8]]))
    return model.eval()


ADAPTED = "plain, batch norm of these tiles"  # unlike the others it sees all tiles before it predicts one
WAYS = {
    "plain": plain,
    "2 views": lambda model, images: lc.predict_probabilities(model, images, views=2),
    "8 views": lambda model, images: lc.predict_probabilities(model, images, views=8),
    "3 scales": lambda model, images: lc.predict_probabilities(model, images, scales=(0.8, 1.0, 1.25)),
    "8 views, 3 scales": lambda model, images: lc.predict_probabilities(model, images, 8, (0.8, 1.0, 1.25)),
    "CRF": crf,
    ADAPTED: plain,
    "8 views, CRF": lambda model, images: lc.refine_with_crf(lc.predict_probabilities(model, images, views=8), images),
}


def measure(predict, tiles: list[tuple[Path, Path]]) -> tuple[dict, float]:
    """Scores of a function (images (1, 3, H, W)) -> class ids (1, H, W) over tiles, and the processor's seconds per tile."""
    confusion, seconds = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64), 0.0
    for image_path, mask_path in tqdm(tiles, "tiles", leave=False, disable=None):
        images = lc.load_and_preprocess_image(image_path)
        start = time.process_time()
        with torch.no_grad():
            class_ids = predict(images)
        seconds += time.process_time() - start
        confusion += lc.confusion_matrix(class_ids[0], torch.from_numpy(lc.read_mask(mask_path)), len(CLASSES))
    return lc.score(confusion), seconds / len(tiles)


def command_of(cell: dict) -> str:
    """The command that scores this way of predicting; an ensemble comes of itself beside a way of several seeds."""
    flags = {name: cell[name] for name in ("split", "variant", "points", "epochs", "size", "every")}
    way = "8 views" if "8 views" in cell["way"] else "plain" if "ensemble" in cell["way"] else cell["way"]
    return command("inference.py", data="DATA", **flags, ways=way, seeds=str(cell["seed"]).split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/inference.csv")
    parser.add_argument("--work", type=Path, default=ROOT / "benchmarks/results/study", help="as for study.py")
    parser.add_argument("--split", choices=("choose", "val", "scenes", "choose_scenes"), default="val")
    parser.add_argument("--variant", default="default")
    parser.add_argument("--points", default="20")
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=[way for way in WAYS if way != ADAPTED], help="beside the ensemble"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--every", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = args.work / "tiles" / str(args.size)
    prepare(args.data, folder, args.size)
    pairs = [lc.list_tiles(folder / split / "images", folder / split / "masks") for split in ("train", "val")]
    tiles = choose_tiles(args.split, args.every, *pairs)[1]

    def load(seed: int) -> torch.nn.Module:
        cell = (args.split, args.variant, args.points, seed, args.epochs, args.size, args.every)
        return lc.load_model(args.work / "models" / f"{'-'.join(map(str, cell))}.pth", "cpu")

    models = {seed: load(seed) for seed in args.seeds}
    what = {"split": args.split, "variant": args.variant, "points": args.points, "epochs": args.epochs,
            "size": args.size, "every": args.every}  # fmt: skip

    def of(way: str, seed: int) -> torch.nn.Module:
        return adapted(models[seed], tuple(tiles)) if way == ADAPTED else models[seed]

    todo = [(way, seed, lambda images, way=way, seed=seed: WAYS[way](of(way, seed), images).argmax(1))
            for seed in args.seeds for way in args.ways]  # fmt: skip
    together = " ".join(map(str, args.seeds))
    for views in (1, *([8] if "8 views" in args.ways else [])) if len(models) > 1 else ():
        name = f"ensemble of {len(models)}" + (f", {views} views" if views > 1 else "")
        todo.append(
            (name, together, lambda images, views=views: lc.ensemble_predict(models.values(), images, views=views))
        )
    for way, seed, predict in todo:
        cell = what | {"way": way, "seed": seed}
        if in_csv(args.csv, cell):
            print(f"{way}, seed {seed}: {already_in(args.csv)}")
            continue
        scores, seconds = measure(predict, tiles)
        append(args.csv, cell | {"miou": round(scores["miou"], 4), **iou_columns(scores), "seconds_per_tile": round(seconds, 5),
                                 "weights": models[args.seeds[0]].starting_weights, **provenance(command_of(cell))})  # fmt: skip
        print(f"{way}, seed {seed}: mIoU {scores['miou']:.3f}, {1000 * seconds:.1f} ms per tile", flush=True)


if __name__ == "__main__":
    main()
