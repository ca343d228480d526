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
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
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
    scene: geo.Scene  # its rows are read by open_map
    areas: np.ndarray | None  # hectares of a pixel by row, (H,)


@contextlib.contextmanager
def open_map(path: Path) -> Iterator[tuple[geo.Scene, dict, dict]]:
    """Opens a map to be read by rows, (h, W) uint8; its tags, and those of its band. A PNG is read whole."""
    if path.suffix.lower() == ".png":
        ids = lc.read_mask(path)
        with lc.open_picture(path) as picture:
            yield geo.Scene(*ids.shape, lambda top, bottom: ids[top:bottom]), dict(picture.info), {}
        return
    dataset = lc.open_raster(path)
    from rasterio import Env

    def read(top: int, bottom: int) -> np.ndarray:
        with lc.readable(path):
            return dataset.read(1, window=((top, bottom), (0, dataset.width)))

    with dataset, Env(GDAL_CACHEMAX=2**28):
        if dataset.count != 1 or dataset.dtypes[0] != "uint8":
            kind = f"{dataset.count} band(s) of {dataset.dtypes[0]}"
            raise lc.InputError(f"{path}: holds {kind}, not class ids; name a NAME_classes.tif")
        place = (dataset.crs, dataset.transform) if dataset.crs else (None, None)
        yield geo.Scene(dataset.height, dataset.width, read, *place), dataset.tags(), dataset.tags(1)


def list_maps(paths: Sequence[Path], class_names: list[str] | None = None) -> list[Map]:
    """The maps of files and folders as one region. Raises InputError if their classes differ."""
    files = []
    for path in paths:
        found = sorted(path.glob("*_classes.*")) if path.is_dir() else [path]
        files += [file for file in found if file.suffix.lower() in (".tif", ".tiff", ".png")]
        if path.is_dir() and not found:
            raise lc.InputError(f"{path}: holds no NAME_classes.tif or .png; map first: tools/map_scenes.py")
    maps = [describe_map(path) for path in dict.fromkeys(files)]
    if class_names:
        maps = [each._replace(class_names=class_names) for each in maps]
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
        return Map(path, name, names, tags.get("CHECKPOINT"), scene, areas)


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


def draw_sample(args: argparse.Namespace) -> tuple[list[dict], list[Map]]:
    """Draws a reference sample: rows of COLUMNS, with the number of their map, in random order; the maps."""
    maps = list_maps(args.map, args.class_names)
    table, names = count_classes(maps)
    areas, rng = row_areas(maps), np.random.default_rng(args.seed)
    hectares = areas @ table
    strata = np.flatnonzero(hectares)
    size, deviations = wanted_size(args, hectares[strata] / hectares.sum(), names, strata, int(table.sum()))
    if args.design == "systematic":
        unit = areas / areas.max()
        step = math.sqrt(max(1.0, (unit @ table).sum() / size))
        picks = [("all", None, draw_grid(maps, step, unit, rng), unit / step**2, 1.0)]
    else:
        parts = [("all", None, table.sum(1))]
        if args.design == "stratified":
            parts = [(names[at], at, table[:, at]) for at in strata]
        totals = np.array([areas @ counts for _, _, counts in parts])
        shares, picks = totals / totals.sum(), []
        numbers = allocate(size, shares, args.allocation, deviations) if len(parts) > 1 else [size]
        for (label, at, counts), share, total, number in zip(parts, shares, totals, numbers, strict=True):
            drawn = draw(counts, areas, number, rng)
            picks.append((label, at, drawn, len(drawn) * areas / total, share))
    rows = list(locate(maps, picks, args.design))
    return [rows[at] for at in rng.permutation(len(rows))], maps


