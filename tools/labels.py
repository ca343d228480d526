"""Labels of any kind -> points.csv or masks, which training reads and a person can open.

    python tools/labels.py --labels field.gpkg --images dataset/train/images --output dataset/train/points.csv
    python tools/labels.py --labels plots.shp --field cover --classes legend.csv --images tiles --output masks

--labels is a file, or a folder of them:

- on the ground: points, lines and polygons of whatever GDAL opens (GeoPackage, GeoJSON, shapefile, KML, GPX,
  FlatGeobuf, GeoParquet; pip install geopandas rasterio), or a CSV with lon and lat, with x, y and --crs, or
  with WKT. Folders of a KML are classes if it has no field class, of forest/2024 and 2024/forest the forest.
  The columns of LUCAS and of Collect Earth Online's sample data are known;
- in pixels: a CSV of image,x,y,class, whose 0,0 is the top left pixel; CVAT for images 1.1; Label Studio
  (JSON); LabelMe; VGG Image Annotator; COCO;
- rasters of class ids or codes (pip install rasterio): of an image's name, or on its grid, which is less than
  half a pixel off at every corner. Names in their legends (.aux.xml, .vat.dbf, .qml) and in the coded domains
  of a GeoPackage count.

The class is a name, in any case, or an id; where names are numbers, a number is a name. --classes is a CSV of
from,to for other words and codes; an empty to leaves labels out, and what lies below such polygons. A label
belongs to every image of --images on which it falls; for train and val run the program once for each.
Polygons hold the pixels whose centre they hold, lines are one pixel wide. What is passed over is counted.

--output NAME.csv gets image,x,y,class: file name, whole pixels from the top left one, which is 0,0, and the
name of the class. A folder gets masks NAME.png: class ids, and 255 where nothing is labelled.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import re
import sys
import tempfile
import types
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import geo
import label_formats as formats
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

import landcover_segmentation as lc

COLUMNS = ("image", "x", "y", "class")
TABLES = (".csv", ".tsv", ".txt")
VECTORS = (".geojson", ".gpkg", ".shp", ".kml", ".kmz", ".gpx", ".fgb", ".parquet")
ANNOTATIONS = (".json", ".xml")
GEODATABASE = ".gdb"  # of ESRI
RASTERS = (".tif", ".tiff", ".png", ".vrt", ".img", ".jp2", ".asc", ".bil", ".jpg", ".jpeg")
POINT_SUFFIXES = (".csv", *VECTORS, *ANNOTATIONS)  # what cut_tiles.py and active_learning.py take for points
NO_CLASS = {"", "nan", "null", "none", "na", "n/a", "<na>"}  # as tables write an empty cell
PICTURE = r"(?i)\.(png|jpe?g|jfif|tiff?|jp2|vrt|img|webp|bmp|gif|heic|dng)$"  # tile.2 is no copy of tile
NO_PIXELS = np.empty((0, 2), np.int64)


class Mark(typing.NamedTuple):
    """Labelled pixels, (N, 2) rows and columns, of one image; stem None: on no image. kind: point, line, …"""

    where: str
    stem: str | None
    kind: str
    pixels: np.ndarray
    text: str
    level: int = 0


# ==== Classes ========================================================================================


def class_names(text: str | None) -> list[str]:
    """The names that --class-names gives, in order of id, else those of the module. Raises InputError."""
    given = [name.strip() for name in text.split(",")] if text else lc.CLASS_NAMES
    names = given or lc.numbered_classes(lc.NUM_CLASSES)
    if not 0 < len({plain(name) for name in names}) == len(names) < 255 or not all(names):
        lc.complain("--class-names: give 1 to 254 names that differ from each other")
    return names


def plain(value: object) -> str:
    """A class as it is compared, of whatever type a table holds it."""
    return "" if value is None else lc.plain_name(str(value))


def known_classes(names: Sequence[str], table: Path | None = None) -> dict[str, int | None]:
    """The id of each class by what it may be called, as `plain` writes it; None: to be left out.

    Ids count only where no name is a number; of labels that a table of from,to translates, only in `to`.
    Raises InputError.
    """
    named: dict[str, int | None] = {plain(name): index for index, name in enumerate(names)}
    numbers = any(re.fullmatch(r"-?\d+", name) for name in named)
    both = named if numbers else named | {str(index): index for index in range(len(names))}
    given: dict[str, int | None] = {}
    for line, row in lc.csv_rows(table, ("from", "to")) if table else ():
        where = f"{table}, line {line}"
        target = plain(row["to"])
        if target and target not in both:
            cure = "correct it, or name that class by --class-names, in assess.py by --more-classes"
            raise lc.InputError(f"{where}: {row['to']!r} is none of {formats.shown(names)}; {cure}")
        class_id = both[target] if target else None
        if given.setdefault(plain(row["from"]), class_id) != class_id:
            raise lc.InputError(f"{where}: {row['from']!r} has another class above; keep one of them")
    return (named if table else both) | given


def ids_count(known: dict[str, int | None]) -> bool:
    """Whether ids name classes beside names, of `known_classes`."""
    return all(known.get(str(class_id)) == class_id for class_id in known.values())


# ==== Outlines -> pixels =============================================================================


def spans(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers of the ranges first to last - 1, one after the other, and the range of each."""
    first, lengths = np.int64(first), np.maximum(last - first, 0).astype(np.int64)
    which = np.repeat(np.arange(len(first)), lengths)
    return first[which] + np.arange(len(which)) - (lengths.cumsum() - lengths)[which], which


