"""Rasters of the field <-> arrays and plain files. Imported by the programs beside it, not run.

A scene is read row by row, so a map may be larger than memory. GeoTIFFs need `pip install rasterio`.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import tempfile
import typing
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

import landcover_segmentation as lc

EXIF_ORIENTATION = 274
SAME_SIZE = 1.5  # times larger or smaller, things in an image look alike to a network

# =====================================================================================================
# Scenes -> rows of pixels
# =====================================================================================================


def is_picture(path: str | Path) -> bool:
    """Whether Pillow reads an image: a PNG or JPEG of 8 bits."""
    with lc.open_image(path) as image:
        return isinstance(image, Image.Image)


@dataclass
class Scene:
    """An image that is read from top to bottom.

    read(top, bottom) -> (bottom - top, W, bands + 1), alpha last, alpha 0 = no data; uint8 unless deep.
    crs, transform: rasterio's; both None without a georeference. kind: how the file stores its pixels.
    deep: whether in more than 8 bits per channel.
    """

    height: int
    width: int
    read: Callable[[int, int], np.ndarray]
    crs: typing.Any = None
    transform: typing.Any = None
    kind: str = "mode RGB"
    deep: bool = False
    bands: int = 3


@contextlib.contextmanager
def open_scene(
    path: str | Path, bands: Sequence[int] = lc.RGB_BANDS, ranges: Sequence | None = None
) -> Iterator[Scene]:
    """Opens an image of any size as `lc.read_tile` reads a tile: (h, W, 4) uint8, by rows.

    bands, ranges: as for `lc.read_tile`. Raises InputError for files that cannot be read, or not so.
    """
    with open_unscaled(path, bands) as scene:
        lc.check_depth(path, scene.deep, ranges)
        if scene.deep:
            read = scene.read
            scene.read = lambda top, bottom: lc.stretch(read(top, bottom), ranges)
        yield scene


@contextlib.contextmanager
def open_unscaled(path: str | Path, bands: Sequence[int] = lc.RGB_BANDS) -> Iterator[Scene]:
    """Opens an image of any size; what is deeper than 8 bits keeps its values.

    rasterio reads by rows. Pillow holds a picture whole, at 4 bytes per pixel; its place, in a world file
    or an .aux.xml, is read by rasterio all the same.
    """
    if is_picture(path):
        height, width, kind, _ = lc.image_facts(path)
        lc.choose_bands(path, bands, ["uint8"] * 3)
        place = picture_place(path)
        yield Scene(height, width, picture_reader(path, bands), *place, kind, bands=len(bands))
        return
    dataset = lc.open_raster(path)
    from rasterio import Env

    def read(top: int, bottom: int) -> np.ndarray:
        return lc.raster_bands(dataset, bands, alphas, ((top, bottom), (0, dataset.width)))

    # The size of GDAL's cache in bytes; by itself GDAL takes a share of the machine's memory.
    with dataset, Env(GDAL_CACHEMAX=2**28):
        lc.choose_bands(path, bands, dataset.dtypes)  # raises InputError for those that it lacks
        alphas = lc.alpha_bands(dataset, bands)
        height, width, kind, deep = lc.raster_facts(dataset)
        yield Scene(height, width, read, *dataset_place(dataset), kind, deep, len(bands))


def picture_reader(path: str | Path, bands: Sequence[int]) -> Callable[[int, int], np.ndarray]:
    """Reads rows of a picture, which is decoded when the first are asked for."""

    @cache
    def decode() -> np.ndarray:
        return lc.read_bands(path, bands)

    return lambda top, bottom: decode()[top:bottom].copy()


def picture_place(path: str | Path) -> tuple:
    """The crs and transform of what Pillow reads, from the files beside it; (None, None) without.

    Raises InputError if EXIF turns the picture: its place is that of the pixels as they are stored.
    """
    with lc.open_picture(path) as picture:
        turned = picture.getexif().get(EXIF_ORIENTATION, 1) != 1
    try:
        import rasterio  # noqa: F401
    except ImportError:
        if world_files(path):
            what = f"{path}: a picture with a world file loses its georeference without rasterio"
            warnings.warn(f"{what}; pip install rasterio", stacklevel=2)
        return None, None
    try:
        with lc.open_raster(path) as dataset:
            place = dataset_place(dataset)
    except lc.InputError:  # a format that only Pillow knows has no place
        return None, None
    if turned and place[1] is not None:
        problem = "its EXIF turns it, but its world file places it as it is stored"
        raise lc.InputError(f"{path}: {problem}; remove one of the two")
    return place


def dataset_place(dataset: typing.Any) -> tuple:
    """The crs and transform of a rasterio dataset; (None, None) and, if there is a cure, a word without."""
    check_null_cells(dataset)
    if not dataset.transform.is_identity:
        return system_of(dataset), dataset.transform
    if dataset.gcps[0] or dataset.rpcs:
        kind = "ground control points" if dataset.gcps[0] else "a sensor model (RPC)"
        cure = f"to keep its place: {placing_command(dataset)}"
        warnings.warn(f"{dataset.name}: is placed by {kind}, which a map cannot have; {cure}", stacklevel=2)
        return None, None
    check_upright(dataset)
    if dataset.crs:
        problem = "names a reference system, but not where in it it lies"
        warnings.warn(f"{dataset.name}: {problem}: save it anew with its transform", stacklevel=2)
    return None, None


def check_null_cells(dataset: typing.Any) -> None:
    """Raises InputError for a GRASS ASCII grid with null cells, which GDAL reads as 0.

    See findings/gdal_grass_ascii_null.sh.
    """
    if dataset.driver == "GRASSASCIIGrid" and b"*" in Path(dataset.name).read_bytes():
        cure = "export it anew: r.out.gdal, or r.out.ascii with null_value=255"
        raise lc.InputError(f"{dataset.name}: its null cells (*) would be read as 0; {cure}")


def check_upright(dataset: typing.Any) -> None:
    """Raises InputError for a netCDF without a place, of which GDAL takes the first row for the lowest.

    See findings/netcdf_upside_down.sh.
    """
    parts = [file for file in dataset.files if Path(file).suffix.lower() in (".nc", ".nc4")]
    if parts and dataset.transform.is_identity and not dataset.gcps[0]:
        problem = f"{parts[0]} does not tell where it lies, and so its rows may be read from the bottom up"
        cure = (
            "save it with its place, by rioxarray's write_crs before to_netcdf, or as GeoTIFF, by to_raster"
        )
        raise lc.InputError(f"{dataset.name}: {problem}; {cure}")


def check_lossless(path: str | Path) -> None:
    """Raises InputError if a raster of class ids is packed with loss, which makes other classes of some."""
    if packing := lossy_packing(path):
        cure = "save the original as PNG, or as GeoTIFF packed without loss (COMPRESS=DEFLATE)"
        raise lc.InputError(f"{path}: is packed with loss ({packing}), which changes ids; {cure}")


def lossy_packing(path: str | Path) -> str | None:
    """How a raster, or a part of a mosaic, is packed with loss; None without."""
    if is_picture(path):
        return None
    with lc.open_raster(path) as dataset:
        packing = dataset.tags(ns="IMAGE_STRUCTURE")
        most = 0.5 if np.dtype(dataset.dtypes[0]).kind in "iu" else 0  # by which rounding loses nothing
        name = packing.get("COMPRESSION", dataset.driver)
        parts = dataset.files[1:] if dataset.driver == "VRT" else []
    error = max(float(packing.get(key, 0)) for key in ("MAX_Z_ERROR", "LERC_PREC"))  # of LERC
    lossy = packing.get("COMPRESSION_REVERSIBILITY") == "LOSSY" or error > most
    if lossy or name.endswith(" JPEG") or name == "JPEG":  # JPEG 2000 may be either
        return name
    for part in parts:
        with contextlib.suppress(lc.InputError):  # of what is no raster, as an .aux.xml
            if found := lossy_packing(part):
                return found
    return None


def value_names(path: str | Path) -> dict[int, str]:
    """What a raster says its values mean, by whatever legend lies in it or beside it.

    Raises InputError if one legend contradicts another.
    """
    names: dict[int, str] = {}
    for legend in (gdal_legend, arcgis_legend, qgis_legend):
        for value, name in legend(Path(path)).items():
            if lc.plain_name(names.setdefault(value, name)) != lc.plain_name(name):
                problem = f"one of its legends calls {value} {names[value]!r}, another {name!r}"
                raise lc.InputError(f"{path}: {problem}; remove the wrong one (.aux.xml, .vat.dbf, .qml)")
    return names


def system_of(dataset: typing.Any) -> typing.Any:
    """The reference system of a rasterio dataset, or of the .prj beside it, which GDAL seldom reads."""
    beside = Path(dataset.name).with_suffix(".prj")
    if dataset.crs or not beside.is_file():
        return dataset.crs
    from rasterio.crs import CRS

    with lc.readable(beside):
        return CRS.from_wkt(beside.read_text(errors="replace"))


def gdal_legend(path: Path) -> dict[int, str]:
    """The tags of our maps, category names and the attribute table, as GDAL reads them of all formats.

    rasterio does not show them, but writes them into a copy as VRT.
    """
    if is_picture(path) and not Path(f"{path}.aux.xml").exists():
        return {}
    try:
        from rasterio.shutil import copy
    except ImportError as error:
        raise lc.InputError(f"{path}: what says its .aux.xml? pip install rasterio") from error
    with tempfile.TemporaryDirectory() as folder, lc.readable(path):
        copy(str(path), f"{folder}/names.vrt", driver="VRT")
        band = ElementTree.parse(f"{folder}/names.vrt").find("VRTRasterBand")
    tags = {item.get("key", ""): item.text for item in band.iterfind("Metadata/MDI")}
    names = {int(key[6:]): name for key, name in tags.items() if re.fullmatch(r"CLASS_\d+", key)}
    names |= {index: one.text for index, one in enumerate(band.iterfind("CategoryNames/Category"))}
    if (table := band.find("GDALRasterAttributeTable")) is not None:
        columns = [one.findtext("Name") for one in table.iter("FieldDefn")]
        usages = [one.findtext("Usage") for one in table.iter("FieldDefn")]
        texts = [one.findtext("Type") == "2" for one in table.iter("FieldDefn")]
        value = usages.index("5") if "5" in usages else value_column(columns)
        name = usages.index("2") if "2" in usages else name_column(columns, texts)
        names |= table_names([[cell.text for cell in row] for row in table.iter("Row")], value, name)
    return {value: name for value, name in names.items() if name}


def arcgis_legend(path: Path) -> dict[int, str]:
    """The attribute table that ArcGIS keeps beside a raster (.vat.dbf)."""
    beside = Path(f"{path}.vat.dbf"), path.with_suffix(".vat.dbf")
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        return {}
    try:
        import pyogrio
        from pandas.api.types import is_numeric_dtype
    except ImportError as error:
        raise lc.InputError(f"{found}: names the values of {path}: pip install geopandas") from error
    with lc.readable(found):
        table = pyogrio.read_dataframe(found, read_geometry=False)
    columns, texts = list(table.columns), [not is_numeric_dtype(kind) for kind in table.dtypes]
    return table_names(table.to_numpy(object).tolist(), value_column(columns), name_column(columns, texts))


def qgis_legend(path: Path) -> dict[int, str]:
    """The labels of a style that QGIS saved beside a raster (.qml); by itself it repeats the value."""
    style = path.with_suffix(".qml")
    if not style.is_file():
        return {}
    try:
        entries = ElementTree.parse(style).iter("paletteEntry")
    except ElementTree.ParseError as error:
        raise lc.InputError(f"{style}: cannot be read ({error}); remove it") from error
    rows = [(entry.get("value"), entry.get("label")) for entry in entries]
    return {value: name for value, name in table_names(rows, 0, 1).items() if name != str(value)}


def table_names(rows: Iterable[Sequence], value: int | None, name: int | None) -> dict[int, str]:
    """The name of each whole value in the rows of a table; value, name: their columns, None: it has none."""
    found: dict[int, str] = {}
    for row in rows if None not in (value, name) else ():
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # of an empty cell
            if float(row[value]).is_integer() and str(row[name] or "").strip():
                found[int(float(row[value]))] = str(row[name]).strip()
    return found


def value_column(columns: Sequence[str]) -> int | None:
    return next((at for at, column in enumerate(columns) if column.lower() == "value"), None)


def name_column(columns: Sequence[str], texts: Sequence[bool]) -> int | None:
    """The column of text that is called like one of names, else the only one of text."""
    known = [at for at, is_text in enumerate(texts) if is_text]
    for kind in ("class_?names?", "names?|.*_names?", "label.*", "class(es)?", "descr.*|category|type"):
        for at in known:
            if re.fullmatch(kind, columns[at], re.IGNORECASE):
                return at
    return known[0] if len(known) == 1 else None


def check_value_names(path: str | Path, image: str | Path, class_names: Sequence[str]) -> None:
    """Raises InputError if a raster of class ids calls an id by the name of another class.

    Warns if it calls one by a name that none has.
    """
    ids = {lc.plain_name(name): index for index, name in enumerate(class_names)}
    strange = []
    for value, name in value_names(path).items():
        wanted = ids.get(lc.plain_name(name))
        if wanted is None and value < len(class_names):
            strange.append(f"{value} {name!r}, here {class_names[value]!r}")
        if wanted not in (None, value):
            problem = f"calls {value} {name!r}, which is class {wanted} here"
            words = "tools/labels.py", "--labels", path, "--images", image, "--output", "masks_translated"
            cure = f"translate it: {command('python', *words, '--class-names', ','.join(class_names))}"
            raise lc.InputError(f"{path}: {problem}; {cure}")
    if strange:
        warnings.warn(f"{path}: calls {'; '.join(strange)}: is that one class?", stacklevel=2)


def nodata_class(dataset: typing.Any, classes: Container[str]) -> str | None:
    """What to tell of a raster of labels that declares a class to be no data, as QGIS does of 0 by itself.

    classes: the values that are classes, as text.
    """
    if dataset.nodata is None or f"{dataset.nodata:g}" not in classes:
        return None
    unset = command("rio", "edit-info", "--unset-nodata", dataset.name)
    cure = unset if dataset.driver == "GTiff" else "save it without"
    problem = f"{dataset.nodata:g} is a class, but declared to be no data: unlabelled"
    return f"{dataset.name}: {problem}; else {cure}"


def check_palettes(masks: Iterable[str | Path]) -> None:
    """Raises InputError if two masks give one colour of their palettes to different ids.

    Programs that make a palette of what they find in each picture number classes anew in each.
    """
    known: dict[tuple, tuple[int, str | Path]] = {}
    for path in masks:
        colors: dict[int, tuple] = {}
        with contextlib.suppress(lc.InputError), lc.open_picture(path) as picture:
            if picture.mode == "P":
                table = dict(enumerate(map(tuple, np.reshape(picture.getpalette(), (-1, 3)).tolist())))
                colors = {at: table[at] for at in np.unique(picture).tolist() if at in table}
        for at, color in colors.items():
            if at == lc.IGNORE_INDEX or list(colors.values()).count(color) > 1:
                continue
            first, other = known.setdefault(color, (at, path))
            if first != at:
                problem = f"its palette gives {at} the colour that has {first} in {other}"
                cure = "make ids of the colours: python tools/convert_masks.py --help"
                raise lc.InputError(f"{path}: {problem}; {cure}")


def placing_command(dataset: typing.Any) -> str:
    """The command that places an image by its ground control points, else by its sensor model.

    What it does not cover is declared to hold no data: black in 8 bits.
    """
    name, system, kind = Path(dataset.name), dataset.gcps[1], np.dtype(dataset.dtypes[0])
    empty = np.iinfo(kind).min if kind.kind in "iu" else "nan"
    known = dataset.nodata is not None or "alpha" in [band.name for band in dataset.colorinterp]
    placed = f"{name.stem}_placed.tif"
    if dataset.gcps[0] and system and system.to_epsg():
        flags = [] if known else ["--src-nodata", empty, "--dst-nodata", empty]
        return command("rio", "warp", name, placed, "--dst-crs", f"EPSG:{system.to_epsg()}", *flags)
    flags = [] if dataset.gcps[0] else ["-rpc"]
    return command("gdalwarp", *flags, *([] if known else ["-dstnodata", empty]), name, placed)


def world_files(path: str | Path) -> list[Path]:
    """The world files beside a picture: .wld, and first and last letter of the suffix or all of it and w."""
    suffix = Path(path).suffix
    endings = (".wld", f"{suffix[:2]}{suffix[-1]}w", f"{suffix}w")
    beside = (Path(path).with_suffix(ending) for ending in endings)
    return [file for file in beside if file.is_file()]


def is_turned(scene: Scene) -> bool:
    """Whether a scene is rotated, or its first row is not the northernmost."""
    return scene.transform is not None and not (
        scene.transform.b == scene.transform.d == 0 and scene.transform.a > 0 > scene.transform.e
    )


def on_ground(transform: typing.Any, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Applies an affine transform; its own operator for it depends on the version of affine."""
    a, b, c, d, e, f = transform[:6]
    return a * x + b * y + c, d * x + e * y + f


