#!/usr/bin/env bash
# A GeoTIFF of 64-bit integers whose nodata is the lowest of them comes back with -9 for nodata, or 1.
#
# Behaviour  rasterio writes nodata=-2**63 of an int64 raster as the text -9.22337203685477581e+18, of which
#            GDAL reads the digits before the point: nodata is -9. 10**18 - 1 and 10**18 become 1, and
#            2**63 in uint64 becomes 9. Pixels of class 1 are then masked, those without data are not, and
#            nobody says a word. 10**15, -9999 and the extremes of 32 bits come back as they were.
# Version    rasterio 1.4.4 with GDAL 3.10.3, numpy 2.4.6, Python 3.11. gdalinfo 3.6.2 reads the files the same.
# Source     https://github.com/OSGeo/gdal/pull/5257 brought 64-bit integers, with calls of their own for their
#            nodata, as a double holds no more than 2**53 exactly; it says that places remain which use doubles.
#            https://gdal.org/en/stable/drivers/raster/gtiff.html: nodata is ASCII text in the tag 42113.
# Guessed    That the lowest value, the usual fill of int64 arrays, is exact in a double and comes back; or an
#            error, as 2**64 - 1 gives one.
# Way out    Declare -9999 or 255, or write class ids as uint8; open the file again and compare its nodata.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PY'
import sys

import numpy as np
import rasterio
from rasterio.transform import from_origin

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
form = {"driver": "GTiff", "count": 1, "height": 1, "width": 3, "crs": "EPSG:32632"}
form["transform"] = from_origin(500000, 5000000, 1, 1)

held = True
for dtype, nodata, comes_back in (
    ("int64", -(2**63), -9),
    ("int64", 10**18 - 1, 1),
    ("int64", 10**18, 1),
    ("uint64", 2**63, 9),
    ("int64", 10**15, 10**15),
    ("int64", -9999, -9999),
    ("int32", -(2**31), -(2**31)),
    ("uint32", 2**32 - 1, 2**32 - 1),
):
    values = np.array([[nodata, comes_back, 2]], dtype)
    with rasterio.open("labels.tif", "w", dtype=dtype, nodata=nodata, **form) as dataset:
        dataset.write(values, 1)
    with rasterio.open("labels.tif") as dataset:
        hidden = values[dataset.read_masks(1) == 0].tolist()
        print(f"{dtype}, nodata {nodata}: comes back as {dataset.nodata:g}; hidden: {sorted(set(hidden))}")
        held &= dataset.nodata == comes_back and set(hidden) == {comes_back}
        held &= (dataset.read(1) == values).all()  # the pixels themselves are whole
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
