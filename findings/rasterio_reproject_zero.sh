#!/usr/bin/env bash
# rasterio's reproject takes no notice of dst_nodata=0 where the source has a nodata value.
#
# Behaviour  A map of the ids 1 to 3 with 255 for no data is warped with dst_nodata=0. The destination is filled with
#            255, and so are the gaps: 0 counts as "not given". 9 is obeyed. A map of 5 pixels with data, written
#            with nodata=0 as it was asked for, has 20 of them, 15 of a class 255. WarpedVRT with nodata=0 is right.
# Version    rasterio 1.4.4 with GDAL 3.10.3, numpy 2.4.6, Python 3.11. It is the newest for Python 3.11 and before.
# Source     https://rasterio.readthedocs.io/en/stable/api/rasterio.warp.html: dst_nodata fills what the source does
#            not cover; by default it is the destination's, the source's or 0. Nothing sets 0 apart. Reported at
#            https://github.com/rasterio/rasterio/issues/3320 as new in 1.4 and mended in 2026 by
#            https://github.com/rasterio/rasterio/pull/3506, for versions that ask for Python 3.12.
# Guessed    That a value that is given is taken, and 0 like any other.
# Way out    WarpedVRT(source, nodata=0), to the nearest pixel alone (see gdal_warp_zero_becomes_one.sh), or
#            INIT_DEST="0" beside dst_nodata=0; or look for the source's value after.
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
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import reproject

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__)
crs, ids = "EPSG:32640", np.array([[1, 1, 2], [3, 255, 1]], np.uint8)
inner, outer = (from_origin(500_000 - edge, 2_800_000 + edge, 1, 1) for edge in (0, 1))  # one pixel more around
places = {"src_transform": inner, "dst_transform": outer, "src_crs": crs, "dst_crs": crs}
framed = np.pad(ids, 1, constant_values=255)  # what is right, if 255 stays no data


def warped(**options) -> np.ndarray:
    return reproject(ids, np.zeros((4, 5), np.uint8), src_nodata=255, **places, **options)[0]


held = True
for options, without_data in (
    ({"dst_nodata": 0}, 255),
    ({"dst_nodata": 9}, 9),
    ({}, 255),
    ({"dst_nodata": 0, "INIT_DEST": "0"}, 0),
):
    values = warped(**options)
    print(options, values.tolist())
    held &= np.array_equal(values, np.where(framed == 255, without_data, framed))

form = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": crs}
with rasterio.open("asked.tif", "w", height=4, width=5, transform=outer, nodata=0, **form) as dataset:
    dataset.write(warped(dst_nodata=0), 1)
with rasterio.open("asked.tif") as dataset:
    count = int((dataset.read_masks(1) > 0).sum())
print("pixels with data:", (ids != 255).sum(), "| in the copy:", count)
held &= count == 20

with rasterio.open("source.tif", "w", height=2, width=3, transform=inner, nodata=255, **form) as dataset:
    dataset.write(ids, 1)
with rasterio.open("source.tif") as source:
    with WarpedVRT(source, crs=crs, transform=outer, width=5, height=4, nodata=0) as dataset:
        values = dataset.read(1)
print("WarpedVRT, nodata=0", values.tolist())
held &= np.array_equal(values, np.where(framed == 255, 0, framed))
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
