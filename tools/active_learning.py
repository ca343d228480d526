"""Which pixels to label next: those where a trained model is unsure, for each class that it sees.

    python tools/active_learning.py suggest --checkpoint best_model.pth --images FOLDER     the next points
    python tools/active_learning.py simulate --epochs 12 --output-dir study     does it pay? masks answer

`suggest` writes a CSV of image,x,y,class,uncertainty, the most uncertain first; class is left to the
person. Each point keeps its distance from the others and from those of --labelled (a folder of sparse
masks NAME.png, 255 = unlabelled, or a file of points). Filled in, the CSV is what TRAIN_MASK_DIR and
--labelled take: x and y are whole pixels from the top left, which is 0,0.

`simulate` draws mIoU over labelled points for five ways to choose them: at random; where the model is
least sure; what `worth_labelling` suggests, told the model's IoU on the val tiles as `suggest` is; the
errors that a person finds in the map, played by the masks; and these with one wrong class in twenty. All
begin with the same random points. It takes every flag of landcover_segmentation.py; EPOCHS are those of a
round. NUM_POINTS, POINT_SAMPLING, SEED and RESUME it sets itself: the same command goes on
where it was stopped, at the first run (one seed, one choice of points) that was not ended.

Suggested are places, not the rims of what the model is sure of, away from the tile's edge, and more of them
for a class that scored low. The uncertainty is the entropy of the model's probabilities (uncertainty
sampling: Settles 2009, Computer Sciences Technical Report 1648, University of Wisconsin-Madison; for pixels:
Shin et al. 2021, https://arxiv.org/abs/2104.06394).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import geo
import numpy as np
import torch
from labels import POINT_SUFFIXES, check_no_label_lost, read_points
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

import landcover_segmentation as lc

STRATEGIES = {  # what is compared, and its colour in the curve
    "errors": "#1f6f3d",
    "errors_slips": "#8bc48a",
    "suggestions": "#2457a6",
    "uncertainty": "#c0392b",
    "random": "#4d4d4d",
}
SLIPS = 0.05  # share of the clicks to which the player of errors_slips gives a wrong class
BLUR = 9  # pixels of a side over which uncertainty is averaged: unsure places, not the rims of sure ones
WHOLE = 2**21  # pixels of an image that is predicted as a whole: beyond, 20 windows of it cost less
WINDOW = 384  # side of a window
RIM = 20  # of the tile's shorter side a share of 1 / RIM at its edge is not asked: a person sees least there
REACH = 128  # how far from its centre is asked: at its edge a network sees too little

# =====================================================================================================
# Model -> points
# =====================================================================================================


def predict(model: nn.Module, image: np.ndarray) -> Tensor:
    """Probabilities (1, C, H, W) on the CPU of an image (H, W, bands) uint8, as it is: not augmented."""
    how = getattr(model, "normalisation", {})
    images = lc.to_device(lc.preprocess_image(image, **how), next(model.parameters()).device)
    return lc.predict_probabilities(model, images).float().cpu()


def read_tile(path: Path, reading: dict, mean=lc.IMAGENET_MEAN) -> np.ndarray:
    """An image as training sees it, (H, W, bands + 1) uint8; without data alpha is 0, the colour the mean."""
    pixels = lc.read_tile(path, **reading)
    pixels[pixels[..., -1] == 0, :-1] = lc.as_color(mean)
    return pixels


def least_sure(
    model: nn.Module, image: np.ndarray, known: np.ndarray, num_points: int, class_scores=None, given=None
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that `worth_labelling` names, the least sure first: positions (N, 2), uncertainties (N,).

    Positions are (row, column). image: (H, W, bands + 1) uint8; where alpha is 0 nothing is asked. known:
    (H, W) bool, the pixels to keep away from. class_scores, given: see `worth_labelling`. Of a large image
    only windows are predicted, around pixels that are spread over it, and each gives one: all of it would
    take minutes.
    """
    if known.size <= WHOLE:
        probabilities = predict(model, image[..., :-1])
        has_data = image[..., -1] > 0
        positions = worth_labelling(probabilities, has_data, known, num_points, class_scores, given)
        uncertainties = lc.entropy_map(probabilities)[0].numpy()[tuple(positions.T)]
        order = np.argsort(-uncertainties, kind="stable")
        return positions[order], uncertainties[order]
    known, found, given = known.copy(), [], Counter()
    for centre in spread_out(image[..., -1] > 0, known, num_points, np.random.default_rng(0)):
        corner = np.clip(centre - WINDOW // 2, 0, np.maximum(0, np.array(known.shape) - WINDOW))
        window = tuple(slice(at, at + WINDOW) for at in corner)
        view, far = image[window].copy(), np.ones(known[window].shape, bool)
        far[tuple(slice(max(0, at - REACH), at + REACH) for at in centre - corner)] = False
        view[far, -1] = 0
        for position, uncertainty in zip(
            *least_sure(model, view, known[window], 1, class_scores, given), strict=True
        ):
            found.append((uncertainty, *(corner + position)))
            known[found[-1][1:]] = True
    found = np.array(sorted(found, reverse=True)).reshape(-1, 3)
    return found[:, 1:].astype(int), found[:, 0]


def scores_of_classes(checkpoint: Path) -> list[float | None] | None:
    """How a model did on each class when it was kept: IoU, or recall of points; None if that is not in it."""
    scores = lc.load_checkpoint(checkpoint).get("scores", {})
    return next((values for name, values in scores.items() if name.endswith("_per_class")), None)


def spread_out(
    has_data: np.ndarray, known: np.ndarray, num_points: int, rng: np.random.Generator
) -> np.ndarray:
    """Pixels with data, away from each other and from the known ones, in no order: positions (N, 2).

    has_data, known: (H, W) bool. As if there were a random opinion of each pixel, or of every n-th of a
    large image.
    """
    step = 1 + max(known.shape) // 1024
    wanted = rng.random(has_data[::step, ::step].shape) * has_data[::step, ::step]
    coarse = np.zeros(wanted.shape, bool)
    coarse[tuple(np.argwhere(known).T // step)] = True
    (positions,) = lc.select_informative_points(
        opinion(wanted), 0.0, num_points, torch.from_numpy(coarse)[None]
    )
    return positions * step


def worth_labelling(
    probabilities: Tensor,
    has_data: np.ndarray,
    known: np.ndarray,
    num_points: int,
    class_scores: Sequence[float | None] | None = None,
    given: Counter | None = None,
) -> np.ndarray:
    """The pixels of a tile worth a click, some for each class the model predicts: positions (N, 2).

    probabilities: (1, C, H, W). has_data, known: (H, W) bool; where there is no data nothing is asked.
    class_scores: C scores in 0..1 of the model, None for one that has none. A class is asked for by the
    root of its area (power allocation: Bankier 1988, The American Statistician 42) times what its score
    lacks, where the model is unsure not of a pixel but of a place, away from the known and the tile's edge.
    given: how many each class id got in other windows of the image; those found here are counted on.
    """
    seen = probabilities[0].argmax(0).numpy()
    places = cv2.blur(lc.entropy_map(probabilities)[0].numpy(), (BLUR, BLUR)) * has_data
    rim = min(known.shape) // RIM
    inside = np.zeros(known.shape, bool)
    inside[rim : known.shape[0] - rim, rim : known.shape[1] - rim] = True
    shortfall = 1 - np.array([score or 0.0 for score in class_scores or [None] * probabilities.shape[1]])
    need = (shortfall + 0.05) * np.bincount(seen[has_data], minlength=len(shortfall)) ** 0.5
    known, positions, given = known.copy(), [], Counter() if given is None else given
    while len(positions) < num_points and need.any():
        claims = [each / (1 + given[class_id]) for class_id, each in enumerate(need)]
        class_id = int(np.argmax(claims))  # D'Hondt's rule
        wanted = opinion(places * (seen == class_id) * inside)
        taken = torch.from_numpy(known)[None]
        (found,) = lc.select_informative_points(wanted, 0.0, num_points - len(positions), taken)
        if len(found):
            positions.append(found[0])
            given[class_id] += 1
            known[tuple(found[0])] = True
        else:
            need[class_id] = 0
    lacking = num_points - len(positions)  # where no class has room
    (rest,) = lc.select_informative_points(opinion(places), 0.0, lacking, torch.from_numpy(known)[None])
    return np.concatenate([np.array(positions, np.int64).reshape(-1, 2), rest])


def opinion(wanted: np.ndarray) -> Tensor:
    """Probabilities (1, 2, H, W) whose entropy ranks as wanted (H, W) in 0..1 does; 0 where that is 0."""
    share = torch.from_numpy(wanted) / 4  # nearer to 1/2 many entropies round to the same
    return torch.stack([share, (1 - share) * (share > 0)])[None]


def confident_errors(probabilities: Tensor, mask: np.ndarray, num_points: int) -> np.ndarray:
    """Where a person clicks who sees the map and what is wrong in it: at most num_points positions (N, 2).

    probabilities: (1, C, H, W); mask: (H, W), the truth, 255 = never clicked. The largest region of each
    class that the map has wrong comes first, then the second of each; clicked is the pixel of which the model
    is most sure.
    """
    confidence, seen = (found[0].numpy() for found in probabilities.max(1))
    wrong, regions = (mask != lc.IGNORE_INDEX) & (seen != mask), []
    for class_id in np.unique(mask[wrong]):
        _, patches, facts, _ = cv2.connectedComponentsWithStats(np.uint8(wrong & (mask == class_id)))
        sizes = facts[:, cv2.CC_STAT_AREA]
        largest = 1 + np.argsort(-sizes[1:], kind="stable")[:num_points]
        regions += [(place, -sizes[patch], patches == patch) for place, patch in enumerate(largest)]
    regions.sort(key=lambda region: region[:2])
    return np.array(
        [np.unravel_index((confidence * region).argmax(), mask.shape) for *_, region in regions[:num_points]],
        np.int64,
    ).reshape(-1, 2)


def choose(
    strategy: str, probabilities: Tensor, points: np.ndarray, mask: np.ndarray, num_points: int, class_scores
) -> np.ndarray:
    """The pixels (N, 2) that a strategy asks for, at most num_points; else see `label_more`."""
    known, answerable = points != lc.IGNORE_INDEX, mask != lc.IGNORE_INDEX  # elsewhere a person passes
    if strategy == "suggestions":
        return worth_labelling(probabilities, answerable, known, num_points, class_scores)
    if strategy == "uncertainty":
        probabilities, known = probabilities * torch.from_numpy(answerable), torch.from_numpy(known)[None]
        return lc.select_informative_points(probabilities, 0.0, num_points, known)[0]
    return confident_errors(probabilities, np.where(known, lc.IGNORE_INDEX, mask), num_points)


def label_more(
    strategy: str,
    probabilities: Tensor | None,
    points: np.ndarray,
    mask: np.ndarray,
    num_points: int,
    rng: np.random.Generator,
    class_scores: Sequence[float | None] | None = None,
) -> np.ndarray:
    """The annotator's turn, played by the dense mask: the sparse mask (H, W) with num_points labels more.

    probabilities: (1, C, H, W) of the model of the round before; None in the first round, in which all is
    drawn at random and nobody slips. points, mask: (H, W) class ids, 255 = unlabelled. What a strategy lacks
    is drawn at random. If the mask has fewer labels, all of them are used.
    """
    new = np.zeros(mask.shape, bool)
    if probabilities is not None and strategy != "random":
        new[tuple(choose(strategy, probabilities, points, mask, num_points, class_scores).T)] = True
    rest = np.where(new | (points != lc.IGNORE_INDEX), lc.IGNORE_INDEX, mask)
    new |= lc.sample_random_points(rest, num_points - int(new.sum()), rng) != lc.IGNORE_INDEX
    points = points.copy()
    points[new] = mask[new]
    if probabilities is not None and strategy == "errors_slips":
        points[new] = [slip(class_id, probabilities.shape[1], rng) for class_id in mask[new]]
    return points


def slip(right: int, num_classes: int, rng: np.random.Generator) -> int:
    """The class id that a hand gives: the right one but for a share of SLIPS, then any other."""
    return (right + rng.integers(1, num_classes)) % num_classes if rng.random() < SLIPS else right


# =====================================================================================================
# simulate: strategies over the same tiles, starting points, starting weights and steps
# =====================================================================================================


def simulate(config: argparse.Namespace) -> None:
    """Runs what is left of the study and draws it.

    config: the module's settings, and rounds, points_per_round, seeds and strategies.
    """
    config.num_points, config.point_sampling, config.resume = config.points_per_round, "random", False
    for seed in config.seeds:
        config.seed = seed
        lc.check_settings(config)
    config = lc.settle_settings(config)
    tiles = lc.make_dataset(config, "train").tiles
    ranges = lc.band_ranges([image for image, _ in tiles], config.bands)
    dense, val_set = (lc.make_dataset(config, split, ranges) for split in ("train", "val"))
    lc.check_fit(config, lc.check_dataset(dense, config.num_classes, "train tiles"))
    val = val_set, lc.check_dataset(val_set, config.num_classes, "val tiles")
    if val[1].sparse:
        problem = "holds points; mIoU, the yardstick here, takes dense masks"
        raise lc.InputError(f"VAL_MASK_DIR = {config.val_mask_dir!r}: {problem}")
    lc.prepare_output(config.output_dir)
    output = Path(config.output_dir)
    csv_path = output / "active_learning.csv"
    folders = {
        (seed, arm): output / f"points/seed_{seed}/{arm}"
        for seed in config.seeds
        for arm in config.strategies
    }
    rows = earlier_rows(csv_path, config)
    ended = [(int(row["seed"]), row["arm"]) for row in rows if row["round"] == str(config.rounds)]
    left = [cell for cell in folders if not (cell in ended and folders[cell].is_dir())]
    rows = [row for row in rows if (int(row["seed"]), row["arm"]) not in left]
    print(f"{len(dense)} train and {len(val_set)} val tiles: {len(left)} of {len(folders)} runs to do")
    rounds = len(left) * (config.rounds - 1) + len({seed for seed, _ in left})
    steps = config.epochs * len(lc.shuffled_batches(len(dense), config.batch_size, 0, 0))
    first: dict[int, tuple[nn.Module, dict]] = {}
    try:
        with tqdm(total=rounds * steps, unit="step", smoothing=0, disable=None) as bar:
            for seed, arm in left:
                change = {"seed": seed, "train_mask_dir": str(folders[seed, arm])}
                own = argparse.Namespace(**vars(config) | change)
                for model, row in run_arm(arm, own, dense, val, first.get(seed), bar):
                    first.setdefault(seed, (model, row))
                    rows.append({"seed": seed, "arm": arm} | row)
                    lc.write_history(csv_path, rows)
                    points = f"{row['points_per_tile']:>3} points per tile"
                    tqdm.write(f"seed {seed}  {arm:11}  {points}  mIoU {row['miou']:.4f}")
    finally:
        if rows:
            title = f"{config.architecture} {config.backbone}, {config.epochs} epochs per round"
            save_curve(csv_path.with_suffix(".png"), rows, title)
    picture = output / "active_learning_points.png"
    draw_points(picture, dense, [folders[config.seeds[0], arm] for arm in config.strategies], config)
    print(f"wrote {csv_path.name}, {csv_path.stem}.png, {picture.name} and points/ to {output}")


def earlier_rows(path: Path, config: argparse.Namespace) -> list[dict]:
    """The rows of an earlier start; writes the settings beside them.

    Raises InputError if they were others: a curve is of one kind.
    """
    free = ("seed", "seeds", "strategies", "device", "num_workers", "output_dir")
    settings = {name: value for name, value in vars(config).items() if name not in free}
    record = path.with_suffix(".json")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    before = json.loads(record.read_text(encoding="utf-8")) if rows and record.exists() else settings
    for name, value in settings.items():
        if before.get(name) != value:
            change = f"{name.upper()} = {before.get(name)!r}, not {value!r}"
            raise lc.InputError(f"{path}: was begun with {change}; put it back, or name another --output-dir")
    with lc.atomic_write(record) as partial_path:
        partial_path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return rows


def run_arm(
    arm: str, config, dense: lc.LandCoverDataset, val: tuple, first: tuple | None, bar: tqdm
) -> Iterator[tuple[nn.Module, dict]]:
    """Labels and trains, round after round; yields the model and the row of each.

    arm: one of STRATEGIES. val: see `train_round`. first: model and row of a first round that is done. As
    all arms begin with the same points, it is the same for all.
    """
    model, row, machine = None, {}, lc.environment(lc.pick_device(config.device))
    for number in range(1, config.rounds + 1):
        bar.set_description(f"seed {config.seed}, {arm}, round {number}/{config.rounds}")
        start = time.perf_counter()
        labels = label_tiles(
            config, dense, number, arm, model, [row.get(f"iou_{name}") for name in config.class_names]
        )
        if number == 1 and first:
            model, row = first
        else:
            model, scores = train_round(config, val, number, model, bar)
            per_class = zip(config.class_names, scores.per_class, strict=True)
            row = {
                "round": number,
                "points_per_tile": number * config.points_per_round,
                "labelled_pixels": labels,
                "miou": scores.value,
                **{f"iou_{name}": iou for name, iou in per_class},
                "seconds": round(time.perf_counter() - start, 1),
                "starting_weights": model.starting_weights,
                "hardware": f"{machine['device']} ({machine['cpu']})",
            }
        yield model, row


def label_tiles(config, dense: lc.LandCoverDataset, number: int, arm: str, model, class_scores) -> int:
    """Writes the sparse masks of a round, grown from those of the round before as the arm has it.

    Without a model, in the first round, all grow at random. Returns how many pixels they label.
    """
    folder, labels = Path(config.train_mask_dir), 0
    folder.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(len(dense)), "labelling", unit="tile", leave=False, disable=None):
        name, count = dense.tiles[index][0].stem, config.points_per_round
        path, (image, _, mask) = folder / f"{name}.png", dense.read(index)
        points = lc.read_mask(path) if number > 1 else np.full_like(mask, lc.IGNORE_INDEX)
        probabilities = predict(model, image) if model and arm != "random" else None
        rng = lc.named_rng(config.seed, number, name)
        points = label_more(arm, probabilities, points, mask, count, rng, class_scores)
        labels += int((points != lc.IGNORE_INDEX).sum())
        with lc.atomic_write(path) as partial_path:
            Image.fromarray(points).save(partial_path, format="PNG")
    return labels


def train_round(
    config, val: tuple, number: int, model: nn.Module | None, bar: tqdm
) -> tuple[nn.Module, lc.Scores]:
    """Trains on the points so far, from the model of the round before but with a fresh schedule.

    val: the data set of the val tiles and its report.
    The sparse masks on disk are all that it reads of the train labels. Returns the model that is kept, a
    mean teacher, and its scores on the dense masks of the val tiles.
    """
    val_set, val_report = val
    change = {"num_points": None, "weights": None if model else config.weights}
    config = argparse.Namespace(**vars(config) | change)
    train_set = lc.make_dataset(config, "train", val_set.reading["ranges"])
    train_report = lc.check_dataset(train_set, config.num_classes, "points")
    run = lc.Run(config, train_set, val_set, train_report, val_report)
    teacher = run.unlabelled.teacher
    for network in (run.model, teacher) if model else ():
        network.load_state_dict(model.state_dict())
        network.starting_weights = model.starting_weights
    done = (number - 1) * config.epochs  # no round augments like another
    for epoch in range(done + 1, done + config.epochs + 1):
        lc.run_epoch(run, epoch, bar)
    how = {"dtype": run.dtype, "progress": "validating"}
    return teacher, lc.validate(teacher, run.val_loader, config.num_classes, run.device, **how)


def save_curve(path: Path, rows: list[dict], title: str) -> None:
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    draw_curve(figure.subplots(), rows, title)
    with lc.atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=120)


def draw_curve(axes, rows: list[dict], title: str) -> None:
    """Draws mIoU over points for each arm: runs as dots, mean as a line, standard deviation as a band."""
    for arm, color in STRATEGIES.items():
        own = [row for row in rows if row["arm"] == arm]
        if not own:
            continue
        points = sorted({int(row["points_per_tile"]) for row in own})
        runs = [[float(row["miou"]) for row in own if int(row["points_per_tile"]) == x] for x in points]
        mean = np.array([np.mean(scores) for scores in runs])
        spread = np.array([np.std(scores, ddof=1) if len(scores) > 1 else 0 for scores in runs])
        for x, scores in zip(points, runs, strict=True):
            axes.scatter([x] * len(scores), scores, s=12, color=color, alpha=0.35)
        axes.fill_between(points, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
        label = f"{arm}, {len({row['seed'] for row in own})} seeds"
        axes.plot(points, mean, color=color, marker="o", label=label)
    axes.set_title(f"{title}, starting weights: {rows[0]['starting_weights']}", fontsize=9, wrap=True)
    axes.set(xlabel="labelled points per tile", ylabel="mIoU on the validation tiles")
    axes.set_xticks(sorted({int(row["points_per_tile"]) for row in rows}))
    axes.grid(alpha=0.3)
    axes.legend()


def draw_points(
    path: Path, dense: lc.LandCoverDataset, folders: list[Path], config: argparse.Namespace
) -> None:
    """Draws three tiles with the points of the last round, a column per folder of sparse masks."""
    from matplotlib.figure import Figure

    palette = lc.class_palette(config.class_colors, config.num_classes)
    chosen = np.unique(np.linspace(0, len(dense) - 1, 3).round()).astype(int)
    figure = Figure(figsize=(7, 3.6 * len(chosen)), layout="constrained")
    for row, index in zip(figure.subplots(len(chosen), len(folders), squeeze=False), chosen, strict=True):
        image = dense.tiles[index][0]
        for axes, folder in zip(row, folders, strict=True):
            picture = lc.read_image(image, **dense.reading)
            lc.draw_labels(axes, picture // 2 + 127, lc.read_mask(folder / f"{image.stem}.png"), palette)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{folder.name}: {image.stem}", fontsize=9, parse_math=False)
    with lc.atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=110)


# =====================================================================================================
# suggest: the next points for a person
# =====================================================================================================


def suggest(args: argparse.Namespace) -> None:
    model, class_scores = lc.load_model(args.checkpoint), scores_of_classes(args.checkpoint)
    images, points, masks = lc.list_images(args.images), None, {}
    if args.labelled and lc.is_points_file(args.labelled, POINT_SUFFIXES):
        points, _ = read_points(args.labelled, images, model.class_names)
    elif args.labelled:
        found = lc.files_by_stem(args.labelled, (".png",)) if args.labelled.is_dir() else {}
        masks = {lc.folded(stem): path for stem, path in found.items()}
        if masks.keys().isdisjoint(map(lc.folded, images)):
            cure = "correct --labelled or leave it out"
            raise lc.InputError(f"{args.labelled}: holds no mask (NAME.png) of these images; {cure}")
    check_not_lost(args)
    for folder in filter(None, (args.output.parent, args.pictures)):
        lc.prepare_output(folder)
    rows = []
    for stem, path in tqdm(images.items(), "suggesting", unit="image", disable=None):
        image = read_tile(path, model.reading, model.normalisation["mean"])
        if points is None:
            known = read_known(masks.get(lc.folded(stem)), image.shape[:2])
        else:
            known = lc.points_to_mask(points.get(stem, {}), *image.shape[:2]) != lc.IGNORE_INDEX
        positions, uncertainties = least_sure(model, image, known, args.num_points, class_scores)
        rows += [
            (path.name, x, y, "", f"{uncertainty:.4f}")
            for (y, x), uncertainty in zip(positions.tolist(), uncertainties, strict=True)
        ]
        if args.pictures:
            shown = image[..., [0, 1, 2] if image.shape[-1] > 3 else [0, 0, 0]]
            draw_suggestions(args.pictures / f"{stem}.png", shown, positions)
    with (
        lc.atomic_write(args.output) as partial_path,
        partial_path.open("w", newline="", encoding="utf-8") as file,
    ):
        csv.writer(file).writerows([("image", "x", "y", "class", "uncertainty"), *rows])
    found = f"{geo.counted(len(rows), 'point')} in {geo.counted(len(images), 'image')}"
    print(f"wrote {args.output}: {found}; fill in the column class")
    how = geo.command("python", "tools/annotate.py", "--images", args.images, "--points", args.output)
    print(f"in the browser: {how}")


def check_not_lost(args: argparse.Namespace) -> None:
    """Raises InputError if the results would replace labels that somebody gave, or the images."""
    check_no_label_lost(args.output)
    if args.pictures and args.pictures.resolve() == args.images.resolve():
        raise lc.InputError(f"--pictures {args.pictures}: are the images; name another folder")


def read_known(path: Path | None, shape: tuple[int, ...]) -> np.ndarray:
    """Where a sparse mask is labelled, (H, W) bool: nowhere if there is none."""
    if not path:
        return np.zeros(shape, bool)
    known = lc.read_mask(path) != lc.IGNORE_INDEX
    if known.shape != shape:
        raise lc.InputError(f"{path}: differs in size from its image; make them the same size")
    return known


def draw_suggestions(path: Path, image: np.ndarray, positions: np.ndarray) -> None:
    """Draws the suggested points over the image, numbered in their order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8 * image.shape[0] / image.shape[1]), layout="constrained")
    axes = figure.subplots()
    axes.imshow(image)
    axes.set_axis_off()
    for number, (y, x) in enumerate(positions, 1):
        axes.plot(x, y, "o", color="yellow", markeredgecolor="black", markersize=5)
        look = {"fontsize": 9, "backgroundcolor": "#ffffffa0"}
        axes.annotate(str(number), (x, y), (4, 4), textcoords="offset points", **look)
    with lc.atomic_write(path) as partial_path:
        figure.savefig(partial_path, dpi=110)


# =====================================================================================================
# Command line
# =====================================================================================================


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def parse(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The command with its own flags, and what is left: the module's flags."""
    parser = lc.FlagParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one, two = (commands.add_parser(name, description=__doc__) for name in ("simulate", "suggest"))
    # fmt: off
    one.add_argument("--rounds", type=positive, default=4,
                     help="how often to label and train (default: %(default)s)")
    one.add_argument("--points-per-round", type=positive, default=5,
                     help="new points per tile (default: %(default)s)")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                     help="a run of each arm per seed (default: 0 1 2)")
    one.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), metavar="NAME",
                     help=f"of {', '.join(STRATEGIES)} (default: all)")
    two.add_argument("--checkpoint", required=True, help="best_model.pth of a training run")
    two.add_argument("--images", type=Path, required=True, help="folder of RGB images")
    two.add_argument("--num-points", type=positive, default=20,
                     help="points per image (default: %(default)s)")
    two.add_argument("--labelled", type=Path,
                     help="labelled already: sparse masks NAME.png in a folder, or .csv, .geojson, .gpkg")
    two.add_argument("--output", type=Path, default="points_to_label.csv",
                     help="the CSV (default: %(default)s)")
    two.add_argument("--pictures", type=Path, help="folder for a picture per image with the points numbered")
    # fmt: on
    return parser.parse_known_args(argv)


@lc.command_line
def main(argv: list[str]) -> None:
    args, rest = parse(argv)
    if args.command == "simulate":
        args.seeds, args.strategies = sorted(set(args.seeds)), list(dict.fromkeys(args.strategies))
        simulate(argparse.Namespace(**vars(lc.parse_settings(rest)) | vars(args)))
    elif rest:
        lc.complain(f"unknown: {' '.join(rest)}")
    else:
        suggest(args)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
