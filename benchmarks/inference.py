"""What is gained after training, and what it costs: test-time augmentation, local CRF, ensemble.

    python benchmarks/inference.py --data DATA     the models that benchmarks/study.py has left

Each way of predicting is scored with the last epoch's model of every seed on the study's tiles, on dense
masks by one confusion matrix, and appended to a CSV with the processor's seconds per tile. An ensemble
takes the seeds together, so there is one row of it. Rows that are in the CSV already are passed over.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import cv2
import torch
from map_scenes import Ensemble, predict_window
from study import CLASSES, already_in, append, choose_tiles, command, in_csv, iou_columns, prepare, provenance
from torch import Tensor, nn
from tqdm import tqdm

import landcover_segmentation as lc


@cache
def adapted(model: nn.Module, tiles: tuple[tuple[Path, Path], ...]) -> nn.Module:
    """A copy whose batch norms have the statistics of the tiles to be predicted.

    Li et al. 2016, https://arxiv.org/abs/1603.04779.
    """
    model = copy.deepcopy(model)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for first in range(0, len(tiles), 8):
            batch = [lc.load_and_preprocess_image(image) for image, _ in tiles[first : first + 8]]
            model(torch.cat(batch))
    return model.eval()


ADAPTED = "plain, batch norm of these tiles"  # unlike the others it sees all tiles before it predicts one
WAYS = {  # what `predict_window` is told
    "plain": {},
    "2 views": {"views": 2},
    "8 views": {"views": 8},
    "3 scales": {"scales": (0.8, 1.0, 1.25)},
    "8 views, 3 scales": {"views": 8, "scales": (0.8, 1.0, 1.25)},
    "CRF": {"crf": True},
    ADAPTED: {},
    "8 views, CRF": {"views": 8, "crf": True},
}


def measure(predict: Callable[[Tensor], Tensor], tiles: list[tuple[Path, Path]]) -> tuple[dict, float]:
    """Scores of a function (images (1, 3, H, W)) -> probabilities; the processor's seconds per tile."""
    confusion, seconds = torch.zeros(len(CLASSES), len(CLASSES), dtype=torch.int64), 0.0
    for image_path, mask_path in tqdm(tiles, "tiles", leave=False, disable=None):
        images = lc.load_and_preprocess_image(image_path)
        mask = torch.from_numpy(lc.read_mask(mask_path))
        start = time.process_time()
        with torch.no_grad():
            class_ids = predict(images).argmax(1)
        seconds += time.process_time() - start
        confusion += lc.confusion_matrix(class_ids[0], mask, len(CLASSES))
    return lc.Scores(confusion).as_dict(), seconds / len(tiles)


def command_of(cell: dict) -> str:
    """The command that scores this way of predicting; an ensemble comes of itself beside several seeds."""
    flags = {name: cell[name] for name in ("split", "variant", "points", "epochs", "size", "every")}
    way = "8 views" if "8 views" in cell["way"] else "plain" if "ensemble" in cell["way"] else cell["way"]
    return command("inference.py", data="DATA", **flags, ways=way, seeds=str(cell["seed"]).split())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag, results = parser.add_argument, ROOT / "benchmarks/results"
    flag("--data", type=Path, required=True)
    flag("--csv", type=Path, default=results / "inference.csv")
    flag("--work", type=Path, default=results / "study", help="as for study.py")
    flag("--split", choices=("choose", "val", "scenes", "choose_scenes"), default="val")
    flag("--variant", default="default")
    flag("--points", default="20")
    ways = [way for way in WAYS if way != ADAPTED]
    flag("--ways", nargs="*", choices=WAYS, default=ways, help="beside the ensemble")
    flag("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flag("--epochs", type=int, default=12)
    flag("--size", type=int, default=128)
    flag("--every", type=int, default=2)
    return parser.parse_args()


def predictors(
    models: dict[int, nn.Module], ways: list[str], tiles: list[tuple[Path, Path]]
) -> Iterator[tuple[str, int | str, Callable[[Tensor], Tensor]]]:
    """Each way of predicting with its seed; last the ensemble of all seeds, if there are several."""
    for seed, model in models.items():
        for way in ways:
            predict = partial(predict_window, model, **WAYS[way])
            if way == ADAPTED:  # when the first tile is predicted, so that its time counts

                def predict(images: Tensor, model: nn.Module = model) -> Tensor:
                    return predict_window(adapted(model, tuple(tiles)), images)

            yield way, seed, predict
    for views in (1, 8) if "8 views" in ways else (1,):
        if len(models) > 1:
            name = f"ensemble of {len(models)}" + (f", {views} views" if views > 1 else "")
            ensemble = Ensemble(models.values())
            yield name, " ".join(map(str, models)), partial(predict_window, ensemble, views=views)


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    folder = args.work / "tiles" / str(args.size)
    prepare(args.data, folder, args.size)
    pairs = [lc.list_tiles(folder / split / "images", folder / split / "masks") for split in ("train", "val")]
    tiles = choose_tiles(args.split, args.every, *pairs)[1]
    names = ("split", "variant", "points", "epochs", "size", "every")
    what = {name: getattr(args, name) for name in names}

    def load(seed: int) -> nn.Module:
        cell = (args.split, args.variant, args.points, seed, args.epochs, args.size, args.every)
        return lc.load_model(args.work / "models" / f"{'-'.join(map(str, cell))}.pth", "cpu")

    models = {seed: load(seed) for seed in args.seeds}
    weights = models[args.seeds[0]].starting_weights
    for way, seed, predict in predictors(models, args.ways, tiles):
        cell = what | {"way": way, "seed": seed}
        if in_csv(args.csv, cell):
            print(f"{way}, seed {seed}: {already_in(args.csv)}")
            continue
        scores, seconds = measure(predict, tiles)
        figures = {
            "miou": round(scores["miou"], 4),
            **iou_columns(scores),
            "seconds_per_tile": round(seconds, 5),
        }
        append(args.csv, cell | figures | {"weights": weights} | provenance(command_of(cell)))
        print(f"{way}, seed {seed}: mIoU {scores['miou']:.3f}, {1000 * seconds:.1f} ms per tile", flush=True)


if __name__ == "__main__":
    main()
