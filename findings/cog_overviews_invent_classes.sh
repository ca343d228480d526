#!/usr/bin/env bash
# GDAL's COG driver makes classes that nobody mapped, in its overviews, of ids without a colour table.
#
# Behaviour  A map of the ids 1, 5 and 9 in uint8, copied to a cloud-optimised GeoTIFF with the driver's defaults. At
#            full size it has these three; read at a half or a quarter, as every viewer does when it is zoomed out, it
#            has eleven, from 0 to 10. With a colour table in the source, or overview_resampling="mode", three.
# Version    rasterio 1.4.4 with GDAL 3.10.3, numpy 2.4.6, Python 3.11.
# Source     https://gdal.org/en/stable/drivers/raster/cog.html (OVERVIEW_RESAMPLING: cubic, nearest for palettes).
# Guessed    That overviews hold values of the raster: of the GTiff driver they do (nearest by itself).
# Way out    OVERVIEW_RESAMPLING=MODE, or a colour table.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import rasterio
from rasterio.shutil import copy
from rasterio.transform import from_origin

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
draw = np.random.default_rng(0).choice([1, 5, 9], (257, 257)).astype(np.uint8)
ids = np.kron(draw, np.ones((8, 8), np.uint8))[3:2051, 3:2051]  # patches of 8 pixels, off the grid of overviews
form = {"driver": "GTiff", "height": 2048, "width": 2048, "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
form["transform"] = from_origin(500_000, 2_800_000, 1, 1)


def write(name: str, table: bool) -> None:
    with rasterio.open(name, "w", **form) as dataset:
        dataset.write(ids, 1)
        if table:
            dataset.write_colormap(1, {1: (200, 0, 0), 5: (0, 200, 0), 9: (0, 0, 200)})


write("plain.tif", False)
write("table.tif", True)
held = True
for source, options, exact in (
    ("plain.tif", {}, False),
    ("plain.tif", {"overview_resampling": "mode"}, True),
    ("table.tif", {}, True),
):
    copy(source, "cog.tif", driver="COG", **options)
    with rasterio.open("cog.tif") as dataset:
        seen = {part: np.unique(dataset.read(1, out_shape=(2048 // part,) * 2)).tolist() for part in (1, 2, 4)}
    print(source, options, *(f"| 1/{part}: {values}" for part, values in seen.items()))
    held &= seen[1] == [1, 5, 9] and all((seen[part] == [1, 5, 9]) == exact for part in (2, 4))
with rasterio.open("plain.tif", "r+") as dataset:
    dataset.build_overviews([2, 4])
with rasterio.open("plain.tif") as dataset:
    values = np.unique(dataset.read(1, out_shape=(1024, 1024))).tolist()
print("plain.tif with overviews of its own | 1/2:", values)
held &= values == [1, 5, 9]
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
