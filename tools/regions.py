"""Finished maps on disk -> one region, whose pixels are counted, found and read by row. For assess.py.

A region of R rows and C classes: the rows of one map stand below those of another. Memory holds one row of
blocks, and for each row of the region a count of each class.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import typing
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo
import numpy as np
from scipy.spatial import cKDTree
from tqdm.auto import tqdm

import landcover_segmentation as lc


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


# ==== Reading ========================================================================================


def find_maps(paths: Sequence[Path]) -> list[Path]:
    """The maps of files and folders. Raises InputError for a path without, and for two of one name."""
    files: dict[str, Path] = {}
    for path in paths:
        found = sorted(path.glob("*_classes.*")) if path.is_dir() else [path]
        found = [file for file in found if file.suffix.lower() in (".tif", ".tiff", ".png")]
        if not found:
            raise lc.InputError(f"{path}: is no NAME_classes.tif or .png, and holds none; run map_scenes.py")
        for file in found:
            if files.setdefault(lc.folded(file.stem), file) != file:
                problem = f"has the name of {files[lc.folded(file.stem)]}, by which points are found"
                raise lc.InputError(f"{file}: {problem}; rename one")
    return list(files.values())


@contextlib.contextmanager
def open_map(path: Path) -> Iterator[typing.Any]:
    """Opens a map, to be read by rows. Raises InputError if it does not hold class ids."""
    with lc.readable(path), lc.open_raster(path) as dataset:
        from rasterio import Env

        kind = dataset.descriptions[0] or f"{dataset.count} band(s) of {dataset.dtypes[0]}"
        if dataset.dtypes != ("uint8",) or kind.startswith("confidence"):  # of map_scenes.py
            raise lc.InputError(f"{path}: holds {kind}, not class ids; name a NAME_classes.tif")
        with Env(GDAL_CACHEMAX=2**28):  # bytes; by itself GDAL takes a share of the machine's memory
            yield dataset


def read_ids(dataset: typing.Any, window: tuple) -> np.ndarray:
    """The class ids of a window of a map, (h, W); 255 where its own nodata value or mask says no data."""
    ids, flags = dataset.read(1, window=window), [flag.name for flag in dataset.mask_flag_enums[0]]
    if flags != ["all_valid"] and (flags, dataset.nodata) != (["nodata"], lc.IGNORE_INDEX):  # else ids tell
        ids[dataset.read_masks(1, window=window) == 0] = lc.IGNORE_INDEX
    return ids


def names_in(dataset: typing.Any) -> list[str]:
    """The class names of a map, in its tags or, of a PNG, in the .aux.xml beside it; none if it has none."""
    tags, beside = dataset.tags(1), Path(f"{dataset.name}.aux.xml")
    names = [tags[key] for index in range(lc.IGNORE_INDEX) if (key := f"CLASS_{index}") in tags]
    if not names and beside.exists():
        names = [category.text or "" for category in ElementTree.parse(beside).iter("Category")]
    return names


def read_map(path: Path) -> tuple[Map, list[str], np.ndarray]:
    """A map, its class names and its pixels of each class by row, (H, C). Raises InputError for other ids."""
    with open_map(path) as dataset:
        scene, names = geo.Scene(*dataset.shape, None, *geo.dataset_place(dataset)), names_in(dataset)
        counts = np.zeros((scene.height, lc.IGNORE_INDEX), np.int32)
        for top in tqdm(range(0, scene.height, 512), f"counting {path.name}", leave=False, disable=None):
            bottom = min(top + 512, scene.height)
            for row, ids in enumerate(read_ids(dataset, ((top, bottom), (0, scene.width))), top):
                counts[row] = np.bincount(ids, minlength=256)[: lc.IGNORE_INDEX]
        checkpoint = dataset.tags().get("CHECKPOINT", "unknown")
        told = geo.nodata_class(dataset, [str(at) for at in range(len(names) or lc.IGNORE_INDEX)])
    if told and counts.sum() < scene.height * scene.width:
        warnings.warn(told, stacklevel=2)
    highest = int(np.flatnonzero(counts.any(0)).max(initial=-1))
    if names and highest >= len(names):
        problem = f"holds class id {highest} of {len(names)} classes"
        raise lc.InputError(f"{path}: {problem}; map anew with map_scenes.py")
    own = Map(path, path.stem.removesuffix("_classes"), checkpoint, scene)
    return own, names, counts[:, : len(names) or highest + 1].copy()


def read_region(paths: Sequence[Path]) -> Region:
    """Counts the pixels of maps by row. Raises InputError if they have no data, or not the same classes, or
    share ground."""
    files = find_maps(paths)
    maps, names, counts = zip(*map(read_map, tqdm(files, "counting", leave=False, disable=None)), strict=True)
    for path, other in zip(files, names, strict=True):
        if other != names[0]:
            raise lc.InputError(f"{path}: has other classes than {files[0]}; assess each by itself")
    class_names = names[0] or lc.numbered_classes(max(each.shape[1] for each in counts))
    counts = [np.pad(each, [(0, 0), (0, len(class_names) - each.shape[1])]) for each in counts]
    counts, starts = np.concatenate(counts), np.cumsum([0, *(each.scene.height for each in maps)])
    if not counts.any():
        raise lc.InputError(f"{files[0]}: holds no pixel with data; map a scene that has some")
    check_no_ground_twice(maps)
    areas = [geo.pixel_hectares(each.scene) for each in maps]
    if any(each is None for each in areas):
        return Region(list(maps), starts, class_names, counts, np.ones(len(counts)), "pixels")
    return Region(list(maps), starts, class_names, counts, np.concatenate(areas), "hectares")


# ==== Ground that two maps share =====================================================================


def check_no_ground_twice(maps: Sequence[Map]) -> None:
    """Raises InputError if two maps have data on the same ground, which would be counted twice."""
    placed = [each for each in maps if each.scene.crs]
    if len(placed) < 2:
        return
    west, south, east, north = np.transpose(list(map(bounds_in_degrees, placed)))
    width = east - west + 360 * (east < west)
    ahead = (west - west[:, None]) % 360  # how far east of the west end of each that of another lies
    begins_within = ahead < width[:, None]
    near = (begins_within | begins_within.T) & (south[:, None] < north) & (north[:, None] > south)
    for one, other in np.argwhere(np.triu(near, 1)).tolist():
        if share_ground(placed[one], placed[other]):
            cure = "merge their scenes (rio merge) and map that, or leave one out"
            problem = f"has data on the ground of {placed[one].path}, which would count twice"
            raise lc.InputError(f"{placed[other].path}: {problem}; {cure}")


def bounds_in_degrees(each: Map) -> tuple[float, float, float, float]:
    """West, south, east and north of a map; west is more than east where it reaches across 180 degrees.

    Raises InputError if it lies nowhere on the globe.
    """
    from rasterio.warp import transform_bounds

    try:
        return transform_bounds(each.scene.crs, "EPSG:4326", *bounds_of(each.scene))
    except Exception as error:  # GDAL's errors have no class in common
        problem = f"{each.scene.crs.to_string()[:40]} gives it no place on the globe to compare with others"
        cure = "assess it by itself, or name the right system: rio edit-info --crs EPSG:… FILE"
        raise lc.InputError(f"{each.path}: {problem}; {cure}") from error


def bounds_of(scene: geo.Scene) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a scene, in its reference system."""
    corners = [0, scene.width, 0, scene.width], [0, 0, scene.height, scene.height]
    x, y = geo.on_ground(scene.transform, *map(np.array, corners))
    return x.min(), y.min(), x.max(), y.max()