def check_same_ground(path: str | Path, image: str | Path) -> None:
    """Raises InputError if a raster of labels does not begin where its image does; see `grid_offset`.

    What has no place lies where its image does.
    """
    with open_unscaled(image) as scene, open_unscaled(path, (1,)) as labels:
        if scene.transform is None or labels.transform is None:
            return
        offset = grid_offset(path, labels, image, scene)
    if offset is None:  # nothing of it would be left when warped
        words = "rio", "edit-info", "--like", image, "--crs", "like", "--transform", "like", path
        cure = f"give the labels of that place, or, if only their place is wrong: {command(*words)}"
        raise lc.InputError(f"{path}: lies on other ground than {image}; {cure}")
    if any(offset):
        raise lc.InputError(f"{path}: lies on other ground than {image}; {warp_command(path, image)}")


def grid_offset(
    path: str | Path, labels: typing.Any, image: str | Path, scene: typing.Any
) -> tuple[int, int] | None:
    """The row and column of a raster of labels at which its image begins; None: it lies on other ground.

    labels, scene: of rasterio, or what else has height, width, crs and transform. The corners decide, on the
    ground: two spellings of one reference system are no difference. Raises InputError if a corner lies
    lc.SAME_PIXEL or more off the grid of the labels; nearer, labels are those that `rio warp` would take.
    """
    sides = np.array([[0, scene.width, 0, scene.width], [0, 0, scene.height, scene.height]])
    place = scene.crs, scene.transform, lc.on_ground(scene.transform, *sides)
    seen = lc.corners_in(labels.crs, place)
    if np.isnan(seen).all():
        systems = " and ".join(one.to_string()[:40] for one in (labels.crs, scene.crs))
        cure = "name the right one: rio edit-info --crs EPSG:… FILE"
        raise lc.InputError(f"{path}: it and {image} cannot be compared, for they are in {systems}; {cure}")
    corners = np.array(lc.on_ground(~labels.transform, *seen))
    size = np.array([[labels.width], [labels.height]])
    covered = np.minimum(corners.max(1, keepdims=True), size) - np.maximum(corners.min(1, keepdims=True), 0)
    if not (np.isfinite(corners).all() and (covered > lc.SAME_PIXEL).all()):
        return None
    column, row = np.round(corners[:, 0]).astype(int).tolist()
    if abs(corners - [[column], [row]] - sides).max() < lc.SAME_PIXEL:
        return row, column
    upside_down = labels.transform.e * scene.transform.e < 0
    problem = "is upside down against" if upside_down else "has another grid of pixels than"
    raise lc.InputError(f"{path}: {problem} {image}; {warp_command(path, image)}")