def locate(maps: Sequence[Map], picks: list[tuple], design: str) -> Iterator[dict]:
    """Yields a row of COLUMNS for each pixel drawn; pixels of a grid that have no data are left out."""
    wanted: dict[int, list] = {}
    for label, class_id, drawn, chances, share in picks:
        for row, at in drawn:
            more = {"stratum": label, "inclusion_probability": f"{min(1.0, chances[row]):.6g}"}
            more |= {"stratum_share": f"{share:.10g}", "design": design, "class": ""}
            wanted.setdefault(row, []).append((class_id, at, more))
    first = np.cumsum([0, *(each.scene.height for each in maps)])
    for row, index, ids in visit_rows(maps, wanted):
        for class_id, at, more in wanted[row]:
            inside = ids != lc.IGNORE_INDEX if class_id is None else ids == class_id
            if design == "systematic" and not inside[at]:
                continue
            column = at if design == "systematic" else int(np.flatnonzero(inside)[at])
            yield {"image": maps[index].name, "x": column, "y": row - int(first[index]), "map": index} | more


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


def write_sample(args: argparse.Namespace) -> None:
    """Writes the CSV for annotate.py and, where the maps have a place, a GeoPackage for QGIS."""
    check_no_label_lost(args.output)
    rows, maps = draw_sample(args)
    files = lc.list_images(args.images) if args.images else {}
    for row in rows:
        if files and row["image"] not in files:
            raise lc.InputError(f"{args.images}: has no image {row['image']}, of {maps[row['map']].path}")
        row["image"] = files[row["image"]].name if files else row["image"]
    lc.prepare_output(args.output.parent)
    written = [args.output]
    with contextlib.ExitStack() as results:
        file = results.enter_context(lc.atomic_write(args.output)).open("w", newline="", encoding="utf-8")
        with file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        if all(each.scene.crs for each in maps):
            written.append(args.output.with_suffix(".gpkg"))
            write_geopackage(results.enter_context(lc.atomic_write(written[-1])), rows, maps)
    print("wrote " + ", ".join(map(str, written)))
    found = Counter(row["stratum"] for row in rows)
    print(f"{len(rows):,} points, {args.design}: {lc.format_counts(found)}")


def check_no_label_lost(path: Path) -> None:
    """Raises InputError if a sample that is to be written would replace labels that somebody gave."""
    if path.suffix.lower() != ".csv":
        raise lc.InputError(f"--output {path}: must be a file NAME.csv")
    if path.exists() and any(row["class"] for _, row in lc.csv_rows(path, COLUMNS[:4])):
        raise lc.InputError(f"{path}: holds labels, which would be lost; name another file with --output")


def write_geopackage(path: Path, rows: list[dict], maps: Sequence[Map]) -> None:
    """Writes the middle of each pixel, in the reference system of the first map."""
    geopandas, parts = import_geopandas(path), []
    from rasterio.transform import xy

    for index, each in enumerate(maps):
        own = [row for row in rows if row["map"] == index]
        x, y = xy(each.scene.transform, *([row[axis] for row in own] for axis in "yx"))
        fields = {name: [row[name] for row in own] for name in COLUMNS}
        points = geopandas.GeoDataFrame(fields, geometry=geopandas.points_from_xy(x, y, crs=each.scene.crs))
        parts.append(points.to_crs(maps[0].scene.crs))
    whole = geopandas.pd.concat([part for part in parts if len(part)])
    whole.to_file(path, driver="GPKG", layer="reference", engine="pyogrio")


def import_geopandas(path: Path):
    try:
        import geopandas
    except ImportError as error:
        raise lc.InputError(f"{path}: vector points need: pip install geopandas rasterio") from error
    return geopandas


# =====================================================================================================
# report: a map and what was found at its points -> areas and accuracy
# =====================================================================================================


class Reference(typing.NamedTuple):
    """The points of a reference sample on the maps: all fields hold one entry per point."""

    where: list[str]  # line or feature, for messages
    map: np.ndarray  # (n,) index of the map
    row: np.ndarray
    column: np.ndarray
    fields: list[dict[str, str]]  # class, and what else its file says

    def kept(self, mask: np.ndarray) -> Reference:
        chosen = np.flatnonzero(mask)
        lists = ([part[at] for at in chosen] for part in (self.where, self.fields))
        return Reference(next(lists), self.map[mask], self.row[mask], self.column[mask], next(lists))


