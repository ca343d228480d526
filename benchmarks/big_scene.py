"""Memory and time of mapping a large, synthetic scene, in a process of its own (Linux).

    python benchmarks/big_scene.py                  20,000 x 20,000 pixels, GeoTIFF (pip install rasterio)
    python benchmarks/big_scene.py --side 5000 --network efficientnet_lite0     a real network, random weights

`toy` is a single convolution, so that the figures are those of reading, blending and writing. A row is
appended to a CSV.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import numpy as np
import torch
from map_scenes import fold_batch_norm, predict_scene
from study import append, command, provenance
from torch import nn

import landcover_segmentation as lc


def write_scene(path: Path, side: int) -> None:
    """A georeferenced GeoTIFF of noise around slow waves, written strip by strip."""
    import rasterio
    from rasterio.transform import from_origin

    across = np.sin(np.arange(side) / 300)
    noise = np.random.default_rng(0).integers(-20, 20, (3, 256, side), np.int8)
    form = {"count": 3, "dtype": "uint8", "tiled": True, "bigtiff": "if_safer"}
    form |= {"height": side, "width": side, "crs": "EPSG:32631"}
    form["transform"] = from_origin(500_000, 5_000_000, 0.5, 0.5)
    with rasterio.open(path, "w", "GTiff", **form) as dataset:
        for top in range(0, side, 256):
            rows = min(256, side - top)
            waves = 128 + 60 * across * np.cos(np.arange(top, top + rows) / 300)[:, None]
            strip = (waves + noise[:, :rows]).astype(np.uint8)
            dataset.write(strip, window=((top, top + rows), (0, side)))


def toy_network(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Conv2d(3, num_classes, 3, padding=1)
    model.num_classes = num_classes
    return model


def predict(scene: Path, output: Path, network: str, threads: int) -> None:
    """What the process that is measured does; it prints its peak memory in MiB."""
    torch.set_num_threads(threads)
    model = toy_network(6) if network == "toy" else lc.DeepLabV3Segmentation(6, network, None)
    model.class_names, model.class_colors = [f"class {index}" for index in range(6)], None
    dtype = lc.pick_precision("auto", torch.device("cpu"))
    predict_scene(fold_batch_norm(model, dtype), scene, output, dtype=dtype)
    print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--network", default="toy", help="toy, or a backbone of deeplabv3")
    parser.add_argument("--threads", type=int, default=lc.cores_at_hand())
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks/results/big_scene.csv")
    both = ("SCENE", "OUTPUT")
    parser.add_argument("--predict", nargs=2, type=Path, metavar=both, help="the process that is measured")
    args = parser.parse_args()
    if args.predict:
        return predict(*args.predict, args.network, args.threads)
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, args.side)
        worker = [sys.executable, __file__, "--network", args.network, "--threads", str(args.threads)]
        start = time.perf_counter()
        worker += ["--predict", scene, folder]
        done = subprocess.run(worker, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
    torch.set_num_threads(args.threads)
    row = {"side": args.side, "network": args.network}
    row |= {"peak_mib": round(float(done.stdout)), "seconds": round(seconds)}
    how = command("big_scene.py", side=args.side, network=args.network, threads=args.threads)
    append(args.csv, row | {"weights": "random initialisation"} | provenance(how))
    print(row)


if __name__ == "__main__":
    main()