def share_ground(one: Map, other: Map) -> bool:
    """Whether both maps have data at one of 32 x 32 places of the ground on which they overlap.

    An overlap narrower than half a pixel is none: tiles are cut and warped with less care than that.
    """
    from rasterio.warp import transform, transform_bounds

    there = transform_bounds(other.scene.crs, one.scene.crs, *bounds_of(other.scene))
    here = bounds_of(one.scene)
    if one.scene.crs.is_geographic:
        there = turned_to(here, *there)
    low, high = np.reshape([here, there], (2, 2, 2)).transpose(1, 0, 2)
    low, high = low.max(0), high.min(0)
    pixel = np.sqrt(abs(one.scene.transform.determinant))
    if (high - low < pixel / 2).any():
        return False
    x, y = (grid.ravel() for grid in np.meshgrid(*np.linspace(low, high, 65)[1::2].T))
    places = map(np.array, transform(one.scene.crs, other.scene.crs, x, y))
    (on_one, at_one), (on_other, at_other) = pixels_of(one.scene, x, y), pixels_of(other.scene, *places)
    both = on_one & on_other
    return bool((has_data(one, at_one[:, both]) & has_data(other, at_other[:, both])).any())


def turned_to(here: Sequence[float], west: float, south: float, east: float, north: float) -> tuple:
    """Bounds in degrees, turned once round the globe, if need be, to where they may meet others."""
    width = east - west + 360 * (east < west)
    west = here[0] + (west - here[0]) % 360
    west -= 360 * (west >= here[2])
    return west, south, west + width, north


