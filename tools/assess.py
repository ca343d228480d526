"""Areas and accuracy of a finished map, with intervals, from a reference sample; scores of a trained model.

    python tools/assess.py sample --map maps/NAME_classes.tif --output reference.csv     where to look
    python tools/annotate.py --images scenes --points reference.csv                      look, blind
    python tools/assess.py report --map maps/NAME_classes.tif --reference reference.csv --output assessment
    python tools/assess.py score --checkpoint best_model.pth --images tiles --labels masks

The pixels of a map, counted, are no estimate of areas: they hold its errors. `sample` draws pixels at random,
so that each has a known probability; `report` corrects the areas by what was found there. --map takes maps
of map_scenes.py (NAME_classes.tif or .png), or folders of them, all together one region. Maps in degrees or
Mercator are drawn from evenly on the ground. `score` needs no map: it scores a checkpoint on masks or points.

Estimates are ratios of means, standard errors those of Olofsson et al. 2014 and Stehman 2014, without finite
population correction: a sample is a tiny share of a map. The 95% intervals are not estimate ± 1.959964
standard errors (the papers round it to 1.96): where no error happened to be seen in a stratum, that is too
narrow, and of a class of 1% it holds the truth in as few as 20 to 80 of 100 samples (`interval`).
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import math
import sys
import typing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo
import numpy as np
from scipy.special import betaincinv, stdtrit
from tqdm.auto import tqdm

import landcover_segmentation as lc

Z95 = 1.959964  # the normal quantile; the papers round it to 1.96
FLOOR = 50  # points of a rare class, of the 50 to 100 that Olofsson et al. 2014 (5.1.2) advise
COLUMNS = ("image", "x", "y", "class", "stratum", "inclusion_probability", "stratum_share", "design")
DESIGNS = ("stratified", "simple", "systematic")
MANY_UNLABELLED = 0.05  # share of drawn points without a class, above which a warning is due

# =====================================================================================================
# Estimators. counts (..., H, C, C): points by stratum, map class and reference class; weights (H,): each
# stratum's share of the region, summing to 1. Leading axes are samples, of which a simulation has many.
# =====================================================================================================


def measures(num_classes: int) -> dict[tuple[str, int | None], tuple[np.ndarray, np.ndarray]]:
    """What is estimated, as a ratio of sums over pixels: (measure, class) -> y, x, both (C, C).

    y and x are 0, 1 or 2 by map class (row) and reference class (column), after Stehman 2014, eq. 10 to 14
    (https://doi.org/10.1080/01431161.2014.930207); F1 and IoU are such ratios too.
    """
    ones = np.ones((num_classes, num_classes))
    ratios: dict = {("overall accuracy", None): (np.eye(num_classes), ones)}
    for at in range(num_classes):
        mapped, found, both = np.zeros_like(ones), np.zeros_like(ones), np.zeros_like(ones)
        mapped[at], found[:, at], both[at, at] = 1, 1, 1
        ratios["area share", at] = found, ones
        ratios["user's accuracy", at] = both, mapped
        ratios["producer's accuracy", at] = both, found
        ratios["F1", at] = 2 * both, mapped + found
        ratios["IoU", at] = both, mapped + found - both
    return ratios


def stratum_means(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of a value per stratum, (..., H), from values by map and reference class (..., C, C)."""
    return (counts * values).sum((-2, -1)) / counts.sum((-2, -1))


def ratio(
    counts: np.ndarray, weights: np.ndarray, y: np.ndarray, x: np.ndarray, pixels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates sum(y) / sum(x) over a region and its standard error, both (...), NaN where x is 0.

    The combined ratio estimator of stratified random sampling (Stehman 2014, eq. 27 and 28). If the strata
    are the map classes, it is that of Olofsson et al. 2014, eq. 5 to 11, with n - 1 and row totals
    (https://doi.org/10.1016/j.rse.2014.02.015), and of Card 1982 for post-stratified simple random samples.
    pixels (H,): of each stratum, for the finite population correction; without it there is none.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        of_x = (weights * stratum_means(counts, x)).sum(-1)
        estimate = (weights * stratum_means(counts, y)).sum(-1) / of_x
        residual = y - estimate[..., None, None, None] * x
        points = counts.sum((-2, -1))
        spread = stratum_means(counts, residual**2) - stratum_means(counts, residual) ** 2
        variance = spread.clip(0) / (points - 1) * (1 if pixels is None else 1 - points / pixels)
        return estimate, np.sqrt((weights**2 * variance).sum(-1)) / of_x


def interval(
    counts: np.ndarray, weights: np.ndarray, y: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The 95% interval of sum(y) / sum(x), both limits (...), NaN where x was never seen.

    Jeffreys' interval in each stratum (Brown, Cai & DasGupta 2001, https://doi.org/10.1214/ss/1009213286),
    put together by squaring and adding (Zou & Donner 2008, https://doi.org/10.1002/sim.3095); a ratio r is
    inside if the interval of the mean of y - r x holds 0, as Fieller does it. A stratum in which no error
    was seen still adds what may have been missed. In simulations it holds the truth in 93 to 97 of 100
    samples where estimate ± Z95 standard errors fails (tests/test_assess.py).
    """
    limits, seen = [], (counts * x).sum((-3, -2, -1)) > 0
    for side in (-1, 1):
        low, high = np.zeros(seen.shape), np.ones(seen.shape)
        if (x == 1).all():  # the mean of y - r is that of y, less r
            low = high = residual_limit(counts, weights, y, side)
        else:
            for _ in range(30):  # halvings: the limit falls as r rises
                middle = (low + high) / 2
                limit = residual_limit(counts, weights, y - middle[..., None, None, None] * x, side)
                low, high = np.where(limit > 0, middle, low), np.where(limit > 0, high, middle)
        limits.append(np.where(seen, ((low + high) / 2).clip(0, 1), np.nan))
    return limits[0], limits[1]


def residual_limit(counts: np.ndarray, weights: np.ndarray, residual: np.ndarray, side: int) -> np.ndarray:
    """The lower (side -1) or upper (1) limit, (...), of a region's mean of residual, (..., C, C) values.

    Within a stratum it takes two values where that is a map class; with more, treating it as a proportion
    between the extremes is on the safe side. Map classes that a stratum was never seen to hold count not.
    """
    possible = counts.any(-1, keepdims=True)
    least = np.where(possible, residual, np.inf).min((-2, -1))
    span = np.where(possible, residual, -np.inf).max((-2, -1)) - least
    points, means = counts.sum((-2, -1)), stratum_means(counts, residual)
    share = ((means - least) / np.where(span > 0, span, 1)).clip(0, 1)
    jeffreys = betaincinv(share * points + 0.5, (1 - share) * points + 0.5, 0.5 + side * 0.475)
    at_end = np.isclose(share, (1 + side) / 2, atol=1e-12)
    reach = np.where(at_end, 0, jeffreys - share)
    return (weights * means).sum(-1) + side * np.sqrt(((weights * span * reach) ** 2).sum(-1))


def cluster_ratio(counts: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Estimates sum(y) / sum(x) from clusters: estimate, standard error and 95% limits, all (...).

    counts (..., K, C, C): points by cluster. Ratio of cluster totals (Cochran 1977, Sampling Techniques,
    6.3 and 9A.1). The interval is Wilson's with Student's quantile of K - 1, and as many points as would
    tell as much if they were independent (Franco et al. 2019, https://doi.org/10.1093/jssam/smy019): at
    most all, and one per cluster where the clusters show no spread.
    """
    of_y, of_x = ((counts * values).sum((-2, -1)) for values in (y, x))
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate, clusters = of_y.sum(-1) / of_x.sum(-1), counts.shape[-3]
        squares = ((of_y - estimate[..., None] * of_x) ** 2).sum(-1)
        error = np.sqrt(clusters / (clusters - 1) * squares) / of_x.sum(-1)
        told, points = estimate * (1 - estimate) / error**2, (counts * (x > 0)).sum((-3, -2, -1))
    effective = np.where(error > 1e-12, np.minimum(points, told), (of_x > 0).sum(-1).clip(1))
    r = stdtrit(clusters - 1, 0.975) ** 2 / effective
    half = np.sqrt(r * estimate * (1 - estimate) + r**2 / 4)
    low, high = ((estimate + r / 2 + side * half) / (1 + r) for side in (-1, 1))
    return estimate, error, low.clip(0, 1), high.clip(0, 1)


def sample_size(weights: np.ndarray, shares: np.ndarray, half_width: float, pixels: int) -> int:
    """The points for a 95% interval of ± half_width around a share (Olofsson et al. 2014, eq. 13).

    weights (H,): of the strata; shares (H,): the guessed share of what is estimated in each.
    """
    deviations = np.sqrt(shares * (1 - shares))
    error, total = half_width / Z95, (weights * deviations).sum()
    return math.ceil(round(total**2 / (error**2 + (weights * deviations**2).sum() / pixels), 6))


def allocate(size: int, weights: np.ndarray, how: str, deviations: np.ndarray) -> np.ndarray:
    """Points of each stratum, (H,), at least 2: equal, proportional, neyman or floor.

    weights, deviations (H,): share of the region and guessed standard deviation of each stratum. floor: FLOOR
    points, or an equal share if that is less, where proportional gives less; the rest shares what is left.
    """
    neyman = weights * deviations if (weights * deviations).any() else weights
    wanted = {"equal": np.ones_like(weights), "neyman": neyman}.get(how, weights)
    least = min(FLOOR, size // len(weights)) if how == "floor" else 2
    rare = np.zeros(len(weights), bool)
    while True:  # what goes to the rare makes others rare
        left = max(0, size - least * rare.sum())
        points = np.where(rare, least, left * wanted / max(1e-12, wanted[~rare].sum()))
        if not (more := ~rare & (points < least)).any():
            break
        rare |= more
    whole = np.floor(points).astype(int)
    whole[np.argsort(whole - points, kind="stable")[: max(0, size - whole.sum())]] += 1
    return whole.clip(2)


# =====================================================================================================
# Maps
# =====================================================================================================


class Map(typing.NamedTuple):
    """A map of class ids: its file, the name of its scene, and where it lies."""

    path: Path
    name: str  # NAME of NAME_classes.tif
    class_names: list[str]
    checkpoint: str | None  # "FILE sha256:…" of the model that made it, if it says so
    scene: geo.Scene  # without pixels
    areas: np.ndarray | None  # hectares of a pixel by row, (H,)


@contextlib.contextmanager
def open_map(path: Path) -> Iterator[tuple[geo.Scene, dict, dict]]:
    """Opens a map to be read by rows, (h, W) uint8; its tags, and those of its band."""
    if path.suffix.lower() == ".png":
        with lc.open_picture(path) as picture:
            yield geo.Scene(picture.height, picture.width, picture_rows(path)), dict(picture.info), {}
        return
    with lc.open_raster(path) as dataset:
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            kind = f"{dataset.count} band(s) of {dataset.dtypes[0]}"
            raise lc.InputError(f"{path}: holds {kind}, not class ids; name a NAME_classes.tif")

        def read(top: int, bottom: int) -> np.ndarray:
            with lc.readable(path):
                return dataset.read(1, window=((top, bottom), (0, dataset.width)))

        place = (dataset.crs, dataset.transform) if dataset.crs else (None, None)
        yield geo.Scene(dataset.height, dataset.width, read, *place), dataset.tags(), dataset.tags(1)


def picture_rows(path: Path) -> Callable[[int, int], np.ndarray]:
    """Reads rows of a PNG, which is decoded whole when the first are asked for: a byte per pixel."""
    decoded: list[np.ndarray] = []

    def read(top: int, bottom: int) -> np.ndarray:
        decoded or decoded.append(lc.read_mask(path))
        return decoded[0][top:bottom]

    return read


def list_maps(paths: Sequence[Path]) -> list[Map]:
    """The maps of files and folders as one region. Raises InputError if their classes differ."""
    files = []
    for path in paths:
        found = sorted(path.glob("*_classes.*")) if path.is_dir() else [path]
        files += [file for file in found if file.suffix.lower() in (".tif", ".tiff", ".png")]
        if path.is_dir() and not found:
            raise lc.InputError(f"{path}: holds no NAME_classes.tif or .png; map first: tools/map_scenes.py")
    maps = [describe_map(path) for path in dict.fromkeys(files)]
    for other in maps[1:]:
        if other.class_names != maps[0].class_names:
            raise lc.InputError(f"{other.path}: has other classes than {maps[0].path}; assess each by itself")
    if len({each.name for each in maps}) < len(maps):
        raise lc.InputError(f"{', '.join(str(each.path) for each in maps)}: two maps of one name; keep one")
    if any(each.areas is None for each in maps):  # pixels alone are common to all
        maps = [each._replace(areas=None) for each in maps]
    return maps


def describe_map(path: Path) -> Map:
    with open_map(path) as (scene, tags, band_tags):
        sidecar = path.with_name(path.name + ".aux.xml")
        root = ElementTree.parse(sidecar).getroot() if sidecar.exists() else ElementTree.Element("none")
        keys = (f"CLASS_{index}" for index in range(255))
        names = [band_tags[key] for key in keys if key in band_tags]
        names = names or [category.text or "" for category in root.iter("Category")]
        tags = {item.get("key"): item.text for item in root.iter("MDI")} | tags
        areas, name = geo.pixel_hectares(scene), path.stem.removesuffix("_classes")
        return Map(path, name, names, tags.get("CHECKPOINT"), geo.Scene(*scene_facts(scene)), areas)


def scene_facts(scene: geo.Scene) -> tuple:
    return scene.height, scene.width, None, scene.crs, scene.transform


def count_classes(maps: Sequence[Map]) -> tuple[np.ndarray, list[str]]:
    """Pixels by row of all maps, one below the other, and class: (rows, C) int32; the names of the classes.

    Raises InputError for a class that the map has no name for.
    """
    names, rows = maps[0].class_names, []
    total = sum(each.scene.height for each in maps)
    with tqdm(total=total, desc="counting pixels", unit="row", leave=False, disable=None) as bar:
        for each in maps:
            with open_map(each.path) as (scene, _, _):
                for top in range(0, scene.height, 512):
                    block = scene.read(top, min(top + 512, scene.height))
                    counts = [np.bincount(row, minlength=256)[: lc.IGNORE_INDEX] for row in block]
                    rows.append(np.array(counts, np.int32)[:, : len(names) or None])
                    if sum(map(np.sum, counts)) != rows[-1].sum():
                        problem = f"holds ids above those of its {len(names)} classes"
                        raise lc.InputError(f"{each.path}: {problem}; map anew with map_scenes.py")
                    bar.update(len(block))
    table = np.concatenate(rows)
    if not table.any():
        raise lc.InputError(f"{maps[0].path}: holds no pixel with data; name another map")
    highest = int(np.flatnonzero(table.any(0))[-1])
    names = names or lc.numbered_classes(highest + 1)
    return table[:, : len(names)], names


def row_areas(maps: Sequence[Map]) -> np.ndarray:
    """The area of a pixel in each row of all maps: hectares, or pixels where a map has no place."""
    return np.concatenate([np.ones(m.scene.height) if m.areas is None else m.areas for m in maps])


# =====================================================================================================
# sample: a map -> pixels drawn at random
# =====================================================================================================


def draw(counts: np.ndarray, areas: np.ndarray, size: int, rng: lc.Rng) -> list[tuple[int, int]]:
    """Draws `size` different pixels of a stratum evenly on the ground: (row, the how manieth in that row).

    counts, areas (rows,): pixels of the stratum in each row, and the area of each. All, if there are fewer.
    """
    if size >= counts.sum():
        return [(int(row), at) for row in np.flatnonzero(counts) for at in range(counts[row])]
    chances = counts * areas / (counts * areas).sum()
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < size:
        rows = rng.choice(len(counts), size - len(drawn), p=chances)
        drawn |= dict.fromkeys(zip(rows.tolist(), rng.integers(counts[rows]).tolist(), strict=True))
    return list(drawn)


def draw_grid(maps: Sequence[Map], step: float, areas: np.ndarray, rng: lc.Rng) -> list[tuple[int, int]]:
    """Draws a square grid with a random start on each map: (row of all maps, column).

    step: in pixels of unit area. areas (rows,): of a pixel; rows of larger pixels lie denser.
    """
    nodes, first = [], 0
    for each in maps:
        own = np.cumsum(areas[first : first + each.scene.height])
        rows = np.searchsorted(own, np.arange(rng.random() * step, own[-1], step), side="right")
        columns = np.arange(rng.random() * step, each.scene.width, step).astype(int)
        nodes += [(first + int(row), int(column)) for row in np.unique(rows) for column in columns]
        first += each.scene.height
    return nodes


def visit_rows(maps: Sequence[Map], rows: Iterable[int]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields row of all maps, number of the map and class ids (W,) for the given rows, in order."""
    wanted, first = sorted(set(rows)), 0
    for index, each in enumerate(maps):
        own = [row for row in wanted if first <= row < first + each.scene.height]
        if own:
            with open_map(each.path) as (scene, _, _):
                for row in own:
                    yield row, index, scene.read(row - first, row - first + 1)[0]
        first += each.scene.height


def draw_sample(args: argparse.Namespace) -> tuple[list[dict], list[Map], str]:
    """Draws the points of a reference sample: rows of COLUMNS in random order, the maps, and a summary."""
    maps = list_maps(args.map)
    table, names = count_classes(maps)
    areas, rng = row_areas(maps), np.random.default_rng(args.seed)
    by_class = areas @ table
    strata = np.flatnonzero(by_class)
    if args.design != "stratified":
        strata_table, labels, weights = table.sum(1, keepdims=True), ["all"], np.ones(1)
    else:
        strata_table, labels = table[:, strata], [names[at] for at in strata]
        weights = by_class[strata] / by_class.sum()
    size, deviations = wanted_size(args, by_class[strata] / by_class.sum(), names, strata, int(table.sum()))
    first = np.cumsum([0, *(each.scene.height for each in maps)])
    if args.design == "systematic":
        unit = areas / areas.max()
        step = math.sqrt(max(1.0, (unit @ table).sum() / size))
        picks = {0: draw_grid(maps, step, unit, rng)}
    else:
        numbers = allocate(size, weights, args.allocation, deviations) if len(weights) > 1 else [size]
        picks = {at: draw(strata_table[:, at], areas, n, rng) for at, n in enumerate(numbers)}
    wanted: dict[int, list] = {}
    for at, pixels in picks.items():
        for row, rank in pixels:
            wanted.setdefault(row, []).append((at, rank))
    rows = []
    for row, index, ids in visit_rows(maps, wanted):
        for at, rank in wanted[row]:
            if args.design == "systematic":
                columns, chance = [rank] if ids[rank] != lc.IGNORE_INDEX else [], unit[row] / step**2
            else:
                inside = ids == strata[at] if args.design == "stratified" else ids != lc.IGNORE_INDEX
                chance = len(picks[at]) * areas[row] / (areas @ strata_table[:, at])
                columns = [int(np.flatnonzero(inside)[rank])]
            place = {"image": maps[index].name, "y": row - int(first[index]), "class": "", "map": index}
            place |= {"stratum": labels[at], "inclusion_probability": f"{min(1.0, chance):.6g}"}
            place |= {"stratum_share": f"{weights[at]:.10g}", "design": args.design}
            rows += [{**place, "x": column} for column in columns]
    found = Counter(row["stratum"] for row in rows)
    summary = lc.format_counts(Counter({f"in {label}": found[label] for label in labels}))
    return [rows[at] for at in rng.permutation(len(rows))], maps, summary


def wanted_size(
    args: argparse.Namespace, weights: np.ndarray, names: list[str], strata: np.ndarray, pixels: int
) -> tuple[int, np.ndarray]:
    """The number of points, and the guessed standard deviation in each stratum, (H,).

    What a map class holds of another is guessed as an equal part of its errors.
    """
    guesses = np.array(args.users_accuracy if args.users_accuracy else [0.8] * len(names))
    if len(guesses) != len(names) or not ((guesses > 0) & (guesses < 1)).all():
        lc.complain(f"--users-accuracy: give {len(names)} numbers between 0 and 1: {', '.join(names)}")
    shares = guesses[strata]
    if args.of:
        target = lc.find_class(args.of, names, "--of")
        shares = np.where(strata == target, shares, (1 - shares) / max(1, len(names) - 1))
    size = args.size
    if args.half_width:
        size = sample_size(weights, shares, args.half_width, pixels)
    if size < 2 * len(weights):
        lc.complain(f"--size {size}: two points in each of {len(weights)} classes are the least")
    return min(size, pixels), np.sqrt(shares * (1 - shares))
