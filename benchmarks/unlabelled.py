"""Do images that nobody labelled help? Several ways to let them in, against as many steps without them.

    python benchmarks/unlabelled.py --data DATA --work WORK --split choose

DATA is that of study.py, whose splits these are. The labelled tiles are one in `--every` of the split's,
with 20 random points each (100 where scenes were never seen), and learn as `default_unet` of study.py does:
as many steps, the same batches of eight. The images are as many other tiles of the same scenes, half way
between the labelled ones; in `scenes` and `choose_scenes` tiles of the scenes that are scored, which is what
whoever maps them has at hand. Eight of them join each step:

  control   none do
  together  in the batch of the labelled tiles, as tiles without a point: the module's own objective
  apart     in a batch of their own: the student sees other colours than the teacher, half of another image
            in each, and its batch norm forgets what it saw there
  sure      as apart, but of the teacher's labels only classes above 0.9 (https://arxiv.org/abs/2001.07685)
  late      as apart, from the middle of the training on, when the teacher has learnt
  fixed     as apart, but the teacher is the control's finished model, in eight views
            (https://arxiv.org/abs/2106.05095)

`together` weighs the labelled tiles' own pixels half as much as the others do, which add the images' loss on
top. All ways see the same batches of labelled tiles; of CutMix's boxes each draws its own. `fixed` needs the
control of its seed in the same CSV. A row per way and seed is appended; rows that are there are passed over,
and processes may share.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import study
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landcover_segmentation as lc

WAYS = {
    "control": None,
    "together": {"together": True},
    "apart": {},
    "sure": {"threshold": 0.9},
    "late": {"start": 0.5},
    "fixed": {"fixed": True},
}
SIDE = 128


def endless_batches(dataset: lc.LandCoverDataset, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Images (B, 3, H, W) in batches, pass after pass, each shuffled and augmented anew."""
    for epoch in itertools.count():
        dataset.epoch = epoch
        batches = lc.shuffled_batches(len(dataset), batch_size, seed, epoch)
        for images, _ in lc.make_loader(dataset, batches, 0, study.CPU):
            yield images