def read_reference(path: Path, maps: Sequence[Map]) -> Reference:
    """The points of a CSV of image,x,y,class, or of a vector file with a field class.

    Raises InputError for a point that lies on no map, a pixel that stands twice, and points that were chosen
    where the model is least sure.
    """
    read = csv_reference if path.suffix.lower() == ".csv" else vector_reference
    rows, first = list(read(path, maps)), {}
    for where, *pixel, fields in rows:
        if fields.get("uncertainty"):
            problem = "was chosen where the model is least sure, not at random, and says nothing of areas"
            raise lc.InputError(f"{path}, {where}: {problem}; draw points with assess.py sample")
        if (other := first.setdefault(tuple(pixel), where)) != where:
            raise lc.InputError(f"{path}, {where}: is the pixel of {other}; keep one of them")
    if not rows:
        raise lc.InputError(f"{path}: holds no point; draw some with assess.py sample")
    where, index, row, column, fields = zip(*rows, strict=True)
    return Reference(list(where), np.array(index), np.array(row), np.array(column), list(fields))


def csv_reference(path: Path, maps: Sequence[Map]) -> Iterator[tuple]:
    """Yields line, map, row, column and fields of each row of a CSV."""
    known = {lc.folded(each.name): index for index, each in enumerate(maps)}
    for line, fields in lc.csv_rows(path, COLUMNS[:4]):
        where, name = f"line {line}", lc.folded(fields["image"])
        index = known.get(name, known.get(lc.folded(Path(name).stem)))
        if index is None:
            raise lc.InputError(f"{path}, {where}: image {name!r} is on no map; name its map with --map")
        x, y = (lc.pixel(fields[axis], f"{path}, {where}: {axis}") for axis in "xy")
        height, width = maps[index].scene.height, maps[index].scene.width
        if not (0 <= x < width and 0 <= y < height):
            problem = f"point {x},{y} lies outside {maps[index].path}, {width} wide and {height} high"
            raise lc.InputError(f"{path}, {where}: {problem}; name the map that was sampled")
        yield where, index, y, x, fields


def vector_reference(path: Path, maps: Sequence[Map]) -> Iterator[tuple]:
    """Yields feature, map, row, column and fields of each point; one on several maps belongs to the first."""
    geopandas = import_geopandas(path)
    with lc.readable(path):
        table = geopandas.read_file(path, engine="pyogrio", fid_as_index=True)
    table.columns = [name.lower() for name in table.columns]
    if "class" not in table or table.crs is None or (table.geom_type != "Point").any():
        raise lc.InputError(f"{path}: must hold points with a field 'class' and a reference system (CRS)")
    index, places = np.full(len(table), -1), np.zeros((2, len(table)), int)
    for number, each in enumerate(maps):
        if each.scene.crs is None:
            raise lc.InputError(f"{each.path}: has no georeference, which points in {path} need; give a CSV")
        inside, *pixels = geo.pixels_of(table.geometry.to_crs(each.scene.crs.to_wkt()), each.scene)
        fresh = inside & (index < 0)
        index[fresh], places[:, fresh] = number, np.array(pixels)[:, fresh]
    fields = table.drop(columns="geometry").astype(object)
    for at, row in enumerate(fields.where(fields.notna(), "").astype(str).to_dict("records")):
        where = f"feature {table.index[at]}"
        if index[at] < 0:
            raise lc.InputError(f"{path}, {where}: lies outside of the map; name the map that was sampled")
        yield where, int(index[at]), *places[:, at].tolist(), row


def mapped_classes(points: Reference, maps: Sequence[Map], path: Path) -> np.ndarray:
    """The map's class at each point, (n,). Raises InputError where it has no data."""
    first = np.cumsum([0, *(each.scene.height for each in maps)])
    rows, mapped = first[points.map] + points.row, np.zeros(len(points.row), int)
    for row, _, ids in visit_rows(maps, rows.tolist()):
        here = rows == row
        mapped[here] = ids[points.column[here]]
    if (empty := mapped == lc.IGNORE_INDEX).any():
        problem = f"lies where the map has no data, as {empty.sum():,} points do"
        cure = "name the map that was sampled, or remove them"
        raise lc.InputError(f"{path}, {points.where[int(empty.argmax())]}: {problem}; {cure}")
    return mapped