def warp_command(path: str | Path, image: str | Path) -> str:
    """The command that brings labels to the grid of their image; what they do not cover is unlabelled."""
    flags = ["--like", image, *lc.unlabelled_flags(path)]
    return "bring it to the image's grid: " + command(
        "rio", "warp", path, f"{Path(image).stem}_placed.tif", *flags
    )


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def counted(number: int, thing: str) -> str:
    """1 point, 1,234 points."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def command(*words: object) -> str:
    """A command line to be pasted: a word with a space is quoted."""
    return " ".join(f'"{word}"' if " " in str(word) else str(word) for word in words)


EQUATOR = 34_735_060.890323  # metres around the Earth in EPSG:6933, whose lines are true at 30 degrees


def pixel_hectares(scene: Scene) -> np.ndarray | None:
    """The area of a pixel in each row, (H,), in hectares; None where it is not known, or not of Earth.

    In a projected system it is that of the grid, as a GIS reports it. Degrees, also drawn as a plane, and
    Mercator, whose scale depends on the latitude, are measured on the ground, in the equal-area EPSG:6933.
    """
    crs = scene.crs
    if not crs or not (crs.is_projected or crs.is_geographic):
        return None
    if crs.is_projected and not re.search('"(Mercator|Equirectangular)', crs.to_wkt()):
        unit = crs.linear_units_factor[1]
        hectares = abs(scene.transform.determinant) * unit**2 / 10_000
        return np.full(scene.height, hectares)
    from rasterio.transform import xy
    from rasterio.warp import transform

    rows, middle = np.arange(scene.height), np.full(scene.height, scene.width / 2)

    def on_the_ground(down: int, across: int) -> np.ndarray:
        corner = xy(scene.transform, rows + down, middle + across, offset="ul")
        return np.array(transform(crs, "EPSG:6933", *corner))

    try:
        corner = on_the_ground(0, 0)
        sides = np.stack([on_the_ground(0, 1) - corner, on_the_ground(1, 0) - corner])
    except Exception:  # what rasterio raises here has no class in common
        return None
    sides[:, 0] -= EQUATOR * np.round(sides[:, 0] / EQUATOR)  # one that reaches across 180 degrees
    hectares = np.abs(np.linalg.det(sides.T)) / 10_000
    on_earth = np.isfinite(hectares) & (hectares > 0)
    return hectares if on_earth.all() else None


def pixel_metres(scene: Scene) -> float | None:
    """The side of a square as large as a pixel in the middle row; None where it is not known."""
    hectares = pixel_hectares(scene)
    return None if hectares is None else 100 * math.sqrt(hectares[len(hectares) // 2])


# =====================================================================================================
# Scene -> what is odd about its values
# =====================================================================================================

# What changes all values alike: in words, the flags of gdal_translate that undo it, factor and summand
# that undo it. The first is of ESA's processing baseline 04.00.
RESCALINGS = (
    ("Sentinel-2 adds 1000 since January 2022", "-ot UInt16 -scale 1000 11000 0 10000", 1, -1000),
    ("Sentinel-2 before January 2022 lacks the 1000 since added", "-scale 0 10000 1000 11000", 1, 1000),
    ("it holds reflectance 0..1, not 0..10000", "-ot UInt16 -scale 0 1 0 10000", 10_000, 0),
    ("it holds reflectance 0..10000, not 0..1", "-ot Float32 -scale 0 10000 0 1", 1e-4, 0),
    ("it holds 8-bit values, not 16-bit ones", "-ot UInt16 -scale 0 255 0 65535", 257, 0),
    ("it holds 16-bit values, not 8-bit ones", "-ot UInt16 -scale 0 65535 0 255", 1 / 257, 0),
)


def odd_values(path: str | Path, bands: Sequence[int], ranges: Sequence | None) -> Iterator[str]:
    """Looks at sixteen rows of a scene: is there nodata that nobody declared, has the network learnt from
    such values, and is a band that it reads as data an alpha? Yields what to tell, each with the likely
    cause and the cure.

    ranges: the (lowest, highest) value of each band in training, as for `lc.read_tile`.
    """
    for told in lc.misread_declarations(path, bands):
        cure = "" if ";" in told else "; give the scene with the bands that the network learnt from"
        yield f"{path}: {told}{cure}"
    with open_unscaled(path, bands) as scene:
        rows = np.unique(np.linspace(0, scene.height - 1, 16).astype(int))
        pixels = np.concatenate([scene.read(row, row + 1)[0] for row in rows.tolist()])
    values = pixels[pixels[:, -1] > 0, :-1].astype(float)
    if (nodata := undeclared_nodata(values)) is not None:
        empty = (values == nodata).all(1)
        problem = f"{empty.mean():.0%} of its pixels hold {nodata:g}, apart from all others: is that nodata?"
        yield f"{path}: {problem} then declare it: {declaration(path, nodata)}"
        values = values[~empty]
    if ranges is not None and len(values) and share_outside(values, ranges) > 0.5:
        problem = f"{share_outside(values, ranges):.0%} of its values lie outside of those trained on"
        yield f"{path}: {problem}, {format_ranges(ranges)}; {likely_cause(path, bands, values, ranges)}"


def unlike_tile(path: str | Path, tile: tuple, bands: Sequence[int]) -> Iterator[str]:
    """Yields in what a scene differs from a tile that the network learnt from, each with the cure.

    tile: of `names_and_metres`. Compared are the names of the bands that are read, if some are the same, and
    the size of a pixel on the ground, if it is more than SAME_SIZE times larger or smaller.
    """
    (names, here), (known, there) = names_and_metres(path, bands), tile
    if names and known and names != known and {*names} & {*known}:
        cure = command("gdal_translate", "-b", "…", "-b", "…", path, f"{Path(path).stem}_bands.tif")
        problem = (
            f"bands {listed(bands)} are named {listed(names)}, those of the training tiles {listed(known)}"
        )
        yield f"{path}: its {problem}; give it with its bands in that order: {cure}"
    if here and there and not 1 / SAME_SIZE < here / there < SAME_SIZE:
        height, width, *_ = lc.image_facts(path)
        size = [max(1, round(side * here / there)) for side in (width, height)]
        how = "-r", "average" if here < there else "cubic", "-outsize", *size  # rio warp would lose a mask
        cure = command("gdal_translate", *how, path, f"{Path(path).stem}_resampled.tif")
        problem = f"its pixels are {here:.3g} m wide, those of the training tiles {there:.3g} m"
        yield f"{path}: {problem}: things have another size than the network knows; resample it: {cure}"


def names_and_metres(path: str | Path, bands: Sequence[int]) -> tuple[list[str] | None, float | None]:
    """The names of the bands that are read, None if not all have one, and the side of a pixel in metres."""
    names = []
    with lc.open_image(path) as image:
        if not isinstance(image, Image.Image):
            read = lc.choose_bands(path, bands, image.dtypes)
            names = [(image.descriptions[band - 1] or "").strip().casefold() for band in read]
    with open_unscaled(path, bands) as scene:
        return (names if names and all(names) else None), pixel_metres(scene)


def declaration(path: str | Path, nodata: float) -> str:
    """The command that declares a nodata value."""
    if Path(path).suffix.lower() in (".tif", ".tiff"):
        return command("rio", "edit-info", f"--nodata={nodata:.17g}", path)
    return command("gdal_translate", "-a_nodata", f"{nodata:.17g}", path, f"{Path(path).stem}_nodata.tif")


def undeclared_nodata(values: np.ndarray) -> float | None:
    """The value that fills all bands of over a percent of the pixels (N, bands), apart from all others.

    Apart: no other comes nearer than a quarter of what lies between the 2nd and the 98th percentile of the
    others; or it is the lowest, and of three bands that differ hardly one comes near, as in a shadow. None
    without.
    """
    same = (values == values[:, :1]).all(1)
    colours = values.shape[1] > 2 and not same.all()
    lowest, highest = values.min(initial=np.inf), values.max(initial=-np.inf)
    for extreme in (lowest, highest):
        empty = same & (values[:, 0] == extreme)
        others = values[~empty]
        if not 0.01 < empty.mean() < 1 if len(empty) else True:
            continue
        low, high = np.percentile(others, (2, 98))
        away = np.abs(others - extreme)
        near = np.count_nonzero((away < (high - low) / 32).all(1))
        gap = colours and extreme == lowest and near < empty.sum() / 20
        if high > low and (gap or away.min() > (high - low) / 4):
            return float(extreme)
    return None


def share_outside(values: np.ndarray, ranges: Sequence) -> float:
    low, high = np.transpose(ranges)
    return float(((values < low) | (values > high)).mean())


def format_ranges(ranges: Sequence) -> str:
    return " ".join(f"{low:g}..{high:g}" for low, high in ranges)


def likely_cause(path: str | Path, bands: Sequence[int], values: np.ndarray, ranges: Sequence) -> str:
    """Of the known rescalings that which brings most values (N, bands) back, with the command."""
    low, high = np.transpose(ranges)
    shares = []
    for *_, factor, summand in RESCALINGS:
        rescaled = values * factor + summand
        flat = (np.ptp(np.percentile(rescaled, (2, 98), axis=0), axis=0) < (high - low) / 20).all()
        shares.append(1.0 if flat else share_outside(rescaled, ranges))  # 1000 and a bit is no spectrum
    best = int(np.argmin(shares))
    if shares[best] > share_outside(values, ranges) / 2:
        return "are sensor, units and season those of the training images?"
    cause, flags, *_ = RESCALINGS[best]
    words = *flags.split(), *mask_of_alpha(path, bands), path, f"{Path(path).stem}_rescaled.tif"
    return f"probably {cause}: {command('gdal_translate', *words)}"


def mask_of_alpha(path: str | Path, bands: Sequence[int]) -> list[object]:
    """The flags of gdal_translate that make an alpha band a mask, or -scale would scale it, too."""
    with lc.open_image(path) as image:
        if isinstance(image, Image.Image) or not (alphas := lc.alpha_bands(image, bands)):
            return []
        data = [flag for band in image.indexes if band not in alphas for flag in ("-b", band)]
    return [*data, "-mask", alphas[0]] if alphas == [image.count] else []  # else bands change their numbers


# =====================================================================================================
# Class ids -> rasters with their legend and place
# =====================================================================================================


@contextlib.contextmanager
def raster_writer(
    path: Path,
    scene: Scene,
    description: str,
    names: Sequence[str] = (),
    palette: np.ndarray | None = None,
    tags: dict[str, str] | None = None,
) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Yields write(top, rows (h, W) uint8) for a raster of the scene's size in which 255 is nodata.

    With a georeference it becomes a cloud-optimised GeoTIFF, by way of a plain one in a temporary folder;
    else a PNG, which is held at one byte per pixel until all rows are there. names, palette (C, 3) uint8:
    of its classes; tags: of the GeoTIFF. Raises InputError if there is no room for the GeoTIFF.
    """
    table = None if palette is None else lc.colorize(np.arange(256), palette)
    if scene.transform is None:
        picture = Image.new("L", (scene.width, scene.height))
        yield lambda top, rows: picture.paste(Image.fromarray(rows), (0, top))
        if table is not None:
            picture.putpalette(table.tobytes())
        picture.save(path)
        return
    import rasterio

    place = {"height": scene.height, "width": scene.width, "crs": scene.crs, "transform": scene.transform}
    form = {"count": 1, "dtype": "uint8", "nodata": lc.IGNORE_INDEX, "bigtiff": "if_safer"}
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        plain = Path(folder) / "plain.tif"
        with rasterio.open(plain, "w", "GTiff", **place, **form) as dataset:
            dataset.set_band_description(1, description)
            dataset.update_tags(**(tags or {}))
            dataset.update_tags(1, **{f"CLASS_{index}": name for index, name in enumerate(names)})
            if table is not None:
                dataset.write_colormap(1, dict(enumerate(table.tolist())))

            def write(top: int, rows: np.ndarray) -> None:
                with there_is_room(path.parent):
                    dataset.write(rows, 1, window=((top, top + len(rows)), (0, scene.width)))

            yield write
        with there_is_room(path.parent):
            optimise_for_clouds(plain, path, "average" if table is None else "mode")


