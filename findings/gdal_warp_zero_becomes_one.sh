#!/usr/bin/env bash
# GDAL warps class 0 into class 1, and 255 into 254, where the value is the result's nodata; not with nearest.
#
# Behaviour  A map of the ids 0 to 3 without a nodata value, halved by WarpedVRT(map, nodata=0, resampling=mode): every
#            0 has become 1, so that two classes are one. A map whose unlabelled pixels are 255, not declared, comes
#            out with 254 from WarpedVRT(nodata=255), and from rioxarray's reproject, which is not asked for a nodata
#            value and takes 255 of itself. average, max, min, med and bilinear do the same; nearest keeps the values.
#            A source that declares 255 and is warped to nodata=0 loses its class 0 to class 1, too.
# Version    rasterio 1.4.4 with GDAL 3.10.3, rioxarray 0.19.0, xarray 2026.9.0, numpy 2.4.6, Python 3.11.
# Source     https://github.com/OSGeo/gdal/issues/11711 met it with a mask of zeros; it is meant, so that data are not
#            taken for gaps, https://github.com/OSGeo/gdal/pull/11713 made it alike for all types of numbers.
#            https://rasterio.readthedocs.io/en/stable/api/rasterio.vrt.html has no word of it; of rioxarray's 255
#            there is one: https://corteva.github.io/rioxarray/stable/getting_started/nodata_management.html
# Guessed    That mode, max, min and med give values of the source, and that nodata is a note on them, not a change.
# Way out    A nodata value that is no class, declared in source and result alike; compare the ids after.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rasterio==1.4.4 rioxarray==0.19.0 xarray==2026.9.0 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import rasterio
import rioxarray
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

print("rasterio", rasterio.__version__, "| GDAL", rasterio.__gdal_version__, "| rioxarray", rioxarray.__version__)
small = np.random.default_rng(0).integers(0, 4, (30, 30)).astype(np.uint8)
form = {"driver": "GTiff", "height": 60, "width": 60, "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
form["transform"] = from_origin(500_000, 2_800_000, 10, 10)
coarse = {"transform": from_origin(500_000, 2_800_000, 20, 20), "width": 30, "height": 30}


def counts(ids):
    return dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True)), strict=True))


def write(ids, nodata=None):
    with rasterio.open("ids.tif", "w", nodata=nodata, **form) as dataset:
        dataset.write(ids.repeat(2, axis=0).repeat(2, axis=1), 1)


def warp(ids, how, nodata, declared=None):
    write(ids, declared)
    with rasterio.open("ids.tif") as dataset:
        with WarpedVRT(dataset, crs=dataset.crs, nodata=nodata, resampling=Resampling[how], **coarse) as vrt:
            found = vrt.read(1)
    print(f"declared {declared}, WarpedVRT, nodata={nodata}, {how}: {counts(found)}")
    return found


print("ids 0 to 3:", counts(small))
held = (warp(small, "nearest", 0) == small).all() and (warp(small, "mode", 255) == small).all()
for how in ("mode", "average", "max", "min", "med"):
    held &= (warp(small, how, 0) == np.where(small == 0, 1, small)).all()
held &= 0 not in warp(small, "bilinear", 0) and 0 in warp(small, "bilinear", 255)

gaps = np.where(np.indices(small.shape)[0] < 5, 255, small).astype(np.uint8)
print("with 255 for unlabelled:", counts(gaps))
held &= (warp(gaps, "nearest", 255) == gaps).all() and (warp(gaps, "mode", 255, declared=255) == gaps).all()
held &= (warp(gaps, "mode", 255) == np.where(gaps == 255, 254, gaps)).all()
found = warp(gaps, "mode", 0, declared=255)
held &= (found == np.where(gaps == 255, 0, np.maximum(gaps, 1))).all()
write(gaps)
ids = rioxarray.open_rasterio("ids.tif").squeeze(drop=True)
for how, gap in (("nearest", 255), ("mode", 254)):
    found = ids.rio.reproject(ids.rio.crs, resolution=20, resampling=Resampling[how])
    print(f"declared {ids.rio.nodata}, rioxarray, {how}: {counts(found)}, nodata {found.rio.nodata}")
    held &= (found.values == np.where(gaps == 255, gap, gaps)).all() and found.rio.nodata == 255
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