def change_colors(images: Tensor, rng: random.Random) -> Tensor:
    """The colours of each image (B, 3, H, W), normalised, changed as by strong augmentation."""
    amplitude, hue, _ = lc.AUGMENTATION_STRENGTHS["strong"]
    mean, std = torch.tensor([lc.IMAGENET_MEAN, lc.IMAGENET_STD]).view(2, 1, 3, 1, 1)
    rgb, changed = images * std + mean, []
    for picture in rgb:
        factors = [rng.uniform(1 - amplitude, 1 + amplitude) for _ in range(3)]
        matrix = lc.color_matrix(picture.mean((1, 2)).numpy(), *factors, rng.uniform(-hue, hue))
        turn, shift = torch.from_numpy(np.float32(matrix)).split([3, 1], dim=1)
        changed.append(torch.einsum("ij,jhw->ihw", turn, picture) + shift[:, :, None])
    return ((torch.stack(changed).clamp(0, 1) - mean) / std).contiguous(memory_format=torch.channels_last)


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm goes by each batch, as in training, but keeps the running statistics that it has."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class UnlabelledImages(lc.UnlabelledPixels):
    """What unlabelled pixels teach, and whole images without a label beside them."""

    def __init__(
        self, run: lc.Run, images: Iterator[Tensor], *, together=False, threshold=0.0, start=0.0,
        guide: nn.Module | None = None,
    ):  # fmt: skip
        own = {name: getattr(run.unlabelled, name) for name in study.OFF}
        super().__init__(run.model, run.unlabelled.total_steps, **own)
        self.student, self.images, self.rng = run.model, images, random.Random(run.config.seed)
        self.together, self.threshold, self.start = together, threshold, start
        self.guide, self.guide_views = (guide, 8) if guide else (self.teacher, self.views)

    def prepare(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.together:
            more = lc.to_device(next(self.images), images.device)
            nothing = targets.new_full((len(more), *targets.shape[1:]), lc.IGNORE_INDEX)
            images, targets = torch.cat([images, more]), torch.cat([targets, nothing])
        return super().prepare(images, targets)

    def loss(self, logits: Tensor, images: Tensor, targets: Tensor, soft_labels: Tensor | None) -> Tensor:
        loss = super().loss(logits, images, targets, soft_labels)
        if self.together or self.step < self.start * self.total_steps:
            return loss
        return loss + self.pseudo_label_weight * self.ramp() * self.loss_on_images()

    def loss_on_images(self) -> Tensor:
        images = lc.to_device(next(self.images), study.CPU)
        with torch.no_grad():
            labels = lc.predict_probabilities(self.guide, images, self.guide_views).float()
        if self.threshold:
            confidence, classes = labels.max(1, keepdim=True)
            labels = torch.zeros_like(labels).scatter_(1, classes, 1.0) * (confidence > self.threshold)
        images, labels = lc.paste_boxes(1.0, change_colors(images, self.rng), labels)
        with kept_statistics(self.student):
            return F.cross_entropy(self.student(images).float(), labels)


def choose_images(split: str, every: int, train: list, val: list) -> tuple[list, list, list]:
    """The labelled tiles, the images without labels, as many, and the tiles that are scored."""
    both, scored = study.choose_tiles(split, 1, train, val)
    labelled = both[::every]
    others = scored[1::2] if "scenes" in split else both[every // 2 :: every]
    return labelled, others[: len(labelled)], scored


def model_path(args: argparse.Namespace, cell: dict) -> Path:
    return args.work / "models" / f"{'-'.join(map(str, cell.values()))}.pth"


def run_cell(args: argparse.Namespace, tiles: Path, cell: dict) -> dict:
    config = study.settings(args, tiles, cell | {"variant": "default_unet"})
    names = ("train", "val", "train")
    labelled, scored, others = (lc.make_dataset(config, name) for name in names)
    found = choose_images(args.split, args.every, labelled.tiles, scored.tiles)
    labelled.tiles, others.tiles, scored.tiles = found
    others.transform = lc.get_transforms("train", "weak", SIDE)
    run, way = study.start_run(config, {}, labelled, scored), WAYS[cell["way"]]
    if way is not None:
        guide = None
        if way.get("fixed"):
            guide = lc.load_model(model_path(args, cell | {"way": "control"}), "cpu")
        options = {name: value for name, value in way.items() if name != "fixed"}
        images = endless_batches(others, config.batch_size, config.seed)
        run.unlabelled = UnlabelledImages(run, images, guide=guide, **options)
    scores, train_miou, seconds = study.train_network(run, model_path(args, cell))
    length = {"split": args.split, "every": args.every, "epochs": args.epochs}
    which = {"ways": cell["way"], "seeds": cell["seed"]}
    how = study.command("unlabelled.py", data="DATA", work="WORK", **length, **which)
    return {
        "miou": round(scores.value, 4), **study.iou_columns(scores.as_dict(), args.class_names),
        "train_tiles": len(labelled), "images": 0 if way is None else len(others), "seconds": round(seconds),
        "train_miou": round(train_miou, 4), "weights": run.model.starting_weights,
        "precision": study.precision_of(args, "default_unet"), **study.provenance(how),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--data", type=Path, required=True)
    flag("--work", type=Path, required=True)
    flag("--csv", type=Path, default=study.ROOT / "benchmarks/results/unlabelled.csv")
    flag("--split", choices=("choose", "val", "scenes", "choose_scenes"), default="choose")
    flag("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    flag("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flag("--every", type=int, default=4)
    flag("--epochs", type=int, default=24)
    flag("--threads", type=int, default=1)
    args = parser.parse_args()
    args.size, args.device, args.precision, args.class_names = SIDE, "cpu", "auto", study.CLASSES
    if args.every < 2:
        parser.error("--every 1 leaves no tile without labels")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    tiles = args.work / "tiles" / str(SIDE)
    study.prepare(args.data, tiles, SIDE)
    points = 100 if "scenes" in args.split else 20
    for seed, way in itertools.product(args.seeds, args.ways):
        cell = {"split": args.split, "way": way, "points": points, "seed": seed}
        cell |= {"epochs": args.epochs, "size": SIDE, "every": args.every}
        if way == "fixed" and not study.in_csv(args.csv, cell | {"way": "control"}):
            print(f"{way}, seed {seed}: the control comes first; start it again when that is done")
            continue
        measure = partial(run_cell, args, tiles, cell)
        if row := study.measure_once(args.csv, args.work / "claims", cell, measure):
            print(f"{way}, seed {seed}: mIoU {row['miou']:.3f} in {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