def fill(rings: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The pixels (N, 2) whose centres a polygon holds, by the even-odd rule; rings (N, 2) of x, y.

    A centre on an outline belongs to one side of it, so polygons that share a side share no pixel.
    """
    edges = np.concatenate([np.hstack([ring, np.roll(ring, -1, 0)]) for ring in rings])
    edges = edges[(edges[:, 1::2].min(1) < height) & (edges[:, 1::2].max(1) > 0)]
    edges = np.where(edges[:, 1:2] > edges[:, 3:4], edges[:, [2, 3, 0, 1]], edges)  # downwards
    x0, y0, x1, y1 = edges.T
    rows, edge = spans(*(np.ceil(y - 0.5).clip(0, height) for y in (y0, y1)))
    share = (rows + 0.5 - y0[edge]) / (y1 - y0)[edge]
    crossings = x0[edge] + share * (x1 - x0)[edge]
    order = np.lexsort((crossings, rows))
    rows, sides = rows[order][::2], np.ceil(crossings[order] - 0.5).clip(0, width)
    columns, run = spans(sides[::2], sides[1::2])
    return np.stack([rows[run], columns], 1)


def trace(line: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels (N, 2) under a line, (N, 2) of x, y: one in each column, or row where it is steep."""
    starts, steps = line[:-1], np.diff(line, axis=0)
    steep, found = abs(steps[:, 1]) > abs(steps[:, 0]), []
    for axis, size in ((0, width), (1, height)):
        start, step = (part[steep == bool(axis)] for part in (starts, steps))
        ends = np.sort(np.stack([start[:, axis], start[:, axis] + step[:, axis]]), axis=0)
        at, edge = spans(*(np.floor(ends[0]).clip(0, size), (np.floor(ends[1]) + 1).clip(0, size)))
        middle = (at + 0.5).clip(*ends[:, edge])
        share = (middle - start[edge, axis]) / np.where(step == 0, 1, step)[edge, axis]
        other = np.floor(start[edge, 1 - axis] + share * step[edge, 1 - axis])
        found.append(np.stack([at, other] if axis else [other, at], 1))
    return inside(np.concatenate(found), height, width)


def inside(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Those of the pixels that lie on an image."""
    return pixels[((pixels >= 0) & (pixels < (height, width))).all(1)].astype(np.int64)


def shape_pixels(kind: str, parts: list, height: int, width: int, border: bool = False) -> np.ndarray:
    """The pixels (N, 2) of a shape of `label_formats.Shape`'s kinds, each once.

    border: a point on the right or lower border of the image belongs to the last pixel, as 99.996 of 100 is
    written 100.00 by programs that round.
    """
    if kind == "point":
        points = np.concatenate(parts)
        points = np.where(border & (points == (width, height)), points - 0.5, points)
        found = [inside(np.floor(points[:, ::-1]), height, width)]
    elif kind == "mask":
        top, left, pixels = parts[0]
        found = [inside(np.argwhere(pixels) + np.array([top, left]), height, width)]
    elif kind == "line":
        found = [trace(line, height, width) for line in parts]
    else:
        found = [fill(rings, height, width) for rings in parts]
    pixels = np.concatenate(found)
    return np.unique(pixels, axis=0) if len(pixels) > 1 else pixels  # of a table of points: half of its time


# ==== Labels in pixels ===============================================================================


def image_finder(images: dict[str, Path]) -> Callable[[str], str | None]:
    """`lc.find_image` that remembers; an image may have been labelled on a copy in another format.

    Label Studio puts eight digits before the names of uploads, also where it writes COCO; a date is none of
    its. Images of one name in two folders are told: their labels come to lie on one image.
    """
    folders: dict[str, list[str]] = {}

    @cache
    def find(text: str) -> str | None:
        *folder, name = re.split(r"[\\/]", text.strip())
        stem = find_name(name)
        if stem and folder and (first := folders.setdefault(stem, folder)) != folder:
            problem = f"labels of {name} in {'/'.join(first)} and in {'/'.join(folder)} are laid on one image"
            cure = "if those are two images, take the rows of one folder at a time"
            warnings.warn(f"{problem}, {images[stem]}; {cure}", stacklevel=2)
        return stem

    def find_name(name: str) -> str | None:
        names = name, re.sub(r"^(?!(19|20)\d{6})[0-9a-f]{8}-", "", name)
        tries = [one for name in names for one in (name, re.sub(PICTURE, "", name))]
        return next(filter(None, (lc.find_image(one, images) for one in tries)), None)

    return find


def pixel_marks(
    shapes: Iterable[formats.Shape], images: dict[str, Path], gone: Counter, strict: bool = False
) -> Iterator[Mark]:
    """The marks of shapes in pixels. Raises InputError if an image had another size when it was labelled.

    strict: raises InputError for a point outside of its image, too.
    """
    find, sizes = image_finder(images), cache(lambda stem: lc.image_facts(images[stem])[:2])
    strange, cure = Counter(), ""
    for shape in shapes:
        stem = next(filter(None, map(find, shape.names)), None)
        if stem is None:
            strange[shape.names[0]] += 1
            if strict and np.max(shape.parts[0]) >= 100_000:  # no image is so large
                cure = "; x and y lie on the ground? then give --crs"
            continue
        size = sizes(stem)
        if shape.size and shape.size != size:
            then, now = (f"{width} x {height}" for height, width in (shape.size, size))
            problem = f"was labelled as an image of {then}, but {images[stem]} has {now}"
            raise lc.InputError(f"{shape.where}: {problem}; give the image that was labelled")
        pixels = shape_pixels(shape.kind, shape.parts, *size, border=not strict)
        lost = shape.kind == "point" and not len(pixels)
        if lost and strict:
            point = ",".join(f"{value:g}" for value in shape.parts[0][0])
            image = f"{images[stem].name}, which is {size[1]} wide and {size[0]} high"
            cure = "correct it; for coordinates on the ground call the columns lon and lat, or give --crs"
            raise lc.InputError(f"{shape.where}: point {point} lies outside {image}; {cure}")
        yield Mark(shape.where, None if lost else stem, shape.kind, pixels, shape.text, shape.level)
    if strange:
        gone[f"labels of images that are not there, like {next(iter(strange))}{cure}"] += strange.total()


# ==== Tables =========================================================================================


def table_marks(
    path: Path, images: dict[str, Path], how: types.SimpleNamespace, gone: Counter
) -> Iterator[Mark]:
    """The marks of a CSV, whose columns tell what it holds."""
    columns, rows = formats.read_table(path)
    if "region_shape_attributes" in columns:
        how.used.add("field")
        shapes = formats.checked(path, formats.via_rows(path, rows, how.field, gone))
        return pixel_marks(shapes, images, gone)
    field = formats.choose_field(path, columns, how.field)
    place = formats.place_columns(path, columns, how.crs)
    for name in (field, *place):
        if columns.count(name) > 1:
            raise lc.InputError(f"{path}, line 1: has the column {name} twice; rename one of them")
    if place[0] == "image":
        how.used.add("field")
        return pixel_marks(formats.table_points(path, rows, field), images, gone, strict=True)
    how.used |= {"field", "crs"}
    if "image" in columns:
        how.notes.append("with --crs, x and y lie on the ground; without it they are pixels of the image")
    formats.need_packages(path)
    return ground_marks(formats.table_features(path, rows, field, place, how, gone), images, how, gone)


# ==== Labels on the ground ===========================================================================


class Ground(typing.NamedTuple):
    """Where an image lies: rasterio's transform and reference system, None if it names none; left, …, top."""

    height: int
    width: int
    crs: typing.Any
    transform: typing.Any
    bounds: np.ndarray


def ground_of(image: Path) -> Ground | None:
    """Where an image lies, by whatever rasterio finds, a world file too; None if it says nothing."""
    with lc.open_raster(image) as dataset:
        if dataset.transform.is_identity:
            return None
        corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * (dataset.width, dataset.height)
        corners = apply(dataset.transform, corners)
        bounds = np.concatenate([corners.min(0), corners.max(0)])
        return Ground(dataset.height, dataset.width, geo.system_of(dataset), dataset.transform, bounds)


def place_images(images: dict[str, Path], crs: typing.Any, how: types.SimpleNamespace) -> dict[str, Ground]:
    """Where all images lie. Raises InputError if one does not say.

    Images with a world file alone are taken to be in the projected system of the labels, which is told.
    """
    grounds = {stem: ground_of(image) for stem, image in images.items()}
    if lost := [images[stem] for stem, ground in grounds.items() if ground is None]:
        more = f", and {len(lost) - 1} more," if len(lost) > 1 else ""
        cure = "give GeoTIFFs, or put world files beside the images; or give labels in pixels"
        with lc.open_raster(lost[0]) as dataset:
            if dataset.gcps[0] or dataset.rpcs:
                kind = "ground control points" if dataset.gcps[0] else "sensor model (RPC)"
                cure = f"its {kind} can give it one: {geo.placing_command(dataset)}"
        raise lc.InputError(f"{lost[0]}{more}: has no georeference, which labels in {how.path} need; {cure}")
    if unnamed := [images[stem] for stem, ground in grounds.items() if ground.crs is None]:
        if crs is None or not crs.is_projected:
            problem = f"names no reference system, and {how.path} has none in metres"
            edit = geo.command("rio", "edit-info", "--crs", "EPSG:…", unnamed[0])
            cure = f"name that of the image: {edit}"
            raise lc.InputError(f"{unnamed[0]}: {problem}; {cure}")
        taken = f"is taken to be that of the labels, {crs.to_string()[:40]}"
        how.notes.append(f"the reference system of {geo.counted(len(unnamed), 'image')} without one {taken}")
    return grounds


def bounds_in(geometry: typing.Any, crs: typing.Any) -> tuple[typing.Any, np.ndarray]:
    """A GeoSeries in another system (None: its own) and its bounds (N, 4); NaN: no place there."""
    import pyproj

    there = geometry
    if crs is not None:
        system = pyproj.CRS(crs.to_wkt())
        alike = geometry.crs.equals(system, ignore_axis_order=True)
        there = the_short_way((geometry if alike else part_edges(geometry)).to_crs(system))
    bounds = there.bounds.to_numpy()
    return there, np.where(np.isfinite(bounds).all(1, keepdims=True), bounds, np.nan)


def round_the_globe(crs: typing.Any) -> float:
    """How far it is once round the globe in a system whose x are longitudes; 0 in others."""
    if crs.is_geographic:
        return 360
    return 2 * math.pi * 6378137 if crs.to_epsg() == 3857 else 0


def the_short_way(geometry: typing.Any) -> typing.Any:
    """A GeoSeries in which what reaches across 180 degrees does not go round the globe, which is told.

    Programs write it from 179.9 to -179.9. What is wider than a twelfth of the globe either way stays.
    """
    import geopandas
    import shapely

    if not (once_round := round_the_globe(geometry.crs)):
        return geometry
    shapes = np.array(geometry)
    x0, _, x1, _ = shapely.bounds(shapes).T
    with np.errstate(invalid="ignore"):  # what has no place there is infinite
        wide = np.flatnonzero((x1 - x0 > once_round / 2) & (x1 - x0 < once_round))
    moved = shapely.transform(shapes[wide], lambda xy: xy + np.outer(xy[:, 0] < 0, (once_round, 0)))
    x0, _, x1, _ = shapely.bounds(moved).T
    short = x1 - x0 < once_round / 12  # parts in two hemispheres are no such field
    if not short.any():
        return geometry
    across = f"{geo.counted(int(short.sum()), 'feature')} across 180 degrees"
    warnings.warn(f"{across}: read as the short way, not round the globe", stacklevel=2)
    shapes[wide[short]] = moved[short]
    return geopandas.GeoSeries(shapes, geometry.index, geometry.crs)


def part_edges(geometry: typing.Any) -> typing.Any:
    """A GeoSeries with corners at least every kilometre or so, for edges are bent in another system.

    The parallel of 60 degrees lies a hundred metres beside the straight line through a degree of it. What is
    larger than the globe has the wrong system, and stays.
    """
    import geopandas
    import shapely

    part, globe = (0.01, 540) if geometry.crs.is_geographic else (1000, 1e8)
    shapes = np.array(geometry)
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    sides = x1 - x0 + y1 - y0
    long = (sides > part) & (sides < globe)
    shapes[long] = shapely.segmentize(shapes[long], np.maximum(part, sides[long] / 1000))
    return geopandas.GeoSeries(shapes, geometry.index, geometry.crs)


def near(bounds: np.ndarray, ground: Ground) -> np.ndarray:
    """Which bounds (N, 4) touch those of an image."""
    left, bottom, right, top = ground.bounds
    x0, y0, x1, y1 = bounds.T
    return (x0 <= right) & (x1 >= left) & (y0 <= top) & (y1 >= bottom)


def nearby(shapes: np.ndarray, bounds: np.ndarray, ground: Ground) -> dict[int, typing.Any]:
    """The shapes, by number, whose bounds (N, 4) touch an image's.

    Longitudes that differ by 360 are one, as are those of EPSG:3857 once round the globe: an image may reach
    beyond 180.
    """
    import shapely

    once_round, found = round_the_globe(ground.crs) if ground.crs else 0, {}
    for shift in (0, -once_round, once_round) if once_round else (0,):
        for index in np.flatnonzero(near(bounds + np.array([shift, 0, shift, 0]), ground)).tolist():
            shape = shapely.affinity.translate(shapes[index], shift) if shift else shapes[index]
            found[index] = shapely.GeometryCollection([found[index], shape]) if index in found else shape
    return dict(sorted(found.items()))


def ground_marks(
    features: formats.Features, images: dict[str, Path], how: types.SimpleNamespace, gone: Counter
) -> Iterator[Mark]:
    """The marks of features on each image; what is on none is one mark without an image."""
    import shapely

    empty = (features.geometry.isna() | features.geometry.is_empty).to_numpy()
    gone["features without a geometry"] += int(empty.sum())
    geometry, names = the_short_way(features.geometry[~empty].force_2d()), np.flatnonzero(~empty)
    grounds = place_images(images, geometry.crs, how)
    in_system = cache(lambda crs: bounds_in(geometry, crs))
    marks, found = {}, np.zeros(len(geometry), bool)
    for stem, ground in tqdm(grounds.items(), "placing labels", leave=False, disable=None):
        try:
            there, bounds = in_system(ground.crs)
        except Exception as error:  # what pyproj raises here has no class in common
            problem = f"cannot be brought to the reference system of {images[stem]} ({error})"
            cure = "name its own with --crs, or that of the image: "
            cure += geo.command("rio", "edit-info", "--crs", "EPSG:…", images[stem])
            raise lc.InputError(f"{how.path}: {problem}; {cure}") from error
        close, frame = nearby(there.to_numpy(), bounds, ground), shapely.box(0, 0, *ground[1::-1])
        in_pixels = shapely.transform(np.array([*close.values()], object), partial(apply, ~ground.transform))
        for index, shape in zip(close, in_pixels, strict=True):
            for kind, parts in outlines(shape).items():
                pixels = shape_pixels(kind, parts, ground.height, ground.width)
                mark = Mark(features.wheres[names[index]], stem, kind, pixels, features.texts[names[index]])
                if len(pixels):
                    found[index] = True
                    yield mark
                elif shape.intersects(frame):  # a polygon between the pixels' centres
                    marks.setdefault(index, mark)
    for index in np.flatnonzero(~found):
        kind = geometry.iloc[index].geom_type.lower().removeprefix("multi").removesuffix("string")
        lost = Mark(features.wheres[names[index]], None, kind, NO_PIXELS, features.texts[names[index]])
        yield marks.get(index, lost)
    how.notes += inexact(geometry.crs, grounds)
    how.notes += why_outside(geometry[[not (on or at in marks) for at, on in enumerate(found)]], grounds)


def inexact(crs: typing.Any, grounds: dict[str, Ground]) -> Iterator[str]:
    """Whether labels lie beside their pixels for want of a grid that shifts one datum to the other."""
    import pyproj

    for system in {ground.crs for ground in grounds.values()} - {None}:
        with warnings.catch_warnings(), contextlib.suppress(pyproj.exceptions.ProjError):
            warnings.simplefilter("ignore")
            ways = pyproj.transformer.TransformerGroup(crs, system.to_wkt(), always_xy=True)
            if ways.best_available or not ways.transformers:
                continue
            own = [abs(one.transform.determinant) ** 0.5 for one in grounds.values() if one.crs == system]
            metre = 1 / 111_320 if system.is_geographic else 1
            off = ways.transformers[0].accuracy
            if off < 0 or off * metre > min(own):
                size = f"{off:g} m" if off >= 0 else "many metres"
                grids = [
                    grid.short_name for grid in ways.unavailable_operations[0].grids if not grid.available
                ]
                what = f"from {crs.to_string()[:40]} to {system.to_string()[:40]} labels may be {size} off"
                cure = f"pyproj sync --file {grids[0] if grids else '…'}, or bring them over in QGIS"
                yield f"{what}, for a grid is missing: {cure}"


def apply(transform: typing.Any, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) of x, y by rasterio's transform."""
    return np.stack(geo.on_ground(transform, *points.T), 1)


def why_outside(geometry: typing.Any, grounds: dict[str, Ground]) -> list[str]:
    """What would bring features onto an image that lie on none: other axes, or another reference system."""
    import geopandas
    import shapely

    raw, crs, notes = geometry.to_numpy()[:10_000], geometry.crs, []
    if not len(raw):
        return []
    swapped = geopandas.GeoSeries(shapely.transform(raw, lambda xy: xy[:, ::-1]), crs=crs)
    exchange = "exchange them (QGIS: Swap X and Y coordinates; in a CSV the names of the columns)"
    by_system: dict[str, list[Ground]] = {}
    for ground in grounds.values():
        by_system.setdefault(ground.crs.to_string() if ground.crs else "", []).append(ground)
    for system, alike in by_system.items():
        for bounds, what in (
            (bounds_in(swapped, alike[0].crs)[1], f"with x and y exchanged; {exchange}"),
            (shapely.bounds(raw), f"if they are in {system}; give --crs {system}"),
        ):
            if count := int(np.any([near(bounds, ground) for ground in alike], axis=0).sum()):
                notes.append(f"{count:,} of those outside would lie on an image {what}")
    if not notes and crs.is_geographic and (abs(shapely.bounds(raw)) > 360).any():
        notes.append(f"coordinates above 360 are no degrees, which {crs.to_string()} has; give their --crs")
    return notes


def outlines(shape: typing.Any) -> dict[str, list]:
    """The coordinates of a shapely geometry, by kind, as `label_formats.Shape` has them."""
    import shapely

    found, parts = {}, np.array([shape])
    while (shapely.get_type_id(parts) > 3).any():  # collections hold collections
        parts = shapely.get_parts(parts)
    for part in parts:
        if part.geom_type == "Polygon":
            rings = list(map(shapely.get_coordinates, (part.exterior, *part.interiors)))
            found.setdefault("polygon", []).append(rings)
        else:
            kind = "point" if part.geom_type == "Point" else "line"
            found.setdefault(kind, []).append(shapely.get_coordinates(part))
    return found


# ==== Rasters of labels ==============================================================================


def raster_marks(
    path: Path, images: dict[str, Path], how: types.SimpleNamespace, known: dict, gone: Counter
) -> Iterator[Mark]:
    """The marks of a raster: on the image of its name, else on all images on whose ground it lies."""
    named = image_finder(images)(path.name)
    geo.check_lossless(path)
    with lc.open_raster(path) as dataset:
        geo.check_upright(dataset)
        geo.check_null_cells(dataset)
        if [kind.name for kind in dataset.colorinterp].count("alpha") != dataset.count - 1:
            colors = "for colours there is tools/convert_masks.py"
            stack = geo.command("rio", "stack", path, "--bidx", 1, "--output", "one.tif")
            cure = f"{colors}; for one of its bands: {stack}"
            raise lc.InputError(f"{path}: has {dataset.count} bands, labels have one; {cure}")
        if named is None and dataset.transform.is_identity:
            cure = "call it as its image, or give it a place"
            raise lc.InputError(f"{path}: no image is called like it, and it has no georeference; {cure}")
        if named is None:
            place_images(images, dataset.crs, how)
        on_images, names = False, legend_names(path, geo.value_names(path), known, how)
        for stem in [named] if named else tqdm(images, "placing labels", leave=False, disable=None):
            if offset := raster_offset(path, dataset, images[stem], stem == named):
                on_images = True
                yield from window_marks(path, dataset, stem, *offset, names, how, known, gone)
        gone["rasters of labels outside of all images"] += not on_images


def legend_names(path: Path, said: dict, known: dict, how: types.SimpleNamespace) -> dict[str, str]:
    """The class that a file itself says each value to be, where it is one of ours and --classes is silent.

    Its 1 may be our 2: what it says by name counts, and is told; so are names that are none of ours.
    """
    said = {str(value): name for value, name in said.items()}
    said = {value: name for value, name in said.items() if not (how.classes and value in known)}
    meant = {value: name for value, name in said.items() if plain(name) in known}
    other = [f"{value} {name}" for value, name in meant.items() if known.get(value) != known[plain(name)]]
    if other:
        how.notes.append(f"{path} names its values, which count by these names: {formats.shown(other)}")
    if strange := [f"{value} {name}" for value, name in said.items() if value in known.keys() - meant.keys()]:
        problem = f"{path} calls values by names that are no classes, and they count as ids"
        how.notes.append(f"{problem}: {formats.shown(strange)}; if they mean others: --classes")
    return meant


def raster_offset(path: Path, dataset: typing.Any, image: Path, named: bool) -> tuple | None:
    """Height and width of an image and the row and column of the raster where it begins; None: elsewhere.

    Raises InputError unless both have one grid; they are not laid over each other by their size alone.
    """
    ground = ground_of(image)
    if ground is None or dataset.transform.is_identity:
        size = lc.image_facts(image)[:2]
        if named and size != dataset.shape:
            cure = "make them the same size"
            raise lc.InputError(f"{path}: differs in size from {image}; {cure}")
        return (*size, 0, 0) if named else None
    offset = geo.grid_offset(path, dataset, image, ground)
    if named and offset is None:
        raise lc.InputError(f"{path}: lies on other ground than {image}; give the labels of that place")
    return offset and (ground.height, ground.width, *offset)


def window_marks(
    path: Path, dataset, stem: str, height: int, width: int, top: int, left: int, names, how, known, gone
) -> Iterator[Mark]:
    """The marks of the part of a raster on an image, one for each value. names: of `legend_names`."""
    rows, columns = (
        (max(0, start), min(length, start + size))
        for start, length, size in ((top, dataset.height, height), (left, dataset.width, width))
    )
    with lc.readable(path):
        values = dataset.read(1, window=(rows, columns))
        labelled = dataset.read_masks(1, window=(rows, columns)) > 0
    labelled &= np.isfinite(values)
    gone["pixels without data in the labels"] += int((~labelled).sum())
    if not labelled.all() and (note := geo.nodata_class(dataset, known)) and note not in how.notes:
        how.notes.append(note)
    found = np.unique(values[labelled])
    if len(found) > 1000 or np.iscomplexobj(values):
        cure = "class them first, or choose the band that holds classes"
        raise lc.InputError(f"{path}: holds {len(found):,} different values, which are no classes; {cure}")
    for value in found.tolist():
        text, pixels = formats.text_of(value), np.argwhere(labelled & (values == value))
        text = names.get(text, text)
        how.values[text] += len(pixels)
        if text == "255" and text not in known:
            gone["pixels of 255, which is unlabelled"] += len(pixels)
        else:
            corner = np.array([rows[0] - top, columns[0] - left])
            yield Mark(str(path), stem, "pixel", pixels + corner, text)


# ==== Marks -> labels of each image ==================================================================


def read_labels(
    path: Path, images: dict[str, Path], known: dict, how: types.SimpleNamespace
) -> tuple[dict[str, np.ndarray], Counter]:
    """The labels of all images, (N, 3) of row, column and class id, and what is passed over, by reason.

    known: of `known_classes`. how: field, layer, crs, points_per_polygon as on the command line, notes (a
    list that is filled) and values (a Counter). Raises InputError for the first that cannot be right.
    """
    gone: Counter = Counter()
    files = label_files(path, gone)
    geo.check_palettes(file for file in files if file.suffix.lower() in RASTERS)
    marks = (mark for file in files for mark in marks_of(file, images, how, known, gone))
    placed, wheres = place_marks(path, marks, known, how, gone)
    found = {stem: settle(images[stem], placed[stem], wheres, gone, how) for stem in images if stem in placed}
    drop_without_data(found, images, gone)
    for name in ("field", "layer", "crs", "points_per_polygon"):
        if getattr(how, name) is not None and name not in how.used:
            flag = f"--{name.replace('_', '-')} {getattr(how, name)}"
            raise lc.InputError(f"{flag}: nothing in {path} has a use for it; leave it out")
    if not any(map(len, found.values())):
        no_class = any(reason.endswith("without a class") for reason in gone)
        how.notes += [f"is --field {how.field} right?"] if how.field and no_class else []
        reasons = "; ".join(filter(None, [lc.format_counts(gone) or "it is empty", *how.notes]))
        raise lc.InputError(f"{path}: holds no label with a class on an image; {reasons}")
    how.notes += doubtful_values(path, files, known, how)
    return {stem: rows for stem, rows in found.items() if len(rows)}, gone


def label_files(path: Path, gone: Counter) -> list[Path]:
    """The files of labels in a folder, or the one that is given. Pictures are labels if nothing else is.

    A geodatabase is a file, though it is a folder. What describes other files is read if it is all there is.
    """
    if not path.is_dir() or path.suffix.lower() == GEODATABASE:
        return [path]
    inside = [file for file in sorted(path.iterdir()) if not file.name.startswith(".")]
    files = [file for file in inside if file.is_file() or file.suffix.lower() == GEODATABASE]
    if len(inside) > len(files):
        gone["folders in the folder, whose files are not looked for"] += len(inside) - len(files)
    own = [file for file in files if not describes(file)]
    tables = *TABLES, *VECTORS, *ANNOTATIONS, GEODATABASE
    for suffixes, among in ((tables, own), (RASTERS, own), (tables, files)):
        chosen = [file for file in among if file.suffix.lower() in suffixes and ".aux" not in file.suffixes]
        if chosen:
            beside = {file.name.split(".")[0] for file in chosen}
            left = [file for file in files if file not in chosen]
            strange = [file for file in left if file.name.split(".")[0] not in beside or is_text(file)]
            gone["files of other kinds"] += len(strange)
            return chosen
    raise lc.InputError(f"{path}: holds no labels ({', '.join(tables + RASTERS)}); name another folder")


def is_text(file: Path) -> bool:
    return file.suffix.lower() == ".txt"


def describes(file: Path) -> bool:
    """Whether a file tells of others: NAME.shp.xml of ArcGIS, or a text that is no table of labels."""
    if is_text(file):
        return not formats.is_table(file)
    return file.suffix.lower() == ".xml" and file.with_suffix("").is_file()


def marks_of(
    path: Path, images: dict[str, Path], how: types.SimpleNamespace, known: dict, gone: Counter
) -> Iterator[Mark]:
    """The marks of one file, by the reader of its kind."""
    how.path, suffix = path, path.suffix.lower()
    if not path.exists():
        raise lc.InputError(f"{path}: cannot be read (no such file); correct its name")
    if suffix in TABLES:
        return table_marks(path, images, how, gone)
    if suffix in RASTERS:
        return raster_marks(path, images, how, known, gone)
    shapes = formats.read_shapes(path, how.field, gone) if suffix in ANNOTATIONS else None
    if shapes is not None:
        how.used.add("field")
        return pixel_marks(shapes, images, gone)
    if not formats.is_vector(path):
        return raster_marks(path, images, how, known, gone)
    how.used |= {"field", "layer", "crs"}
    features = formats.read_vector(path, how, gone)
    names = legend_names(path, features.coded, known, how)
    texts = class_folders(path, features.folders, known, how) if features.folders else features.texts
    texts = [names.get(text, text) for text in texts]
    return ground_marks(features._replace(texts=texts), images, how, gone)


def class_folders(
    path: Path, folders: Sequence[tuple[str, ...]], known: dict, how: types.SimpleNamespace
) -> list[str]:
    """The folder that names a class, for each feature, whose folders are given inner one first.

    The year of forest/2024 is none; nor is the 1 of forest/1 an id. Where none does, it is the inner one.
    """
    numbers = ids_count(known)

    def class_of(names: tuple[str, ...]) -> str:
        classes = [name for name in names if plain(name) in known]
        named = [name for name in classes if not (numbers and plain(name).isdigit())]
        return (named or classes or names)[0]

    texts = [class_of(names) for names in folders]
    pairs = dict.fromkeys((names[0], text) for names, text in zip(folders, texts, strict=True))
    if outer := [f"{inner} in {text}" for inner, text in pairs if inner != text]:
        how.notes.append(f"{path}: folders that are no class have that around them: {formats.shown(outer)}")
    return texts


def place_marks(
    path: Path, marks: Iterable[Mark], known: dict, how: types.SimpleNamespace, gone: Counter
) -> tuple[dict[str, list], list[str]]:
    """Sorts marks by image: a table (N, 6) of row, column, class, mark, level and whether it is a point for
    each, and where the marks stand. Raises InputError that lists all unknown classes."""
    tables, wheres, unknown, counted, first = {}, [], Counter(), set(), None
    meant: set[str] = set()
    drawn: dict[str, list] = {}

    def add(mark: Mark, pixels: np.ndarray) -> None:
        class_id = known[plain(mark.text)]
        class_id = lc.IGNORE_INDEX if class_id is None else class_id
        facts = np.int64([class_id, len(wheres), mark.level, mark.kind == "point"])
        tables.setdefault(mark.stem, []).append(np.hstack([pixels, np.tile(facts, (len(pixels), 1))]))
        wheres.append(mark.where)

    for mark in marks:
        text = plain(mark.text)
        meant |= {text} if known.get(text) is not None else set()
        if reason := why_passed_over(mark, text, known):
            if (mark.where, reason) not in counted or mark.kind == "pixel":
                gone[f"{mark.kind}s {reason}"] += len(mark.pixels) if mark.kind == "pixel" else 1
            counted.add((mark.where, reason))
            if mark.stem is not None and known.get(text, "") is None and mark.kind in ("polygon", "mask"):
                add(mark, mark.pixels)  # what is left out hides what lies below it
        elif text not in known:
            unknown[mark.text] += len(mark.pixels) if mark.kind == "pixel" else 1
            first = first or mark.where
        elif how.points_per_polygon and mark.kind in ("polygon", "mask"):
            how.used.add("points_per_polygon")
            rng = lc.named_rng("points per polygon", mark.where.removeprefix(str(path.parent)), mark.stem)
            lots = rng.random(len(mark.pixels))
            best = np.argsort(lots)[: how.points_per_polygon]
            drawn.setdefault(mark.where, []).append((mark, mark.pixels[best], lots[best]))
        else:
            add(mark, mark.pixels)
    if unknown:
        most = ", ".join(f"{text!r} ({number:,})" for text, number in unknown.most_common(12))
        more = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
        cure = f"{how.naming}, or translate words by --classes, a CSV of from,to"
        cure += f"; an empty to leaves labels out{how.cure}"
        ids = len({*known.values()} - {None}) if ids_count(known) else 0
        names = formats.shown(
            name for name, one in known.items() if one is not None and not (ids and name == str(one))
        )
        neither = f"neither 0 to {ids - 1} nor" if ids else "not"
        wrong = f"class {next(iter(unknown))!r} is {neither} one of {names}"
        raise lc.InputError(f"{first}: {wrong}; unknown in all: {most}{more}; {cure}")
    how.notes += [] if how.classes else doubtful_ids(meant, known)
    for shares in drawn.values():  # the lowest lots of a polygon, over all images on which it lies
        limit = np.sort(np.concatenate([lots for _, _, lots in shares]))[: how.points_per_polygon][-1]
        for mark, pixels, lots in shares:
            if (lots <= limit).any():
                add(mark, pixels[lots <= limit])
    return tables, wheres


def doubtful_ids(texts: Iterable[str], known: dict) -> Iterator[str]:
    """What to ask about labels that give their class by id: do those count from 1, or beside names?"""
    names = {text for text, class_id in known.items() if text != str(class_id)}
    ids = sorted(int(text) for text in texts if text not in names) if names and ids_count(known) else []
    named = sorted(text for text in texts if text in names)
    first = next((name for name, class_id in known.items() if class_id == 0), "")
    if ids and named:
        both = f"some labels give an id, like {ids[0]}, others a name, like {named[0]}"
        yield f"{both}: ids count from 0, which is {first}"
    elif ids and ids[0] == 1:
        yield f"the ids of the labels begin with 1, but ids count from 0, which is {first}"


def doubtful_values(
    path: Path, files: Sequence[Path], known: dict, how: types.SimpleNamespace
) -> Iterator[str]:
    """What to ask about rasters of labels: a 255 beside one value alone, and a 0 that fills most of them.

    gdal_rasterize leaves 0 around what it draws.
    """
    zeros, total = how.values["0"], how.values.total()
    if "255" in how.values and "255" not in known:
        if len(how.values) == 2:
            (other,) = how.values.keys() - {"255"}
            cure = f"--classes with the rows from,to, {other},NAME and 255,NAME"
            yield f"{path} holds {other} and 255 alone, and 255 is unlabelled; if it is a class: {cure}"
    elif known.get("0") is not None and not how.classes and total / 2 < zeros < total:
        name = next(name for name, class_id in known.items() if class_id == known["0"])
        where = "" if len(files) == 1 else " in each file, like"
        cure = f"if nobody labelled them, declare it{where}: {geo.declaration(how.path, 0)}"
        yield f"{path}: {zeros / total:.0%} of the pixels are 0, which is {name}; {cure}"


def why_passed_over(mark: Mark, text: str, known: dict) -> str | None:
    if mark.stem is None:
        return "outside of all images"
    if text in NO_CLASS and text not in known:
        return "without a class"
    if text in known and known[text] is None:
        return "of classes that --classes leaves out"
    if len(mark.pixels):
        return None
    return "on the outer border of an image" if mark.kind == "point" else "that hold no pixel's centre"


def settle(
    image: Path, tables: list[np.ndarray], wheres: list[str], gone: Counter, how: types.SimpleNamespace
) -> np.ndarray:
    """One class for each labelled pixel of an image: (N, 3) of row, column, class. The highest level counts.

    A pixel that two classes claim is left out, but for two points, which raise InputError.
    """
    table = np.concatenate(tables)
    table = table[np.lexsort((table[:, 3], -table[:, 4], table[:, 1], table[:, 0]))]
    starts = np.flatnonzero(np.r_[True, (np.diff(table[:, :2], axis=0) != 0).any(1)])
    pixel = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(table)]))
    on_top = table[:, 4] == table[starts, 4][pixel]
    table, pixel = table[on_top], pixel[on_top]
    starts = np.searchsorted(pixel, np.arange(len(starts)))
    ids, points = table[:, 2], table[:, 5] > 0
    claimed = np.minimum.reduceat(ids, starts) != np.maximum.reduceat(ids, starts)
    by_points = claimed & np.logical_and.reduceat(points, starts)
    for index in np.flatnonzero(by_points if by_points.any() else claimed)[:1]:
        own = table[np.searchsorted(pixel, index) : np.searchsorted(pixel, index, "right")]
        other = own[own[:, 2] != own[0, 2]][0]
        both = f"another class in {wheres[own[0, 3]].removeprefix(f'{how.path}, ')}"
        problem = f"{wheres[other[3]]}: pixel {own[0, 1]},{own[0, 0]} of {image.name} has {both}"
        if by_points.any():
            raise lc.InputError(f"{problem}; keep one of them")
        how.notes += [] if gone["pixels that two classes claim"] else [problem]
    gone["pixels that two classes claim"] += int(claimed.sum())
    repeated = np.add.reduceat(points.astype(int), starts) - 1
    gone["points on a pixel that has one already"] += int(repeated[~claimed].clip(0).sum())
    settled = table[starts[~claimed]][:, :3]
    return settled[settled[:, 2] != lc.IGNORE_INDEX]