# ---- Points that a model learnt from say nothing of its errors


def check_not_learnt(checkpoint_path: Path, points: Reference, maps: Sequence[Map]) -> list[str]:
    """Raises InputError if a checkpoint learnt from some of the points; notes what else is to be known."""
    checkpoint = lc.load_checkpoint(checkpoint_path)
    digest = hashlib.sha256(checkpoint_path.read_bytes()).hexdigest()[:16]
    others = {each.checkpoint for each in maps if each.checkpoint and digest not in each.checkpoint}
    notes = [f"{checkpoint_path} did not make the map: {other} did" for other in sorted(others)]
    pixels = checkpoint.get("labelled_pixels")
    if pixels is None:
        return [*notes, f"{checkpoint_path} does not say where it learnt, perhaps from these very points"]
    folder = checkpoint.get("config", {}).get("train_image_dir", "")
    states = learnt_states(pixels, Path(folder), points, maps)
    if learnt := (states == 2).sum():
        problem = f"learnt from {learnt:,} of the {len(states):,} reference points"
        raise lc.InputError(f"{checkpoint_path}: {problem}; remove these pixels, and draw others")
    if near := (states == 1).sum():
        problem = f"{near:,} of {len(states):,} points lie in tiles from which {checkpoint_path} learnt"
        notes.append(f"{problem}: its errors there may be fewer than elsewhere")
    return notes


def learnt_states(pixels: dict, folder: Path, points: Reference, maps: Sequence[Map]) -> np.ndarray:
    """For each point, (n,): 2 if a model learnt from its pixel, 1 if from its tile, else 0.

    pixels: (row, column) learnt from, (N, 2), or None for all, by file name of the tile. Tiles of the folder
    that have a place are compared on the ground, others by name.
    """
    names = np.array([lc.folded(each.name) for each in maps])[points.map]
    states = np.zeros(len(names), int)
    for name, learnt in pixels.items():
        at, rows, columns = np.flatnonzero(names == lc.folded(Path(name).stem)), points.row, points.column
        if all(each.scene.crs for each in maps) and (folder / name).is_file():
            with geo.open_unscaled(folder / name) as tile:
                if tile.crs:
                    at, rows, columns = pixels_on(tile, points, maps)
        own = np.stack([rows, columns], 1)[at]
        same = learnt is None or (own[:, None] == np.asarray(learnt)).all(-1).any(-1)
        states[at] = np.maximum(states[at], np.where(same, 2, 1))
    return states


def pixels_on(tile: geo.Scene, points: Reference, maps: Sequence[Map]) -> tuple[np.ndarray, ...]:
    """Which points lie on a tile, and the row and column of all points, as counted there."""
    from rasterio.transform import rowcol, xy
    from rasterio.warp import transform

    rows, columns = np.zeros((2, len(points.row)), int)
    for index, each in enumerate(maps):
        here = points.map == index
        middles = xy(each.scene.transform, points.row[here], points.column[here])
        ground = transform(each.scene.crs, tile.crs, *middles) if here.any() else ([], [])
        rows[here], columns[here] = rowcol(tile.transform, *map(np.array, ground), op=np.floor)
    inside = (rows >= 0) & (rows < tile.height) & (columns >= 0) & (columns < tile.width)
    return np.flatnonzero(inside), rows, columns


# ---- Design and estimates


def find_design(args: argparse.Namespace, points: Reference) -> str:
    """How the points were drawn. Raises InputError where neither the flags nor the file tell."""
    if args.cluster:
        return "cluster"
    told = {row.get("design", "") for row in points.fields}
    design = args.design or (told.pop() if len(told) == 1 else "")
    if design not in DESIGNS:
        cure = (
            f"give --design {', '.join(DESIGNS)}, or --cluster COLUMN; intervals need points drawn at random"
        )
        raise lc.InputError(f"{args.reference}: does not tell how its points were drawn; {cure}")
    return design