def optimise_for_clouds(plain: Path, path: Path, resampling: str) -> None:
    """Copies a GeoTIFF of one band to a cloud-optimised one. Raises OSError if its end is missing."""
    import rasterio.shutil

    packed = {"compress": "deflate", "level": 1, "num_threads": lc.cores_at_hand(), "bigtiff": "if_safer"}
    rasterio.shutil.copy(plain, path, driver="COG", overview_resampling=resampling, **packed)
    with rasterio.open(plain) as ours, rasterio.open(path) as copied:
        end = (max(0, ours.height - 512), ours.height), (0, ours.width)
        if not np.array_equal(ours.read(1, window=end), copied.read(1, window=end)):
            raise OSError("its end is missing")  # GDAL keeps to itself what fails as it closes a file


@contextlib.contextmanager
def there_is_room(folder: Path) -> Iterator[None]:
    """Raises InputError where GDAL, whose errors have no class in common, cannot write."""
    try:
        yield
    except Exception as error:
        cure = "is the disk full? free some space"
        raise lc.InputError(f"{folder}: a map cannot be written ({error}); {cure}") from error


def legend_xml(names: Sequence[str], palette: np.ndarray, tags: dict[str, str]) -> str:
    """The .aux.xml beside a raster of classes: GDAL takes the names from its categories, GRASS names and
    colours from its attribute table (https://gdal.org/en/stable/user/raster_data_model.html).
    """
    items = "".join(f"<MDI key={quoteattr(key)}>{escape(text)}</MDI>" for key, text in tags.items())
    metadata = f"<Metadata>{items}</Metadata>" if items else ""
    categories = "".join(f"<Category>{escape(name)}</Category>" for name in names)
    # name, type (0: whole number, 2: text) and usage (5: value, 2: name, 6 to 8: colour) of each column
    columns = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
    table = ""
    for index, (name, kind, usage) in enumerate(columns):
        form = f"<Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>"
        table += f'<FieldDefn index="{index}">{form}</FieldDefn>'
    for index, (name, color) in enumerate(zip(names, palette.tolist(), strict=True)):
        cells = "".join(f"<F>{escape(str(cell))}</F>" for cell in (index, name, *color))
        table += f'<Row index="{index}">{cells}</Row>'
    table = f'<GDALRasterAttributeTable tableType="thematic">{table}</GDALRasterAttributeTable>'
    band = f"<NoDataValue>{lc.IGNORE_INDEX}</NoDataValue><CategoryNames>{categories}</CategoryNames>{table}"
    return f'<PAMDataset>{metadata}<PAMRasterBand band="1">{band}</PAMRasterBand></PAMDataset>'


def placement(scene: Scene, step: int) -> str:
    """The .aux.xml in which GDAL and QGIS look for the place of a picture of every step-th pixel."""
    system = f"<SRS>{escape(scene.crs.to_wkt())}</SRS>" if scene.crs else ""
    a, b, c, d, e, f = scene.transform[:6]  # GDAL has them in another order
    numbers = ", ".join(map(repr, (c, step * a, step * b, f, step * d, step * e)))
    return f"<PAMDataset>{system}<GeoTransform>{numbers}</GeoTransform></PAMDataset>"


def qgis_style(names: Sequence[str], palette: np.ndarray) -> str:
    """The .qml in which QGIS looks for a raster's legend: without it, all 256 colours of a table show."""
    entries = ""
    for index, (name, color) in enumerate(zip(names, palette, strict=True)):
        look = f'value="{index}" color="#{bytes(color).hex()}" alpha="255"'
        entries += f"<paletteEntry {look} label={quoteattr(name)}/>"
    renderer = '<rasterrenderer type="paletted" band="1" opacity="1">'
    table = f"<colorPalette>{entries}</colorPalette>"
    return f"<qgis><pipe>{renderer}{table}</rasterrenderer></pipe></qgis>"
