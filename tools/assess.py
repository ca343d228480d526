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
narrow. In simulations it held the area of a class of 1% in 61 to 94 of 100 samples, `interval` in 93 to 97.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
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
import labels
import numpy as np
from scipy.special import betaincinv, stdtrit
from tqdm.auto import tqdm

import landcover_segmentation as lc

Pair = tuple[np.ndarray, np.ndarray]

Z95 = 1.959964  # the normal quantile; the papers round it to 1.96
FLOOR = 50  # points of a rare class, of the 50 to 100 that Olofsson et al. 2014 advise
COLUMNS = ("image", "x", "y", "class", "stratum", "inclusion_probability", "stratum_share", "design")
DESIGNS = ("stratified", "simple", "systematic")
ESTIMATE = ("estimate", "standard_error", "low", "high")
METHODS = {
    "stratified": "drawn at random in strata (Olofsson et al. 2014; Stehman 2014)",
    "simple": "drawn at random, put into strata by the map's classes afterwards (Card 1982)",
    "systematic": "on a grid, taken for points at random: where neighbours are alike, the errors are smaller",
    "cluster": "in clusters drawn at random, by the ratio of cluster totals (Cochran 1977)",
}

# =====================================================================================================
# Estimators. counts (..., H, C, C): points by stratum, map class and reference class; weights (H,): each
# stratum's share of the region, summing to 1. Leading axes are samples, of which a simulation has many.
# =====================================================================================================