def find_strata(
    points: Reference, mapped: np.ndarray, classes: dict[str, float], design: str, path: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The stratum of each point, (n,), each stratum's share of the region, (H,), and notes.

    classes: the share of each of the map's classes. These are the strata, unless the file tells others with
    their shares. Points drawn without strata are put into them afterwards; those with fewer than two points
    share one with the next smallest.
    """
    told, strata, notes = classes, mapped, []
    if design == "stratified" and all(row.get("stratum_share") for row in points.fields):
        told = {row["stratum"]: float(row["stratum_share"]) for row in points.fields}
        strata = np.array([list(told).index(row["stratum"]) for row in points.fields])
    shares = np.array(list(told.values()))
    counts = np.bincount(strata, minlength=len(shares))
    few = (shares > 0) & (counts < 2)
    names = ", ".join(name for name, rare in zip(told, few, strict=True) if rare)
    if len(strata) < 2 or (design == "stratified" and few.any()):
        cure = "two in each are the least: draw or label more points"
        raise lc.InputError(f"{path}: too few points with a class in {names or 'the map'}; {cure}")
    if abs(shares.sum() - 1) > 1e-4:
        problem = f"the strata with points are {shares.sum():.4f} of the region, not all of it"
        raise lc.InputError(f"{path}: {problem}; label points in each stratum")
    if few.any():
        partner = int(np.argmin(np.where(counts < 2, len(strata) + 1, counts)))
        strata = np.where(few[strata], partner, strata)
        shares[partner] += shares[few].sum()
        shares[few] = 0
        notes.append(f"fewer than two points on {names}, counted as one stratum with {list(told)[partner]}")
    used = np.flatnonzero(shares)
    return np.searchsorted(used, strata), shares[used], notes


def estimate(
    mapped: np.ndarray, found: np.ndarray, groups: np.ndarray, weights: np.ndarray, num_classes: int,
    clustered: bool,
) -> tuple[np.ndarray, dict]:  # fmt: skip
    """The error matrix as shares of the region, (C, C), and (measure, class) -> estimate, error, low, high.

    mapped, found (n,): class of each point on the map and in the reference. groups (n,): its stratum, and
    weights (H,) the share of each; or its cluster, and weights (n,) how much each point stands for.
    """
    each = weights / weights.mean() if clustered else np.ones(len(groups))
    counts = np.zeros((groups.max() + 1, num_classes, num_classes))
    np.add.at(counts, (groups, mapped, found), each)
    results = {}
    for name, (y, x) in measures(num_classes).items():
        if clustered:
            results[name] = cluster_ratio(counts, y, x)
        else:
            results[name] = (*ratio(counts, weights, y, x), *interval(counts, weights, y, x))
    if clustered:
        return counts.sum(0) / counts.sum(), results
    return (weights[:, None, None] * counts / counts.sum((1, 2), keepdims=True)).sum(0), results


def assess(args: argparse.Namespace) -> dict:
    """All that the report says, as plain values."""
    maps = list_maps(args.map, args.class_names)
    drawn = read_reference(args.reference, maps)
    points = drawn.kept(np.array([bool(row["class"]) for row in drawn.fields]))
    if len(points.row) < 2:
        raise lc.InputError(f"{args.reference}: too few points with a class: label them first")
    design, table = find_design(args, drawn), count_classes(maps)
    notes = [note for path in args.checkpoint or () for note in check_not_learnt(path, drawn, maps)]
    (counts, names), mapped = table, mapped_classes(points, maps, args.reference)
    found = [
        lc.find_class(row["class"], names, f"{args.reference}, {where}")
        for where, row in zip(points.where, points.fields, strict=True)
    ]
    areas = row_areas(maps) @ counts
    shares = areas / areas.sum()
    if len(points.row) < len(drawn.row):
        missing = f"{len(drawn.row) - len(points.row):,} of {len(drawn.row):,} points have no class"
        notes.append(f"{missing} and are left out, as if chance had chosen them")
    if design == "cluster":
        groups, weights = find_clusters(points, args.cluster, args.reference)
    else:
        strata = dict(zip(names, shares, strict=True))
        groups, weights, more = find_strata(points, mapped, strata, design, args.reference)
        notes += more
    found = np.array(found)
    matrix, results = estimate(mapped, found, groups, weights, len(names), design == "cluster")
    notes += [f"{name} is nowhere on the map" for name, share in zip(names, shares, strict=True) if not share]
    lacking = [name for index, name in enumerate(names) if index not in found]
    notes += [f"{name} was found at no point: of its area only the upper limit tells" for name in lacking]
    plain = np.zeros((len(names), len(names)), int)
    np.add.at(plain, (mapped, found), 1)
    return {
        "design": design, "points": len(found), "drawn": len(drawn.row), "notes": notes,
        "maps": [str(each.path) for each in maps],
        "made_by": sorted({each.checkpoint or "unknown" for each in maps}),
        "unit": "pixels" if any(each.areas is None for each in maps) else "hectares",
        "total": areas.sum(), "classes": names,
        "counts": plain.tolist(), "shares": matrix.tolist(), "estimates": as_rows(results, names, areas),
    }  # fmt: skip


def find_clusters(points: Reference, column: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each point, (n,), and how many pixels it stands for, (n,), if the file tells, else 1.

    Raises InputError without that column, for a single cluster, and for clusters in strata.
    """
    labels = [row.get(column.lower(), "") for row in points.fields]
    if not all(labels) or len(set(labels)) < 2:
        raise lc.InputError(f"{path}: column {column} must name two clusters or more, one in each row")
    if len({row.get("stratum", "") for row in points.fields}) > 1:
        problem = "clusters within strata have no estimator here"
        raise lc.InputError(f"{path}: {problem}; leave --cluster out, or draw clusters without strata")
    chances = [float(row.get("inclusion_probability") or 1) for row in points.fields]
    return np.unique(labels, return_inverse=True)[1], 1 / np.array(chances)


def as_rows(results: dict, names: list[str], areas: np.ndarray) -> list[dict]:
    """The estimates as rows of a table; of areas with what the map shows, as shares too. NaN becomes None."""
    rows = []
    for (measure, at), values in results.items():
        plain = [None if np.isnan(value) else float(value) for value in values]
        row = {"measure": measure, "class": "" if at is None else names[at], "mapped": None}
        row |= dict(zip(("estimate", "standard_error", "low", "high"), plain, strict=True))
        rows.append(row)
        if measure == "area share":
            row["mapped"] = float(areas[at] / areas.sum())
            numbers = {key: value * float(areas.sum()) for key, value in row.items() if type(value) is float}
            rows.append({**row, "measure": "area", **numbers})
    return rows


# ---- Files

METHODS = {
    "stratified": "drawn at random in strata (Olofsson et al. 2014; Stehman 2014)",
    "simple": "drawn at random, put into strata by the map's classes afterwards (Card 1982)",
    "systematic": "on a grid, taken for points at random: where neighbours are alike, the errors are smaller",
    "cluster": "in clusters drawn at random, by the ratio of cluster totals (Cochran 1977)",
}
INTERVALS = """Intervals hold the truth in about 95 of 100 samples: Jeffreys' in each stratum, squared and
added; of clusters, Wilson's with Student's quantile. The symmetric ones of the papers are estimate ± 1.959964
standard errors, and too narrow for rare classes. There is no finite population correction in either.
"""


def write_report(args: argparse.Namespace) -> None:
    result = assess(args)
    lc.prepare_output(args.output)
    paths = [args.output / name for name in ("report.md", "report.json", "estimates.csv", "areas.png")]
    with contextlib.ExitStack() as files:
        page, record, table, picture = (files.enter_context(lc.atomic_write(path)) for path in paths)
        page.write_text(markdown(result), encoding="utf-8")
        record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, result["estimates"][0])
            writer.writeheader()
            writer.writerows(result["estimates"])
        draw_areas(picture, result)
    print("".join(f"note: {note}\n" for note in result["notes"]), end="")
    print(
        f"overall accuracy {in_words(rows_of(result, 'overall accuracy')[''])}", *area_table(result), sep="\n"
    )
    print("wrote " + ", ".join(map(str, paths)))