def has_data(each: Map, pixels: np.ndarray) -> np.ndarray:
    """Whether a map has data at places in it, (2, n) columns and rows."""
    with open_map(each.path) as dataset:
        windows = (((y, y + 1), (x, x + 1)) for x, y in pixels.astype(int).T.tolist())
        ids = [read_ids(dataset, window).item() for window in windows]
    return np.array(ids) != lc.IGNORE_INDEX


# ==== Pixels =========================================================================================


def visit_rows(region: Region, rows: Iterable[int]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields row of the region, index of its map and class ids (W,) for the given rows, in order."""
    for index, own in itertools.groupby(sorted(set(rows)), partial(map_of, region)):
        with open_map(region.maps[index].path) as dataset:
            for row in own:
                at = int(row - region.starts[index])
                yield row, index, read_ids(dataset, ((at, at + 1), (0, dataset.width)))[0]


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


def pixels_of(scene: geo.Scene, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which places, in a scene's reference system, lie on it, and where, as columns and rows, (2, n).

    Longitudes that differ by 360 are one.
    """
    if scene.crs.is_geographic:
        left = bounds_of(scene)[0]
        x = left + (x - left) % 360
    places = np.array(geo.on_ground(~scene.transform, x, y))
    size = np.array([[scene.width], [scene.height]])
    return ((places >= 0) & (places < size)).all(0), places


# ==== Tiles that a model learnt from =================================================================


def learnt_from(
    region: Region, rows: np.ndarray, columns: np.ndarray, learnt_pixels: dict, folder: Path
) -> tuple[np.ndarray, list[str]]:
    """Whether a model learnt from a tile on which a pixel of the region, (n,), lies, and from this very
    pixel, (2, n); and the tiles of which that is unknown.

    learnt_pixels: (N, 2) row and column in the tile, or None for nearly all, by file name in the folder.
    """
    index, found, strange = map_of(region, rows), np.zeros((2, len(rows)), bool), []
    own = index, rows - region.starts[index], columns
    in_system = cache(partial(middles_in, region, *own))
    for name, learnt in tqdm(learnt_pixels.items(), "comparing tiles", leave=False, disable=None):
        if (place := place_on_tile(folder / name, region, *own, in_system)) is None:
            strange.append(name)
            continue
        inside, at, width = place
        same = inside.copy()
        if learnt is not None:
            middles = np.asarray(learnt)[:, ::-1].reshape(-1, 2) + 0.5
            distances, _ = cKDTree(middles).query(at[:, inside].T, p=np.inf)
            same[inside] = distances <= np.maximum(1, width[inside]) / 2
        found |= inside, same
    return found, strange


def middles_in(region: Region, index: np.ndarray, rows: np.ndarray, columns: np.ndarray, system: str):
    """The middles of pixels, and of those to the right of them, in a reference system, (2, n) each."""
    return [ground_of(region, index, rows, columns + step, system) for step in (0, 1)]


def place_on_tile(
    tile: Path, region: Region, index: np.ndarray, rows: np.ndarray, columns: np.ndarray, in_system
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Which points lie on a tile, (n,), where, (2, n) x and y in its pixels, and how many of these a pixel of
    the map is wide there, (n,). None: unknown.

    By the ground if tile and maps tell theirs; else by name: a scene, or one that cut_tiles.py cut from it.
    """
    size, corner = None, (0, 0)
    if tile.is_file():
        with geo.open_unscaled(tile) as scene:
            if scene.crs and all(each.scene.crs for each in region.maps):
                middles, beside = in_system(scene.crs.to_wkt())
                (inside, at), (_, to) = (pixels_of(scene, *places) for places in (middles, beside))
                return inside, at, np.hypot(*(to - at))
            size = np.array([[scene.width], [scene.height]])
    names = [lc.folded(each.name) for each in region.maps]
    name = lc.folded(tile.stem)
    if name not in names and size is not None and (cut := re.fullmatch(r"(.+)_r(\d{3,})_c(\d{3,})", name)):
        name, corner = cut[1], (int(cut[3]) * size[0, 0], int(cut[2]) * size[1, 0])
    if name not in names:
        return None
    at = np.stack([columns, rows]) + 0.5 - np.reshape(corner, (2, 1))
    inside = (index == names.index(name)) & (at > 0).all(0)
    if size is not None:
        inside &= (at < size).all(0)
    return inside, at, np.ones(len(rows))