def measures(num_classes: int) -> dict[tuple[str, int | None], Pair]:
    """What is estimated, as a ratio of sums over pixels: (measure, class) -> y, x, both (C, C).

    y and x are 0, 1 or 2 by map class (row) and reference class (column), as in Stehman 2014
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


def ratio(counts: np.ndarray, weights: np.ndarray, y: np.ndarray, x: np.ndarray, pixels=None) -> Pair:
    """Estimates sum(y) / sum(x) over a region and its standard error, both (...), NaN where x is 0.

    The combined ratio estimator of stratified random sampling (Stehman 2014). If the strata are the map
    classes, it is that of Olofsson et al. 2014 (https://doi.org/10.1016/j.rse.2014.02.015), with n - 1 and
    row totals, and of Card 1982 for post-stratified simple random samples.
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


def interval(counts: np.ndarray, weights: np.ndarray, y: np.ndarray, x: np.ndarray) -> Pair:
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

    counts (..., K, C, C): points by cluster. Ratio of cluster totals (Cochran 1977, Sampling Techniques).
    The interval is Wilson's with Student's quantile of K - 1, and as many points as would tell as much if
    they were independent (Franco et al. 2019, https://pmc.ncbi.nlm.nih.gov/articles/PMC6690503): at most
    all, and one per cluster where the clusters show no spread.
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
    """A map of class ids on disk, NAME_classes.tif or .png."""

    path: Path
    name: str  # the NAME, which is that of its scene
    checkpoint: str  # "FILE sha256:…" of the model that made it, if it says so
    scene: geo.Scene  # its size and place


class Region(typing.NamedTuple):
    """Maps as one region of R rows, those of one map below those of another, and C classes."""

    maps: list[Map]
    starts: np.ndarray  # (M + 1,) the first row of each map, and R
    class_names: list[str]
    counts: np.ndarray  # (R, C) pixels
    areas: np.ndarray  # (R,) of a pixel in each row, in units
    unit: str  # hectares; pixels where a map has no place on the ground


def find_maps(paths: Sequence[Path]) -> list[Path]:
    """The maps of files and folders. Raises InputError for a path without, and for two of one name."""
    files: dict[str, Path] = {}
    for path in paths:
        found = sorted(path.glob("*_classes.*")) if path.is_dir() else [path]
        found = [file for file in found if file.suffix.lower() in (".tif", ".tiff", ".png")]
        if not found:
            raise lc.InputError(f"{path}: is no NAME_classes.tif or .png, and holds none; run map_scenes.py")
        for file in found:
            if files.setdefault(file.stem, file) != file:
                problem = f"has the name of {files[file.stem]}, by which points are found"
                raise lc.InputError(f"{file}: {problem}; rename one")
    return list(files.values())


@contextlib.contextmanager
def open_map(path: Path) -> Iterator[typing.Any]:
    """Opens a map, to be read by rows. Raises InputError if it does not hold class ids."""
    with lc.readable(path), lc.open_raster(path) as dataset:
        from rasterio import Env

        if dataset.dtypes != ("uint8",):
            kind = f"{dataset.count} band(s) of {dataset.dtypes[0]}"
            raise lc.InputError(f"{path}: holds {kind}, not class ids; name a NAME_classes.tif")
        with Env(GDAL_CACHEMAX=2**28):  # bytes; by itself GDAL takes a share of the machine's memory
            yield dataset


def names_in(dataset: typing.Any) -> list[str]:
    """The class names of a map, in its tags or, of a PNG, in the .aux.xml beside it; none if it has none."""
    tags, beside = dataset.tags(1), Path(f"{dataset.name}.aux.xml")
    names = [tags[key] for index in range(lc.IGNORE_INDEX) if (key := f"CLASS_{index}") in tags]
    if not names and beside.exists():
        names = [category.text or "" for category in ElementTree.parse(beside).iter("Category")]
    return names


def read_region(paths: Sequence[Path]) -> Region:
    """Counts the pixels of maps by row. Raises InputError if their classes differ, or are not named."""
    maps, names, rows, areas, files = [], [], [], [], find_maps(paths)
    for path in files:
        with open_map(path) as dataset:
            scene = geo.Scene(*dataset.shape, None, *geo.dataset_place(dataset))
            checkpoint = dataset.tags().get("CHECKPOINT", "unknown")
            maps.append(Map(path, path.stem.removesuffix("_classes"), checkpoint, scene))
            names.append(names_in(dataset))
            areas.append(geo.pixel_hectares(scene))
            tops = range(0, scene.height, 512)
            for top in tqdm(tops, desc=f"counting {path.name}", leave=False, disable=None):
                window = (top, min(top + 512, scene.height)), (0, scene.width)
                block = dataset.read(1, window=window)
                rows += [np.bincount(row, minlength=256)[: lc.IGNORE_INDEX] for row in block]
        if names[-1] != names[0]:
            raise lc.InputError(f"{path}: has other classes than {files[0]}; assess each by itself")
    counts, starts = np.array(rows, np.int32), np.cumsum([0, *(each.scene.height for each in maps)])
    highest = int(np.flatnonzero(counts.any(0))[-1]) if counts.any() else -1
    names = names[0] or lc.numbered_classes(highest + 1)
    if not 0 <= highest < len(names):
        problem = f"holds class id {highest} of {len(names)} classes" if names else "holds no pixel with data"
        raise lc.InputError(f"{files[0]}: {problem}; map anew with map_scenes.py")
    placed = all(each is not None for each in areas)
    areas = np.concatenate(areas) if placed else np.ones(len(counts))
    return Region(maps, starts, names, counts[:, : len(names)], areas, "hectares" if placed else "pixels")


def visit_rows(region: Region, rows: Iterable[int]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields row of the region, index of its map and class ids (W,) for the given rows, in order."""
    for index, own in itertools.groupby(sorted(set(rows)), partial(map_of, region)):
        with open_map(region.maps[index].path) as dataset:
            for row in own:
                at = int(row - region.starts[index])
                yield row, index, dataset.read(1, window=((at, at + 1), (0, dataset.width)))[0]


def map_of(region: Region, rows: np.ndarray) -> np.ndarray:
    """The index of the map in which rows of the region lie."""
    return np.searchsorted(region.starts, rows, side="right") - 1


def ground_of(region: Region, index: np.ndarray, rows: np.ndarray, columns: np.ndarray, crs) -> np.ndarray:
    """The middles of pixels, (n,) index of their map, row and column in it, in a reference system, (2, n)."""
    from rasterio.warp import transform

    places = np.zeros((2, len(index)))
    for at in np.unique(index):
        here, scene = index == at, region.maps[at].scene
        middles = geo.on_ground(scene.transform, columns[here] + 0.5, rows[here] + 0.5)
        places[:, here] = transform(scene.crs, crs, *middles)
    return places


def pixels_of(scene: geo.Scene, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Which places, in a scene's reference system, lie on it, and their rows and columns."""
    places = np.nan_to_num(geo.on_ground(~scene.transform, x, y), nan=-1, posinf=-1, neginf=-1)
    columns, rows = np.floor(places).astype(int)
    return (rows >= 0) & (rows < scene.height) & (columns >= 0) & (columns < scene.width), rows, columns


# =====================================================================================================
# sample: a map -> pixels drawn at random
# =====================================================================================================


def draw(counts: np.ndarray, areas: np.ndarray, size: int, rng: lc.Rng) -> list[tuple[int, int]]:
    """Draws `size` different pixels of a stratum evenly on the ground: (row, the how manieth in that row).

    counts, areas (R,): pixels of the stratum in each row, and the area of each. All, if there are fewer.
    """
    if size >= counts.sum():
        return [(int(row), at) for row in np.flatnonzero(counts) for at in range(counts[row])]
    chances = counts * areas / (counts * areas).sum()
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < size:
        rows = rng.choice(len(counts), size - len(drawn), p=chances)
        drawn |= dict.fromkeys(zip(rows.tolist(), rng.integers(counts[rows]).tolist(), strict=True))
    return list(drawn)


def draw_grid(scenes: Iterable[geo.Scene], areas: np.ndarray, step: float, rng: lc.Rng) -> list[tuple]:
    """Draws a square grid with a random start on each scene: (row of all scenes, column).

    step: in pixels of area 1; areas (R,): of a pixel in each row, the smaller, the farther apart are rows.
    """
    nodes, first = [], 0
    for scene in scenes:
        down = np.cumsum(areas[first : first + scene.height])
        rows = np.searchsorted(down, np.arange(rng.random() * step, down[-1], step), side="right")
        columns = np.arange(rng.random() * step, scene.width, step).astype(int)
        nodes += [(first + int(row), int(column)) for row in np.unique(rows) for column in columns]
        first += scene.height
    return nodes


def draw_sample(args: argparse.Namespace, region: Region) -> list[dict]:
    """Draws a reference sample: rows of COLUMNS, in random order."""
    counts, rng = region.counts, np.random.default_rng(args.seed)
    areas = region.areas / region.areas.max()
    present = np.flatnonzero(counts.any(0))
    size, deviations = wanted_size(args, region, present)
    picks: dict[int, list] = {}  # by row: place in it, class of the map, and what the file tells
    strata = [("all", None, counts.sum(1))]
    if args.design == "stratified":
        strata = [(region.class_names[at], at, counts[:, at]) for at in present]
    totals = np.array([areas @ own for _, _, own in strata])
    shares = totals / totals.sum()
    numbers = [size] if len(strata) == 1 else allocate(size, shares, args.allocation, deviations)
    for (name, class_id, own), share, total, number in zip(strata, shares, totals, numbers, strict=True):
        if args.design == "systematic":
            step = math.sqrt(max(1, total / number))
            drawn = draw_grid((each.scene for each in region.maps), areas, step, rng)
            chances = areas / step**2
        else:
            drawn = draw(own, areas, number, rng)
            chances = len(drawn) * areas / total
        for row, at in drawn:
            told = name, f"{min(1.0, chances[row]):.6g}", f"{share:.10g}", args.design
            picks.setdefault(row, []).append((at, class_id, told))
    rows = []
    for row, index, ids in visit_rows(region, picks):
        for at, class_id, told in picks[row]:
            inside = np.flatnonzero(ids != lc.IGNORE_INDEX if class_id is None else ids == class_id)
            column = at if args.design == "systematic" else int(inside[at])
            if ids[column] != lc.IGNORE_INDEX:
                pixel = region.maps[index].name, column, int(row - region.starts[index]), ""
                rows.append(dict(zip(COLUMNS, pixel + told, strict=True)))
    return [rows[at] for at in rng.permutation(len(rows))]


def wanted_size(args: argparse.Namespace, region: Region, present: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of points, and the guessed standard deviation in each class of the map, (H,).

    What a map class holds of another is guessed as an equal part of its errors.
    """
    names, hectares = region.class_names, (region.areas @ region.counts)[present]
    guesses = np.array(args.users_accuracy or [0.8] * len(names))
    if len(guesses) != len(names) or not ((guesses > 0) & (guesses < 1)).all():
        lc.complain(f"--users-accuracy: give {len(names)} numbers between 0 and 1: {', '.join(names)}")
    shares = guesses[present]
    if args.of:
        target = lc.find_class(args.of, names, "--of")
        shares = np.where(present == target, shares, (1 - shares) / max(1, len(names) - 1))
    size, pixels = args.size, int(region.counts.sum())
    if args.half_width:
        size = sample_size(hectares / hectares.sum(), shares, args.half_width, pixels)
    if size < 2 * len(present):
        lc.complain(f"--size {size}: two points in each of {len(present)} classes are the least")
    return min(size, pixels), np.sqrt(shares * (1 - shares))


def write_sample(args: argparse.Namespace) -> None:
    """Writes the CSV for annotate.py and, where the maps have a place, a GeoPackage for QGIS."""
    if args.output.suffix.lower() != ".csv":
        raise lc.InputError(f"--output {args.output}: must be a file NAME.csv")
    labels.check_no_label_lost(args.output)
    region = read_region(args.map)
    rows, written = draw_sample(args, region), [args.output]
    lc.prepare_output(args.output.parent)
    with contextlib.ExitStack() as results:
        lc.write_history(results.enter_context(lc.atomic_write(args.output)), rows)
        if all(each.scene.crs for each in region.maps):
            written.append(args.output.with_suffix(".gpkg"))
            write_geopackage(results.enter_context(lc.atomic_write(written[-1])), rows, region)
    print("wrote " + ", ".join(map(str, written)))
    found = Counter(row["stratum"] for row in rows)
    print(f"{len(rows):,} points, {args.design}: {lc.format_counts(found)}")


def write_geopackage(path: Path, rows: list[dict], region: Region) -> None:
    """Writes the middle of each pixel, in the reference system of the first map."""
    geopandas, crs = import_geopandas(path), region.maps[0].scene.crs
    names = [each.name for each in region.maps]
    pixels = np.array([(names.index(row["image"]), row["y"], row["x"]) for row in rows]).T
    places = geopandas.points_from_xy(*ground_of(region, *pixels, crs))
    points = geopandas.GeoDataFrame(rows, geometry=places, crs=crs)
    points.to_file(path, driver="GPKG", layer="reference", engine="pyogrio")


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
    """The n points of a reference sample that have a class."""

    where: list[str]  # line or feature, for messages
    rows: np.ndarray  # (n,) of the region
    columns: np.ndarray
    mapped: np.ndarray  # the map's class
    fields: list[dict[str, str]]  # what else the file tells

    def field(self, name: str) -> list[str]:
        return [fields.get(name, "") for fields in self.fields]


def read_reference(path: Path, region: Region) -> tuple[Reference, int]:
    """Reads a CSV of image,x,y,class, or a vector file with a field class; counts those without a class too.

    Raises InputError for points where the map has no data, two on one pixel, and such that were chosen where
    the model is least sure.
    """
    drawn = list((csv_places if path.suffix.lower() == ".csv" else vector_places)(path, region))
    labelled = [point for point in drawn if point[-1]["class"]]
    if len(labelled) < 2:
        raise lc.InputError(f"{path}: too few points with a class; label them first")
    where, rows, columns, fields = zip(*labelled, strict=True)
    rows, columns, mapped = np.array(rows), np.array(columns), np.full(len(rows), lc.IGNORE_INDEX)
    for row, _, ids in visit_rows(region, rows[rows >= 0].tolist()):
        here = rows == row
        mapped[here] = ids[columns[here]]
    points = Reference(where, rows, columns, mapped, fields)
    _, first, again = np.unique(rows * 2**32 + columns, return_index=True, return_inverse=True)
    for wrong, problem in (
        (rows < 0, "lies on no map; name the map that was sampled with --map"),
        (mapped == lc.IGNORE_INDEX, "lies where the map has no data; remove it, if it was not drawn from it"),
        (first[again] != np.arange(len(rows)), "is a pixel that stands twice; keep one of them"),
        (np.array(points.field("uncertainty")) != "", "was chosen where the model is least sure, not at "
         "random, and says nothing of areas; draw points with assess.py sample"),
    ):  # fmt: skip
        if wrong.any():
            more = f" ({wrong.sum():,} points)" if wrong.sum() > 1 else ""
            raise lc.InputError(f"{path}, {where[int(wrong.argmax())]}{more}: {problem}")
    return points, len(drawn)


def csv_places(path: Path, region: Region) -> Iterator[tuple[str, int, int, dict]]:
    """Yields line, row of the region, column and fields of each point; the row is -1 off the maps."""
    find = labels.image_finder({each.name: each.path for each in region.maps})
    index = {each.name: at for at, each in enumerate(region.maps)}
    for line, fields in lc.csv_rows(path, COLUMNS[:4]):
        x, y = (lc.pixel(fields[axis], f"{path}, line {line}: {axis}") for axis in "xy")
        at = index.get(find(fields["image"]), -1)
        scene = region.maps[at].scene
        inside = at >= 0 and 0 <= x < scene.width and 0 <= y < scene.height
        yield f"line {line}", int(region.starts[at]) + y if inside else -1, x, fields


def vector_places(path: Path, region: Region) -> Iterator[tuple[str, int, int, dict]]:
    """Yields the same of a vector file; a point on several maps belongs to the first."""
    geopandas = import_geopandas(path)
    with lc.readable(path):
        table = geopandas.read_file(path, engine="pyogrio", fid_as_index=True)
    table.columns = [name.lower() for name in table.columns]
    if "class" not in table or table.crs is None or (table.geom_type != "Point").any():
        raise lc.InputError(f"{path}: must hold points with a field 'class' and a reference system (CRS)")
    rows, columns = np.full((2, len(table)), -1)
    for each, start in zip(region.maps, region.starts, strict=False):
        if each.scene.crs is None:
            raise lc.InputError(f"{each.path}: has no georeference, which points in {path} need; give a CSV")
        there = table.geometry.to_crs(each.scene.crs.to_wkt())
        inside, own_rows, own_columns = pixels_of(each.scene, there.x.to_numpy(), there.y.to_numpy())
        fresh = inside & (rows < 0)
        rows[fresh], columns[fresh] = own_rows[fresh] + start, own_columns[fresh]
    fields = table.drop(columns="geometry").astype(object)
    fields = fields.where(fields.notna(), "").astype(str).to_dict("records")
    where = [f"feature {at}" for at in table.index]
    yield from zip(where, rows.tolist(), columns.tolist(), fields, strict=True)


# ---- Points that a model learnt from say nothing of its errors


def check_not_learnt(path: Path, points: Reference, region: Region) -> list[str]:
    """Raises InputError if a checkpoint learnt from some of the points; notes what else is to be known."""
    checkpoint, digest = lc.load_checkpoint(path), hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    others = {each.checkpoint for each in region.maps if digest not in each.checkpoint} - {"unknown"}
    notes = [f"{path} did not make the map: {other} did" for other in sorted(others)]
    if (pixels := checkpoint.get("labelled_pixels")) is None:
        return [*notes, f"{path} does not say where it learnt, perhaps from these very points"]
    folder = Path(checkpoint.get("config", {}).get("train_image_dir", ""))
    near, same = learnt_from(pixels, folder, points, region)
    if same.any():
        problem = f"learnt from {same.sum():,} of the {len(same):,} reference points"
        raise lc.InputError(f"{path}: {problem}; remove these pixels, and draw others")
    if near.any():
        problem = f"{near.sum():,} of {len(near):,} points lie in tiles from which {path} learnt"
        notes.append(f"{problem}: its errors there may be fewer than elsewhere")
    return notes


def learnt_from(pixels: dict, folder: Path, points: Reference, region: Region) -> np.ndarray:
    """Whether a model learnt from the tile of each point, and from its very pixel: (2, n).

    pixels: (row, column) learnt from, (N, 2), or None for all, by file name of the tile. Tiles of the folder
    that have a place are compared on the ground, others by name.
    """
    index, found = map_of(region, points.rows), np.zeros((2, len(points.rows)), bool)
    names = np.array([lc.folded(each.name) for each in region.maps])[index]
    own = points.rows - region.starts[index], points.columns
    for name, learnt in pixels.items():
        here, *at = names == lc.folded(Path(name).stem), *own
        if all(each.scene.crs for each in region.maps) and (folder / name).is_file():
            with geo.open_unscaled(folder / name) as tile:
                if tile.crs:
                    here, *at = pixels_of(tile, *ground_of(region, index, *own, tile.crs))
        same = learnt is None or (np.stack(at, 1)[:, None] == np.asarray(learnt)).all(-1).any(-1)
        found |= here, here & same
    return found


# ---- Design and estimates


def find_design(args: argparse.Namespace, points: Reference) -> str:
    """How the points were drawn. Raises InputError where neither the flags nor the file tell."""
    told = set(points.field("design"))
    design = "cluster" if args.cluster else args.design or (told.pop() if len(told) == 1 else "")
    if design not in METHODS:
        cure = f"give --design {', '.join(DESIGNS)}, or --cluster COLUMN, if they were drawn at random"
        raise lc.InputError(f"{args.reference}: does not tell how its points were drawn; {cure}")
    return design


def find_strata(
    points: Reference, classes: dict[str, float], design: str, path: Path
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The stratum of each point, (n,), each stratum's share of the region, (H,), and notes.

    classes: the share of each of the map's classes. These are the strata, unless the file tells others with
    their shares. Points drawn without strata are put into them afterwards, if each gets two or more.
    """
    told, strata = classes, points.mapped
    if design == "stratified" and all(points.field("stratum_share")):
        told = dict(zip(points.field("stratum"), map(float, points.field("stratum_share")), strict=True))
        strata = np.array([list(told).index(name) for name in points.field("stratum")])
    shares = np.array(list(told.values()))
    few = (shares > 0) & (np.bincount(strata, minlength=len(shares)) < 2)
    names = ", ".join(np.array(list(told))[few])
    if few.any() and design != "stratified":
        note = f"fewer than two points on {names}: all are taken as drawn, not put into strata afterwards"
        return np.zeros(len(strata), int), np.ones(1), [note]
    if few.any():
        cure = "two in each are the least: draw or label more points"
        raise lc.InputError(f"{path}: too few points with a class in {names}; {cure}")
    if abs(shares.sum() - 1) > 1e-4:
        problem = f"the strata with points are {shares.sum():.4f} of the region, not all of it"
        raise lc.InputError(f"{path}: {problem}; label points in each stratum")
    used = np.flatnonzero(shares)
    return np.searchsorted(used, strata), shares[used], []


def find_clusters(points: Reference, column: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each point, (n,), and how many pixels it stands for, (n,), if the file tells, else 1.

    Raises InputError without that column, for a single cluster, and for clusters in strata.
    """
    names = points.field(column.lower())
    if not all(names) or len(set(names)) < 2:
        raise lc.InputError(f"{path}: column {column} must name two clusters or more, one in each row")
    if len(set(points.field("stratum"))) > 1:
        problem = "clusters within strata have no estimator here"
        raise lc.InputError(f"{path}: {problem}; leave --cluster out, or draw clusters without strata")
    chances = np.array([float(text or 1) for text in points.field("inclusion_probability")])
    return np.unique(names, return_inverse=True)[1], 1 / chances


def assess(args: argparse.Namespace) -> dict:
    """All that the report says, as plain values."""
    region, path = read_region(args.map), args.reference
    (points, drawn), names = read_reference(path, region), region.class_names
    texts = zip(points.field("class"), points.where, strict=True)
    found = np.array([lc.find_class(text, names, f"{path}, {where}") for text, where in texts])
    design, areas = find_design(args, points), region.areas @ region.counts
    notes = [note for file in args.checkpoint or () for note in check_not_learnt(file, points, region)]
    if missing := drawn - len(found):
        left_out = f"{missing:,} of {drawn:,} points have no class and are left out"
        notes.append(f"{left_out}, as if chance had chosen them")
    cells, ratios = (points.mapped, found), measures(len(names))
    if design == "cluster":
        clusters, stands_for = find_clusters(points, args.cluster, path)
        counts = tally(clusters, *cells, len(names), stands_for / stands_for.mean())
        shares = counts.sum(0) / counts.sum()
        results = {name: cluster_ratio(counts, *yx) for name, yx in ratios.items()}
    else:
        classes = dict(zip(names, areas / areas.sum(), strict=True))
        strata, weights, more = find_strata(points, classes, design, path)
        counts = tally(strata, *cells, len(names))
        shares = np.einsum("h,hij->ij", weights / counts.sum((1, 2)), counts)
        given = {name: (counts, weights, *yx) for name, yx in ratios.items()}
        results = {name: (*ratio(*values), *interval(*values)) for name, values in given.items()}
        notes += more
    notes += [f"{name} is nowhere on the map" for name, area in zip(names, areas, strict=True) if not area]
    lacking = [name for index, name in enumerate(names) if index not in found]
    notes += [f"{name} was found at no point: of its area only the upper limit tells" for name in lacking]
    return {
        "reference": str(path), "design": design, "points": len(found), "drawn": drawn, "notes": notes,
        "maps": [str(each.path) for each in region.maps],
        "made_by": sorted({each.checkpoint for each in region.maps}),
        "unit": region.unit, "total": areas.sum(), "classes": names,
        "counts": tally(np.zeros_like(found), *cells, len(names))[0].astype(int).tolist(),
        "shares": shares.tolist(), "estimates": as_rows(results, names, areas),
    }  # fmt: skip


def tally(groups: np.ndarray, mapped: np.ndarray, found: np.ndarray, num_classes: int, each=1) -> np.ndarray:
    """Points by stratum or cluster, map class and reference class, (H, C, C); each: what one counts."""
    counts = np.zeros((groups.max() + 1, num_classes, num_classes))
    np.add.at(counts, (groups, mapped, found), each)
    return counts


def as_rows(results: dict, names: list[str], areas: np.ndarray) -> list[dict]:
    """The estimates as rows of a table; of areas with what the map shows, as shares too. NaN becomes None."""
    rows = []
    for (measure, at), values in results.items():
        plain = [None if np.isnan(value) else float(value) for value in values]
        row = {"measure": measure, "class": "" if at is None else names[at], "mapped": None}
        row |= dict(zip(ESTIMATE, plain, strict=True))
        rows.append(row)
        if measure == "area share":
            row["mapped"] = float(areas[at] / areas.sum())
            numbers = {key: value * float(areas.sum()) for key, value in row.items() if type(value) is float}
            rows.append({**row, "measure": "area", **numbers})
    return rows


# ---- Files

INTERVALS = """Intervals hold the truth in about 95 of 100 samples: Jeffreys' of each stratum, their reaches
squared and added; of clusters, Wilson's with Student's quantile. The papers' symmetric ones, estimate ±
1.959964 standard errors, are too narrow for rare classes. There is no finite population correction in either.
"""


def write_report(args: argparse.Namespace) -> None:
    result = assess(args)
    lc.prepare_output(args.output)
    paths = [args.output / name for name in ("report.md", "report.json", "estimates.csv", "areas.png")]
    with contextlib.ExitStack() as files:
        page, record, numbers, picture = (files.enter_context(lc.atomic_write(path)) for path in paths)
        page.write_text(markdown(result), encoding="utf-8")
        record.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        lc.write_history(numbers, result["estimates"])
        draw_areas(picture, result)
    print("".join(f"note: {note}\n" for note in result["notes"]), end="")
    print(f"overall accuracy {in_words(rows_of(result, 'overall accuracy')[''])}")
    print(*area_table(result), "wrote " + ", ".join(map(str, paths)), sep="\n")


def rows_of(result: dict, measure: str) -> dict[str, dict]:
    """The rows of a measure, by class."""
    return {row["class"]: row for row in result["estimates"] if row["measure"] == measure}


def markdown(result: dict) -> str:
    """The page that a person reads."""
    names, maps, kinds = (
        result["classes"],
        result["maps"],
        ("user's accuracy", "producer's accuracy", "F1", "IoU"),
    )
    listed = ", ".join(maps) if len(maps) < 4 else f"{len(maps)} of them, {maps[0]} to {maps[-1]}"
    lines = ["# Areas and accuracy", "", f"Maps: {listed}. Made by: {', '.join(result['made_by'])}.", ""]
    lines += [
        f"Reference: {result['reference']}, {result['points']:,} points {METHODS[result['design']]}.",
        "",
    ]
    lines += [*(f"- {note}" for note in result["notes"]), "", "## Areas", "", *area_table(result), ""]
    lines += ["![Mapped and adjusted areas](areas.png)", "", "## Accuracy", ""]
    lines += ["Estimate ± standard error (95% interval).", ""]
    lines += [f"Overall accuracy: {in_words(rows_of(result, 'overall accuracy')[''])}", ""]
    each = [rows_of(result, kind) for kind in kinds]
    lines += table(["class", *kinds], [[name, *(in_words(kind[name]) for kind in each)] for name in names])
    for title, key, form in (("Points", "counts", "d"), ("Shares of the region", "shares", ".4f")):
        cells = ([f"{value:{form}}" for value in row] for row in result[key])
        head = ["map \\ reference", *names]
        lines += ["", f"## {title}, the map's classes in rows, the reference's in columns", ""]
        lines += table(head, [[name, *row] for name, row in zip(names, cells, strict=True)])
    return "\n".join([*lines, "", INTERVALS])


def area_table(result: dict) -> list[str]:
    head = ["class", f"mapped, {result['unit']}", "adjusted", "standard error", "95% interval"]
    digits, cells = max(0, 4 - int(np.log10(result["total"]))), []
    for name, row in rows_of(result, "area").items():
        numbers = [f"{row[key]:,.{digits}f}" for key in ("mapped", *ESTIMATE)]
        cells.append([name, *numbers[:3], " to ".join(numbers[3:])])
    return table(head, [*cells, ["total", *[f"{result['total']:,.{digits}f}"] * 2, "", ""]])


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
    figure = Figure(figsize=(7, 1.4 + 0.6 * len(names)), layout="constrained")
    axes, at = figure.subplots(), np.arange(len(names))
    axes.barh(at - 0.2, mapped, 0.38, color="0.75", label="pixels of the map, counted")
    label = f"adjusted by {result['points']:,} reference points, with 95% interval"
    axes.barh(at + 0.2, values, 0.38, color="#3b78d8", label=label)
    axes.errorbar(values, at + 0.2, xerr=[values - low, high - values], fmt="none", ecolor="black", capsize=3)
    axes.set_yticks(at, names)
    axes.invert_yaxis()
    axes.set_xlabel(result["unit"])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False)
    figure.savefig(path, dpi=110, format="png")


# =====================================================================================================
# score: a trained model on other masks or points
# =====================================================================================================


def score(args: argparse.Namespace) -> None:
    """Prints the scores of a checkpoint on labelled tiles, as training does for its val tiles."""
    model, pixels = (
        lc.load_model(args.checkpoint, args.device),
        lc.load_checkpoint(args.checkpoint).get("labelled_pixels"),
    )
    classes = {"num_classes": model.num_classes, "class_names": model.class_names}
    tiles = lc.LandCoverDataset(args.images, args.labels, **classes, **model.reading)
    found = lc.check_dataset(tiles, model.num_classes, "tiles")
    known = {lc.folded(image.stem) for image, _ in tiles.tiles}
    same = [name for name in pixels or () if lc.folded(Path(name).stem) in known]
    if same:
        problem = f"{len(same):,} of {len(known):,} tiles have names of tiles that it learnt from"
        print(f"note: {problem}, as {same[0]}")
    elif pixels is None:
        print(f"note: {args.checkpoint} does not say where it learnt, perhaps on these very tiles")
    device, judge = next(model.parameters()).device, lc.PointScores if found.sparse else lc.Scores
    loader = lc.make_loader(tiles, lc.batches_of_one_size(found.sizes, 4, 4 * 512**2), None, device)
    how = {"judge": judge, "dtype": lc.pick_precision("auto", device), "progress": "scoring"}
    scores = lc.validate(model, loader, model.num_classes, device, **how)
    print(judge.describe(scores.as_dict()))
    for name, value in zip(model.class_names, scores.per_class, strict=True):
        shown = "absent" if value is None else f"{value:.4f}"
        print(f"  {name:{max(map(len, model.class_names))}}  {judge.each_label} {shown}")


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
    flag = draws.add_argument
    flag("--output", metavar="FILE", type=Path, default=Path("reference.csv"),
         help="the points, .csv; beside it a .gpkg for QGIS (default: %(default)s)")
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