def rows_of(result: dict, measure: str) -> dict[str, dict]:
    """The rows of a measure, by class."""
    return {row["class"]: row for row in result["estimates"] if row["measure"] == measure}


def markdown(result: dict) -> str:
    """The page that a person reads."""
    made_by, kinds = ", ".join(result["made_by"]), ("user's accuracy", "producer's accuracy", "F1", "IoU")
    each, names = [rows_of(result, kind) for kind in kinds], result["classes"]
    lines = ["# Areas and accuracy", "", f"Map: {', '.join(result['maps'])}. Checkpoint: {made_by}.", ""]
    lines += [f"Reference: {result['points']:,} points {METHODS[result['design']]}.", ""]
    lines += [f"- {note}" for note in result["notes"]]
    lines += ["", f"Overall accuracy: {in_words(rows_of(result, 'overall accuracy')[''])}", ""]
    lines += [*area_table(result), "", "![Mapped and adjusted areas](areas.png)", ""]
    lines += table(["class", *kinds], [[name, *(in_words(kind[name]) for kind in each)] for name in names])
    for title, key, form in (("Points", "counts", "d"), ("Shares of the region", "shares", ".4f")):
        cells = ([f"{value:{form}}" for value in row] for row in result[key])
        lines += ["", f"{title}, map in rows, reference in columns:", ""]
        lines += table(["", *names], [[name, *row] for name, row in zip(names, cells, strict=True)])
    return "\n".join([*lines, "", INTERVALS])


