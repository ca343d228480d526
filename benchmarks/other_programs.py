"""What GDAL, GRASS, SAGA, OTB and QGIS show of each kind of file that these programs write.

    apt-get install gdal-bin grass-core saga otb-bin qgis && pip install geopandas rasterio
    python benchmarks/other_programs.py --output benchmarks/results/OTHER_PROGRAMS.md

Makes a small scene north-up, rotated and south-up, its labels, tiles, maps and reference points by the
programs in tools/, opens each file in each program without a screen, and writes a table of what they say of
it. The scene is three stripes of colour, and a network of one fixed convolution tells them apart: what is
shown can be counted. The last maps of a turned scene have been warped as the note in them says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import numpy as np
import torch
from map_scenes import predict_scene
from PIL import Image
from torch import nn

import landcover_segmentation as lc

NAMES = ["water", "forêt", "road & rail"]
COLORS = ["#3b78d8", "#2e8b3d", "#4d4d4d"]
HEIGHT, WIDTH, CRS = 120, 192, "EPSG:32633"
EMPTY = 16 * 16  # pixels without data, in a corner of the scene
QUIET = {"QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": "/tmp", "GRASS_SKIP_MAPSET_OWNER_CHECK": "1"}
COLUMNS = ("size", "upper left, pixel", "system", "no data", "colours", "class names")
ABSENT = "none"
READING = """
- GDAL and QGIS show all; GRASS too, but north-up only. SAGA and OTB show place and nodata, no colours, no
  names.
- A rotated map: OTB puts it north-up at the same corner without a word, SAGA and QGIS turn it right. Warp it.
- After the warp QGIS 3.22 has colours without names: GDAL drops them, and the legend, NAME_classes.qml, is of
  the old file name; copied to NAME_classes_north.qml it shows. The attribute table, for GRASS, is kept.
- Where a file declares no nodata value, SAGA takes 0 for one: it hides class 0 of masks, and what is black.
- GRASS, SAGA and OTB do not read the mask by which a tile says what is empty; there its pixels are black.
- OTB's ComputeConfusionMatrix leaves class 0 of reference points out unless -ref.vector.nodata is 255, and
  of a field of names makes an empty matrix. SAGA's Add Grid Values to Points takes a spline of class ids
  unless told -RESAMPLING 0 (findings/saga_points_spline_classes.sh).
- The world file of an earlier overlay is removed: left beside it, it would have moved the overlay.
- Read, not tried: QGIS from 3.30 asks GDAL for a band's attribute table (`readNativeAttributeTable` in
  https://github.com/qgis/QGIS, src/core/providers/gdal/qgsgdalprovider.cpp at 0178ef7), and so is given ours.
  Whether it colours a layer by it unasked, we did not find.
