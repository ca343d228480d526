#!/usr/bin/env bash
# A map that xarray has computed with and saved as netCDF is upside down where GDAL reads it.
#
# Behaviour  A GeoTIFF of class ids, opened by rioxarray and saved by to_netcdf, comes back from rasterio as it was.
#            After ids + 0, ids.where(...) or ids.astype("uint8") it comes back with its rows from the bottom up, and
#            without place. rasterio warns of the missing place, of the rows nobody; rioxarray.open_rasterio, which is
#            GDAL, too, turns them as well. xarray.open_dataset reads the same file right, place included.
#            rioxarray notes in encoding which variable holds the place ("grid_mapping"); xarray keeps attributes in
#            arithmetic, but no encoding. Of a netCDF without it GDAL takes the first row to be the lowest.
# Version    rioxarray 0.19.0, xarray 2026.9.0, netCDF4 1.7.5.1.post1, rasterio 1.4.4 with GDAL 3.10.3, Python 3.11.
# Source     https://github.com/OSGeo/gdal/issues/8477: GDAL does so on purpose. rioxarray warns that xarray can lose
#            data (https://corteva.github.io/rioxarray/stable/getting_started/crs_management.html), not what of it
#            comes to matter, and that rows turn.
# Guessed    That a file has one first row, and that ids + 0 or a change of type changes no more than the values.
# Way out    map.rio.write_crs(map.rio.crs) just before to_netcdf; or GeoTIFF by map.rio.to_raster, which is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile rioxarray==0.19.0 xarray==2026.9.0 netCDF4==1.7.5.1.post1 \
    rasterio==1.4.4 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import numpy as np
import rasterio
import rioxarray
import xarray
from rasterio.transform import from_origin

print(f"rioxarray {rioxarray.__version__} | xarray {xarray.__version__} | GDAL {rasterio.__gdal_version__}")
grid, values = from_origin(500_000, 2_800_000, 10, 10), np.array([[0, 1], [2, 3], [4, 5]], np.uint8)
form = {"driver": "GTiff", "count": 1, "height": 3, "width": 2, "dtype": "uint8", "crs": "EPSG:32640"}
with rasterio.open("map.tif", "w", transform=grid, nodata=255, **form) as dataset:
    dataset.write(values, 1)

opened = rioxarray.open_rasterio("map.tif").squeeze(drop=True).rename("ids")
again = (opened + 0).rio.write_crs(opened.rio.crs)
held = True
for number, (what, ids, turned) in enumerate(
    (
        ("as opened", opened, False),
        ("part", opened[:, :1], False),
        ("+ 0", opened + 0, True),
        ("where", opened.where(opened != 9, 0), True),
        ("astype", opened.astype("uint8"), True),
        ("+ 0, write_crs", again, False),
    )
):
    path = f"{number}.nc"
    ids.to_netcdf(path)
    with rasterio.open(path) as dataset:
        rows, place = dataset.read(1), dataset.transform
    with xarray.open_dataset(path, decode_coords="all", mask_and_scale=False) as dataset:
        same = np.array_equal(dataset["ids"], ids) and dataset.rio.crs == opened.rio.crs
        same &= dataset["ids"].rio.transform() == grid
    print(f"{what}: rasterio {rows.tolist()}, placed: {place == grid} | xarray right: {same}")
    held &= same and np.array_equal(rows, ids[::-1] if turned else ids) and (place == grid) != turned
    held &= np.array_equal(rioxarray.open_rasterio(path)[0], rows)
    ids.rio.to_raster("again.tif")
    with rasterio.open("again.tif") as dataset:
        held &= np.array_equal(dataset.read(1), ids) and dataset.transform == grid
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