def area_table(result: dict) -> list[str]:
    digits = max(0, 4 - int(np.log10(result["total"])))
    head = ["class", f"mapped, {result['unit']}", "adjusted", "standard error", "95% interval"]
    cells = (
        (
            name,
            *(f"{row[key]:,.{digits}f}" for key in ("mapped", "estimate", "standard_error", "low", "high")),
        )
        for name, row in rows_of(result, "area").items()
    )
    return table(head, [[*row[:4], f"{row[4]} to {row[5]}"] for row in cells])


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def in_words(row: dict) -> str:
    if row["estimate"] is None:
        return "absent"
    return f"{row['estimate']:.3f} ± {row['standard_error']:.3f} ({row['low']:.3f} to {row['high']:.3f})"


def draw_areas(path: Path, result: dict) -> None:
    """Draws mapped area beside adjusted area with its interval, for each class."""
    from matplotlib.figure import Figure

    rows, names = rows_of(result, "area").values(), result["classes"]
    keys = "mapped", "estimate", "low", "high"
    mapped, values, low, high = (np.array([row[key] for row in rows]) for key in keys)
    figure = Figure(figsize=(7, 1.2 + 0.6 * len(names)), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(names))
    axes.barh(at - 0.2, mapped, 0.38, color="0.75", label="pixels of the map")
    axes.barh(at + 0.2, values, 0.38, color="#3b78d8", label="adjusted, with 95% interval")
    axes.errorbar(values, at + 0.2, xerr=[values - low, high - values], fmt="none", ecolor="black", capsize=3)
    axes.set_yticks(at, names)
    axes.invert_yaxis()
    axes.set_xlabel(result["unit"])
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{result['points']:,} reference points", loc="left", fontsize=10)
    figure.savefig(path, dpi=110, format="png")


# =====================================================================================================
# score: a trained model on other masks or points
# =====================================================================================================