def read_points(
    path: str | Path, images: dict[str, Path], class_names: Sequence[str], **options
) -> tuple[dict[str, lc.Points], Counter]:
    """Reads the labels of all images from whatever this program reads, as `lc.read_points` does from a CSV.

    images: by name without suffix. options: as for `reading`. Returns and raises what `lc.read_points` does,
    and warns of what a person should know.
    """
    how = reading(**options)
    try:
        found, gone = read_labels(Path(path), images, known_classes(class_names), how)
    except lc.InputError as error:
        if options or "rio " in str(error) or not re.search(r"--(field|layer|crs|classes)\b", str(error)):
            raise
        folder = next(iter(images.values())).parent
        words = "tools/labels.py", "--labels", path, "--images", folder, "--output", "points.csv"
        raise lc.InputError(f"{error} (flags of {geo.command('python', *words)})") from error
    for note in how.notes:
        warnings.warn(note, stacklevel=2)
    points = {stem: {(y, x): class_id for y, x, class_id in rows.tolist()} for stem, rows in found.items()}
    return points, +gone


def reading(**options) -> types.SimpleNamespace:
    """How labels are read: field, layer, crs and points_per_polygon, as on the command line."""
    chosen = {
        "field": None,
        "layer": None,
        "crs": None,
        "points_per_polygon": None,
        "classes": None,
    } | options
    naming = "name your classes with --class-names"
    return types.SimpleNamespace(**chosen, notes=[], values=Counter(), used=set(), naming=naming, cure="")


