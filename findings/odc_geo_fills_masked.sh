#!/usr/bin/env bash
# odc-geo fills what a masked raster does not cover with 255 as data, where rioxarray opened the raster.
#
# Behaviour  A GeoTIFF of values 0 to 3 with 255 for no data, opened by rioxarray.open_rasterio(masked=True), is
#            float32 with NaN for no data. Reprojected by map.odc.reproject("EPSG:3857"), the gaps are still NaN, but
#            the margins that the map does not reach are 255.0: the mean rises from 1.5 to 13, and isnan() does not
#            find them. map.rio.reproject has no 255. rioxarray notes the file's 255 in encoding; odc-geo takes it for
#            the value that the array's gaps have now.
# Version    odc-geo 0.5.3, rioxarray 0.19.0, xarray 2026.9.0, rasterio 1.4.4, dask 2026.8.0 (else odc.geo.xr does not
#            load), Python 3.11.
# Source     https://odc-geo.readthedocs.io/en/latest/: dst_nodata sets a custom nodata value, with no word of how it
#            is found. In the code, the property nodata in odc/geo/_xr_interop.py looks into attrs and encoding. That
#            NaN is the one nodata of floats in odc-geo is said at https://github.com/opendatacube/odc-geo/issues/249.
#            No report of this was found.
# Guessed    That a float array with NaN is filled with NaN, as it is without the note in encoding.
# Way out    reproject(..., dst_nodata=float("nan")), or map.drop_encoding() before it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile odc-geo==0.5.3 rioxarray==0.19.0 xarray==2026.9.0 rasterio==1.4.4 \
    numpy==2.4.6 dask==2026.8.0

cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import odc.geo.xr  # noqa: F401 (gives arrays their .odc)
import rasterio
import rioxarray
from rasterio.transform import from_origin

print("odc-geo", version("odc-geo"), "| rioxarray", rioxarray.__version__)
ids = np.random.default_rng(0).integers(0, 4, (100, 100)).astype(np.uint8)
ids[:20, :20] = 255
form = {"driver": "GTiff", "height": 100, "width": 100, "count": 1, "dtype": "uint8", "crs": "EPSG:32640"}
with rasterio.open("ids.tif", "w", nodata=255, transform=from_origin(500_000, 2_801_000, 10, 10), **form) as dataset:
    dataset.write(ids, 1)
masked = rioxarray.open_rasterio("ids.tif", masked=True).squeeze(drop=True)
plain = masked.drop_encoding()
means, held = {}, True
for name, found in (
    ("opened", masked),
    ("rio.reproject", masked.rio.reproject("EPSG:3857")),
    ("odc.reproject", masked.odc.reproject("EPSG:3857")),
    ("odc.reproject, dst_nodata=NaN", masked.odc.reproject("EPSG:3857", dst_nodata=float("nan"))),
    ("odc.reproject, without encoding", plain.odc.reproject("EPSG:3857")),
):
    values = found.values
    means[name] = float(np.nanmean(values))
    share = np.mean(values == 255)
    print(f"{name}: {found.dtype}, mean {means[name]:.2f}, NaN {np.isnan(values).mean():.1%}, 255 {share:.1%}")
    held &= (share > 0.01) == (name == "odc.reproject") and bool(np.isnan(values).any())
    held &= found.dtype == np.float32 and (means[name] > 10 if name == "odc.reproject" else 1.4 < means[name] < 1.6)
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