def score(args: argparse.Namespace) -> None:
    """Prints the scores of a checkpoint on labelled tiles, as training does for its val tiles."""
    model, notes = lc.load_model(args.checkpoint, args.device), []
    how = {"num_classes": model.num_classes, "class_names": model.class_names, **model.reading}
    tiles = lc.LandCoverDataset(args.images, args.labels, **how)
    found = lc.check_dataset(tiles, model.num_classes, "tiles")
    pixels = lc.load_checkpoint(args.checkpoint).get("labelled_pixels")
    known = {lc.folded(image.stem) for image, _ in tiles.tiles}
    same = [name for name in pixels or () if lc.folded(Path(name).stem) in known]
    if pixels is None:
        notes.append(f"{args.checkpoint} does not say where it learnt, perhaps on these very tiles")
    elif same:
        notes.append(
            f"{len(same):,} of {len(known):,} tiles have names of tiles that it learnt from, as {same[0]}"
        )
    device, judge = next(model.parameters()).device, lc.PointScores if found.sparse else lc.Scores
    loader = lc.make_loader(tiles, lc.batches_of_one_size(found.sizes, 4, 4 * 512**2), None, device)
    dtype = lc.pick_precision("auto", device)
    scores = lc.validate(
        model, loader, model.num_classes, device, judge=judge, dtype=dtype, progress="scoring"
    )
    result = scores.as_dict()
    print("".join(f"note: {note}\n" for note in notes), end="")
    print(judge.describe(result))
    for name, value in zip(model.class_names, scores.per_class, strict=True):
        print(f"  {name:{max(map(len, model.class_names))}}  {judge.each_label} ", end="")
        print("absent" if value is None else f"{value:.4f}")
    if args.output:
        lc.prepare_output(args.output.parent)
        record = result | {"class_names": model.class_names, "notes": notes}
        with lc.atomic_write(args.output) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {args.output}")


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str]) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    names = ("sample", "report", "score")
    draws, reports, scores = (commands.add_parser(name, description=__doc__) for name in names)
    # fmt: off
    for each in (draws, reports):
        each.add_argument("--map", metavar="PATH", type=Path, nargs="+", required=True,
                          help="NAME_classes.tif or .png, or folders of them; together one region")
        each.add_argument("--class-names", metavar="LIST", type=partial(lc.parse_setting, kind=list[str]),
                          help="in order of id, like water,forest (default: as the map says)")
    flag = draws.add_argument
    flag("--output", metavar="FILE", type=Path, default=Path("reference.csv"),
         help="the points, .csv; beside it a .gpkg for QGIS (default: %(default)s)")
    flag("--images", metavar="DIR", type=Path, help="the scenes, for their file names in the CSV")
    flag("--design", choices=DESIGNS, default="stratified", help="(default: %(default)s, by map class)")
    flag("--size", metavar="N", type=int, default=500, help="points in all (default: %(default)s)")
    flag("--half-width", metavar="X", type=float,
         help="as many points as give ± X of the overall accuracy, or --of a class: like 0.03")
    flag("--of", metavar="CLASS", help="the class whose share of the region --half-width is about")
    flag("--users-accuracy", metavar="LIST", type=partial(lc.parse_setting, kind=list[float]),
         help="guessed for each class, in order of id, like 0.9,0.7 (default: 0.8 each)")
    flag("--allocation", choices=("floor", "equal", "proportional", "neyman"), default="floor",
         help=f"floor: proportional, {FLOOR} where that is less (default: %(default)s)")
    flag("--seed", metavar="N", type=int, default=0, help="(default: %(default)s)")
    flag = reports.add_argument
    flag("--reference", metavar="FILE", type=Path, required=True,
         help="labelled points: .csv of image,x,y,class, or a vector file with a field class")
    flag("--output", metavar="DIR", type=Path, default=Path("assessment"),
         help="folder for report.md, report.json, estimates.csv and areas.png (default: %(default)s)")
    flag("--design", choices=DESIGNS, help="how the points were drawn (default: as the file says)")
    flag("--cluster", metavar="COLUMN", help="names each point's cluster, like image, if clusters were drawn")
    flag("--checkpoint", metavar="FILE", type=Path, nargs="+", help="the model: did it learn here?")
    flag = scores.add_argument
    flag("--checkpoint", metavar="FILE", type=Path, required=True, help="best_model.pth")
    flag("--images", metavar="DIR", type=Path, required=True, help="folder of tiles")
    flag("--labels", metavar="PATH", type=Path, required=True, help="masks, or .csv of image,x,y,class")
    flag("--output", metavar="FILE", type=Path, help="write the scores too, as .json")
    flag("--device", metavar="NAME", default=lc.DEVICE, help="(default: %(default)s)")
    # fmt: on
    return parser.parse_args(argv)


@lc.command_line
def main(argv: list[str]) -> None:
    args = parse(argv)
    {"sample": write_sample, "report": write_report, "score": score}[args.command](args)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