# ==== Labels -> files ================================================================================


def drop_without_data(labels: dict[str, np.ndarray], images: dict[str, Path], gone: Counter) -> None:
    """Leaves out the labels on pixels without data; images are read by rows."""
    for stem in tqdm(list(labels), "looking for pixels without data", leave=False, disable=None):
        rows, columns, _ = labels[stem].T
        with geo.open_unscaled(images[stem]) as scene:
            kept = np.zeros(len(rows), bool)
            for top in np.unique(rows // 256) * 256:
                here = np.flatnonzero(rows // 256 == top // 256)
                alpha = scene.read(int(top), int(min(top + 256, scene.height)))[..., -1]
                kept[here] = alpha[rows[here] - top, columns[here]] > 0
        gone["labels on pixels without data"] += int((~kept).sum())
        labels[stem] = labels[stem][kept]


def check_no_label_lost(path: Path) -> None:
    """Raises InputError if a CSV or masks that are to be written would replace labels that somebody gave."""
    if path.suffix.lower() != ".csv":
        if path.is_dir() and any(file.suffix.lower() in lc.MASK_SUFFIXES for file in path.iterdir()):
            raise lc.InputError(f"{path}: holds masks, which would be lost; name another with --output")
        return
    if path.is_dir():
        raise lc.InputError(f"{path}: is a folder; name a file with --output")
    if path.exists() and any(row["class"] for _, row in lc.csv_rows(path, COLUMNS)):
        raise lc.InputError(f"{path}: holds labels, which would be lost; name another file with --output")


def write_points(
    path: Path, labels: dict[str, np.ndarray], images: dict[str, Path], names: Sequence[str]
) -> None:
    """Writes the labels of all images as the CSV that `lc.read_points` reads."""
    with lc.atomic_write(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for stem, rows in labels.items():
            writer.writerows((images[stem].name, x, y, names[class_id]) for y, x, class_id in rows.tolist())


def write_masks(folder: Path, labels: dict[str, np.ndarray], images: dict[str, Path]) -> None:
    """Writes a mask of each image, all or none: class ids, 255 where nothing is labelled."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial_folder:
        for stem, image in tqdm(images.items(), "writing", unit="mask", leave=False, disable=None):
            mask = np.full(lc.image_facts(image)[:2], lc.IGNORE_INDEX, np.uint8)
            rows, columns, ids = labels.get(stem, np.empty((0, 3), np.int64)).T
            mask[rows, columns] = ids
            Image.fromarray(mask).save(Path(partial_folder) / f"{stem}.png")
        for path in sorted(Path(partial_folder).iterdir()):
            path.replace(folder / path.name)


def report(path: Path, labels: dict[str, np.ndarray], names: Sequence[str], how, gone: Counter) -> None:
    """Prints the labels of each class and image, and what was passed over."""
    counts = np.bincount(np.concatenate([rows[:, 2] for rows in labels.values()]), minlength=len(names))
    found = geo.counted(counts.sum(), "point" if path.suffix.lower() == ".csv" else "labelled pixel")
    print(f"wrote {path}: {found} in {geo.counted(len(labels), 'image')}")
    width = max(10, *map(len, names))
    for name, number in zip(names, counts, strict=True):
        print(f"  {name:{width}}  {number:>10,}")
    print("of each image: " + ", ".join(f"{stem} {len(rows):,}" for stem, rows in list(labels.items())[:20]))
    if len(labels) > 20:
        amounts = [len(rows) for rows in labels.values()]
        print(f"  and {len(labels) - 20:,} more; {min(amounts):,} to {max(amounts):,} in each")
    for reason, number in gone.items():
        if number:
            print(f"passed over: {reason} ({number:,})")
    for note in how.notes:
        print(f"note: {note}")


# ==== Command line ===================================================================================


def parse(argv: list[str]) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    # fmt: off
    flag("--labels", metavar="PATH", type=Path, required=True, help="a file of labels, or a folder of them")
    flag("--images", metavar="PATH", type=Path, required=True,
         help="the images that they lie on: a folder, or one file")
    flag("--output", metavar="PATH", type=Path, default=Path("points.csv"),
         help="NAME.csv, or a folder for masks (default: %(default)s)")
    flag("--class-names", metavar="LIST",
         help="in order of id, like water,forest (default: CLASS_NAMES of the module)")
    flag("--field", metavar="NAME", help="the field that holds the class (default: class); several, like "
         "class,cover, where files differ")
    flag("--layer", metavar="NAME", help="the layer of a file with several; all: every one of them")
    flag("--classes", metavar="FILE", type=Path, help="a CSV of from,to: other words and codes for classes")
    flag("--crs", metavar="CRS",
         help="reference system of the labels, like EPSG:32633, where they name none or a wrong one")
    flag("--points-per-polygon", metavar="N", type=int,
         help="draw so many pixels of each polygon (default: all)")
    # fmt: on
    args = parser.parse_args(argv)
    args.class_names = class_names(args.class_names)
    if args.output.suffix and args.output.suffix.lower() != ".csv" and not args.output.is_dir():
        lc.complain(f"--output {args.output}: must be a file NAME.csv, or a folder for masks")
    if args.points_per_polygon is not None and args.points_per_polygon < 1:
        lc.complain(f"--points-per-polygon {args.points_per_polygon}: must be 1 or more")
    return args


@lc.command_line
def main(argv: list[str]) -> None:
    args = parse(argv)
    check_no_label_lost(args.output)
    one = args.images.is_file() and args.images.suffix.lower() in lc.IMAGE_SUFFIXES
    images = {args.images.stem: args.images} if one else lc.list_images(args.images)
    options = "field", "layer", "crs", "points_per_polygon", "classes"
    how = reading(**{name: getattr(args, name) for name in options})
    labels, gone = read_labels(args.labels, images, known_classes(args.class_names, args.classes), how)
    gone["images without a label"] += len(images) - len(labels)
    if args.output.suffix.lower() == ".csv":
        lc.prepare_output(args.output.parent)
        write_points(args.output, labels, images, args.class_names)
    else:
        lc.prepare_output(args.output)
        write_masks(args.output, labels, images)
    report(args.output, labels, args.class_names, how, gone)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