- Read, not tried: Esri says that an .aux.xml may hold a colour map, statistics or a table
  (https://pro.arcgis.com/en/pro-app/2.9/help/data/imagery/auxiliary-files.htm) and that the attribute table
  of a file lies in its folder (https://pro.arcgis.com/en/pro-app/3.2/help/data/imagery/
  raster-dataset-attribute-tables-pro-.htm). Neither page says that ArcGIS reads GDAL's table.
"""

# ==== Our files ======================================================================================


def toy_network() -> nn.Module:
    """A network whose class is the brightest of red, green and blue."""
    model = nn.Conv2d(3, 3, 1, bias=False)
    nn.init.eye_(model.weight[:, :, 0, 0])
    model.num_classes, model.class_names, model.class_colors = 3, NAMES, COLORS
    return model.eval()


def write_scenes(folder: Path) -> list[Path]:
    """Three stripes of colour, a corner without data: in each of three positions, and as a bare picture."""
    import rasterio
    from rasterio.transform import Affine, from_origin

    stripes = np.full((3, HEIGHT, WIDTH), 20, np.uint8)
    for band in range(3):
        stripes[band, :, band * WIDTH // 3 : (band + 1) * WIDTH // 3] = 220
    stripes[:, :16, :16] = 0
    north_up = from_origin(500_000, 5_600_000, 2, 2)
    south_up = Affine(2, 0, 500_000, 0, 2, 5_599_760)
    places = {"scene": north_up, "rotated": north_up * Affine.rotation(20), "south_up": south_up}
    form = {"count": 3, "height": HEIGHT, "width": WIDTH, "dtype": "uint8", "crs": CRS, "nodata": 0}
    for name, place in places.items():
        with rasterio.open(folder / f"{name}.tif", "w", "GTiff", transform=place, **form) as dataset:
            dataset.write(stripes)
    Image.fromarray(stripes.transpose(1, 2, 0)).save(folder / "picture.png")
    return [*(folder / f"{name}.tif" for name in places), folder / "picture.png"]


def run_tool(name: str, *arguments: object) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / name, *map(str, arguments)], check=True)


def make_files(folder: Path) -> dict[str, Path]:
    """Makes a file of each kind. Returns them by what they are."""
    import geopandas
    import shapely

    model, maps, scenes = toy_network(), folder / "maps", folder / "scenes"
    for path in (maps, scenes):
        path.mkdir()
    for scene in write_scenes(scenes):
        predict_scene(model, scene, maps, tile=64, confidence=True, dtype=torch.float32)
    # an overlay of an earlier run may have left a world file, which in GDAL beats the place in an .aux.xml
    (maps / "scene_overlay.pgw").write_text("1\n0\n0\n-1\n0\n0\n")
    predict_scene(model, scenes / "scene.tif", maps, tile=64, confidence=True, dtype=torch.float32)
    (folder / "images").mkdir()
    (scenes / "scene.tif").rename(folder / "images/scene.tif")
    points = [shapely.Point(500_021 + 30 * index, 5_599_979 - 20 * index) for index in range(12)]
    field = geopandas.GeoDataFrame({"class": [NAMES[i // 4] for i in range(12)]}, geometry=points, crs=CRS)
    field.to_file(folder / "field.gpkg")
    names, points = ("--class-names", ",".join(NAMES)), folder / "points.csv"
    labels = "labels.py", "--labels", folder / "field.gpkg", "--images", folder / "images", *names
    run_tool(*labels, "--output", points)
    run_tool(*labels, "--output", folder / "masks")
    cut = "--images", folder / "images", "--points", points, "--tile", 32, "--block", 1, *names
    run_tool("cut_tiles.py", *cut, "--output", folder / "tiles")
    run_tool("assess.py", "sample", "--map", maps / "scene_classes.tif", "--output", folder / "reference.csv")
    files = {
        "map of classes": maps / "scene_classes.tif",
        "confidence": maps / "scene_confidence.tif",
        "overlay": maps / "scene_overlay.png",
        "map of a picture without a place": maps / "picture_classes.png",
        "tile of cut_tiles.py": folder / "tiles/train/images/scene_r000_c000.tif",
        "mask of labels.py": folder / "masks/scene.png",
        "points of labels.py": points,
        "sample of assess.py": folder / "reference.gpkg",
    }
    for name in ("rotated", "south_up"):
        files[f"map of a {name.replace('_', '-')} scene"] = maps / f"{name}_classes.tif"
        files[f"{name.replace('_', '-')}, warped as its note says"] = run_cure(
            maps / f"{name}_classes.tif", folder
        )
    return files


def run_cure(path: Path, folder: Path) -> Path:
    """Runs the command that the note of a map names, in another folder, and returns what it wrote."""
    import rasterio

    with rasterio.open(path) as dataset:
        command = shlex.split(dataset.tags()["NOTE"].rpartition("; ")[2])
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return folder / command[-1]


# ==== Their words: each opens a file and returns its columns, or a line why not =======================


def said(*command: object, **more) -> str:
    """What a program prints, on both streams."""
    process = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | QUIET, timeout=300, **more
    )
    return process.stdout + process.stderr


def shown_colors(colors: dict[int, str], entries: int = 0) -> str:
    right = sum(colors.get(index) == color for index, color in enumerate(COLORS))
    return (
        f"{right} of 3" + (f", in {entries} entries" if entries > len(COLORS) else "") if colors else ABSENT
    )


def shown_names(names: list[str]) -> str:
    return f"{sum(name in names for name in NAMES)} of 3"


def grid(left: float, top: float, x: float, y: float) -> str:
    return f"{left:.0f}, {top:.0f}; {x:.4g}, {y:.4g}"


def vector_row(count: int, fields: list[str], bounds: list[float] | None, system: str) -> tuple:
    place = f"{bounds[0]:.0f}, {bounds[3]:.0f}" if bounds else ABSENT
    return f"{count} rows: {', '.join(fields)}", place, system, "", "", ""


def ogr(path: Path) -> tuple:
    text = said("ogrinfo", "-so", "-al", path)
    bounds = re.search(r"Extent: \(([\d.]+), ([\d.]+)\) - \(([\d.]+), ([\d.]+)\)", text)
    fields = re.findall(r"^(\w+): (?:String|Integer|Real)", text, re.MULTILINE)
    system = epsg(re.findall(r'^    ID\["EPSG",(\d+)\]\]', text, re.MULTILINE))
    count = int(re.search(r"Feature Count: (\d+)", text)[1])
    return vector_row(count, fields, bounds and [*map(float, bounds.groups())], system)


def gdal(path: Path, folder: Path) -> tuple | str:
    if path.suffix in (".gpkg", ".csv"):
        return ogr(path)
    facts = json.loads(said("gdalinfo", "-json", path).partition("\nWarning")[0])
    band, place = facts["bands"][0], facts.get("geoTransform")
    x, y = (place[1], place[5]) if place else (1, 1)
    turned = ", rotated" if place and place[2] else ""
    table = band.get("colorTable", {}).get("entries", [])
    colors = {index: "#" + bytes(entry[:3]).hex() for index, entry in enumerate(table)}
    return (
        " x ".join(map(str, facts["size"])),
        grid(place[0], place[3], x, y) + turned if place else ABSENT,
        epsg(re.findall(r'\n    ID\["EPSG",(\d+)\]\]$', facts.get("coordinateSystem", {}).get("wkt", ""))),
        f"{band['noDataValue']:g}" if "noDataValue" in band else mask_of(band),
        shown_colors(colors),
        shown_names(band.get("categories", [])) if "categories" in band else rat_names(facts),
    )


def epsg(codes: list[str]) -> str:
    return f"EPSG:{codes[-1]}" if codes else ABSENT


def mask_of(band: dict) -> str:
    return "a mask" if "PER_DATASET" in band.get("mask", {}).get("flags", []) else ABSENT


def rat_names(facts: dict) -> str:
    rows = facts.get("rat", {}).get("row", [])
    return f"{shown_names([row['f'][1] for row in rows])} (attribute table)" if rows else ABSENT


def grass(path: Path, folder: Path) -> tuple | str:
    system = "XY" if path.suffix == ".csv" or gdal(path, folder)[2] == ABSENT else CRS
    start = "grass", "--tmp-location", system, "--exec", "sh", "-c"
    if path.suffix == ".csv":
        return "not tried: pixels of images, no place"
    if path.suffix == ".gpkg":
        text = said(*start, f"v.in.ogr --q input={path} output=m && v.info -gt m && v.info -c m --q")
        found = dict(re.findall(r"^(\w+)=(.*)", text, re.MULTILINE))
        fields = re.findall(r"\|(\w+)", text)[1:]
        bounds = [float(found[side]) for side in ("west", "south", "east", "north")]
        return vector_row(int(found["points"]), fields, bounds, system)
    load = f"r.in.gdal --q input={path} output=m && m=$(g.list raster | head -1) && g.region raster=$m"
    text = said(*start, f"{load} && r.info -g $m; r.univar -g $m; r.colors.out $m; r.category $m")
    if error := re.search(r"ERROR: ([^.]*)\.", text):
        return "refused: " + " ".join(error[1].split())
    found = dict(re.findall(r"^(\w+)=(.*)", text, re.MULTILINE))
    colors = {int(key): "#" + bytes(map(int, rgb.split(":"))).hex()
              for key, rgb in re.findall(r"^(\d+) (\d+:\d+:\d+)", text, re.MULTILINE)}  # fmt: skip
    numbers = [float(found[key]) for key in ("west", "north", "ewres", "nsres")]
    names = re.findall(r"^\d+\t(.+)", text, re.MULTILINE)
    return (
        f"{found['cols']} x {found['rows']}",
        grid(*numbers[:3], -numbers[3]) if system != "XY" else ABSENT,
        system if system != "XY" else ABSENT,
        f"{found['null_cells']} null cells",
        shown_colors(colors) if path.name.endswith(("classes.tif", "classes.png", "north.tif")) else ABSENT,
        shown_names(names) if names else ABSENT,
    )


def saga(path: Path, folder: Path) -> tuple | str:
    if path.suffix == ".csv":
        return "not tried: pixels of images, no place"
    target = folder / "saga"
    target.mkdir(exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    if path.suffix == ".gpkg":
        said("saga_cmd", "-f=s", "io_gdal", 3, "-FILES", path, "-SHAPES", target / "m.shp")
        return ogr(target / "m.shp")
    said("saga_cmd", "-f=s", "io_gdal", 0, "-FILES", path, "-GRIDS", target / "m.sgrd", "-MULTIPLE", 0)
    header = next(iter(sorted(target.glob("*.sgrd"))), None)
    if header is None:
        return "refused"
    found = dict(re.findall(r"^(\w+)\s*= (.*)", header.read_text(), re.MULTILINE))
    x, y, size, rows = (float(found[key]) for key in
                        ("POSITION_XMIN", "POSITION_YMIN", "CELLSIZE", "CELLCOUNT_Y"))  # fmt: skip
    system = header.with_suffix(".prj")
    system = re.findall(r'AUTHORITY\["EPSG","(\d+)"\]\]$', system.read_text()) if system.exists() else []
    nodata = "{:g}".format(float(found["NODATA_VALUE"].split(";")[0]))
    return (
        f"{found['CELLCOUNT_X']} x {found['CELLCOUNT_Y']}",
        grid(x - size / 2, y + (rows - 0.5) * size, size, -size) if system or x else ABSENT,
        epsg(system),
        nodata,
        ABSENT,
        ABSENT,
    )


def otb(path: Path, folder: Path) -> tuple | str:
    if path.suffix in (".gpkg", ".csv"):
        return "not tried: ReadImageInfo reads images"
    text = said("otbcli_ReadImageInfo", "-in", path)
    found = dict(re.findall(r"^(\w+): (.*)", text, re.MULTILINE))
    if "sizex" not in found:
        return "refused"
    x, y, left, top = (float(found[key]) for key in ("spacingx", "spacingy", "originx", "originy"))
    system = re.findall(r'AUTHORITY\["EPSG","(\d+)"\]\]$', found["projectionref"])
    nodata = re.search(r"Band 1: (\d+)", text)
    place = grid(left - x / 2, top - y / 2, x, y) if system else ABSENT
    size = f"{found['sizex']} x {found['sizey']}"
    return size, place, epsg(system), nodata[1] if nodata else ABSENT, ABSENT, ABSENT


QGIS = """
import json, os, sys
from qgis.core import Qgis, QgsApplication, QgsRasterLayer, QgsVectorLayer

application = QgsApplication([], False)
application.initQgis()
path = sys.argv[1]
found = {"version": Qgis.QGIS_VERSION}
if path.endswith((".gpkg", ".csv")):
    layer = QgsVectorLayer(path, "m", "ogr")
    found["fields"] = [field.name() for field in layer.fields()]
    found["count"] = layer.featureCount()
else:
    layer = QgsRasterLayer(path, "m")
    layer.loadDefaultStyle()
    provider = layer.dataProvider()
    found["size"] = [layer.width(), layer.height()]
    found["pixel"] = [layer.rasterUnitsPerPixelX(), layer.rasterUnitsPerPixelY()]
    found["nodata"] = provider.sourceNoDataValue(1) if provider.sourceHasNoDataValue(1) else None
    found["renderer"] = layer.renderer().type()
    found["legend"] = [[name, color.name()] for name, color in layer.legendSymbologyItems()]
extent = layer.extent()
found["bounds"] = [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()]
found["system"] = layer.crs().authid()
print("FOUND" + json.dumps(found), flush=True)
os._exit(0)
"""


def qgis(path: Path, folder: Path) -> tuple | str:
    """By QGIS's own Python, which is that of the system."""
    text = said("/usr/bin/python3", "-W", "ignore", "-c", QGIS, path)
    found = json.loads(re.search("^FOUND(.*)", text, re.MULTILINE)[1])
    system, bounds = found["system"] or ABSENT, found["bounds"]
    if "fields" in found:
        return vector_row(found["count"], found["fields"], bounds if system != ABSENT else None, system)
    legend = found["legend"] if found["renderer"] == "paletted" else []
    colors = {index: color for index, (_, color) in enumerate(legend)}
    x, y = found["pixel"]
    return (
        " x ".join(map(str, found["size"])),
        grid(bounds[0], bounds[3], x, -y) if system != ABSENT else ABSENT,
        system,
        ABSENT if found["nodata"] is None else f"{found['nodata']:g}",
        shown_colors(colors, len(legend)),
        shown_names([name for name, _ in legend]) if legend else ABSENT,
    )


PROGRAMS = {"GDAL": gdal, "GRASS": grass, "SAGA": saga, "OTB": otb, "QGIS": qgis}


def versions() -> str:
    """The versions of the five, as they tell them."""
    commands = {
        "GDAL": ("gdalinfo", "--version"),
        "GRASS": ("grass", "--tmp-location", "XY", "--exec", "g.version"),
        "SAGA": ("saga_cmd", "--version"),
        "OTB": ("otbcli_ReadImageInfo", "-version"),
        "QGIS": ("qgis", "--version"),
    }
    found = {name: re.search(r"\d+\.\d+\.\d+", said(*command)) for name, command in commands.items()}
    return ", ".join(f"{name} {match[0]}" for name, match in found.items())


# ==== Table ==========================================================================================


def write_table(files: dict[str, Path], folder: Path, output: Path) -> None:
    lines = [
        "# Our files in other programs",
        "",
        f"Made by `{Path(__file__).relative_to(ROOT)}`, which says how. {versions()}.",
        "",
        f"| file | program | {' | '.join(COLUMNS)} |",
        f"|{'---|' * (2 + len(COLUMNS))}",
    ]
    for what, path in files.items():
        for name, program in PROGRAMS.items():
            found = program(path, folder)
            cells = [found, *[""] * 5] if isinstance(found, str) else found
            lines.append(f"| {what} | {name} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
            what = ""
    with lc.atomic_write(output) as draft:
        draft.write_text("\n".join(lines) + "\n" + READING, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/OTHER_PROGRAMS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_table(make_files(Path(folder)), Path(folder), args.output)


if __name__ == "__main__":
    main()
