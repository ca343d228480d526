"""Time and memory of mapping a large, synthetic scene, each time in a process of its own (Linux).

    python benchmarks/big_scene.py                            20,000 x 20,000 pixels (pip install rasterio)
    python benchmarks/big_scene.py --side 5000 --network efficientnet_lite0    a real network, random weights
    python benchmarks/big_scene.py --against bf478b5 --rounds 3                in turns with an earlier commit

`toy` is a single convolution, so that the figures are those of reading, blending and writing. They are
medians of the mapping alone, without Python's start and the loading of weights. With --against, that
commit is checked out into a temporary folder, and both map the same scene with the same weights in each
round; `equal` is the share of class ids that both give. A row is appended to a CSV.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

import numpy as np
import torch
from torch import nn

CLASSES = [f"class {index}" for index in range(6)]


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


def toy_network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Conv2d(3, len(CLASSES), 3, padding=1)
    model.num_classes, model.class_names, model.class_colors = len(CLASSES), CLASSES, None
    return model


# ---- The process that is measured, with the code of either commit


def predict(scene: str, output: str, network: str, threads: int, root: Path) -> None:
    """Maps a scene with the program in the folder root; prints seconds and peak memory as JSON."""
    sys.path[:0] = [str(root), str(root / "tools")]
    import landcover_segmentation as lc

    try:
        import map_scenes as program
    except ImportError:  # before it was a program of its own
        program = lc
    torch.set_num_threads(threads)
    model = toy_network() if network == "toy" else lc.load_model(network)
    dtype = lc.pick_precision("auto", next(model.parameters()).device)
    model = program.fold_batch_norm(model, dtype)
    start, processor = time.perf_counter(), time.process_time()
    program.predict_scene(model, scene, output, dtype=dtype)
    figures = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]
    print(json.dumps(figures | {"peak_mib": int(peak) / 1024}))


# ---- The process that measures


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of a commit in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        git = ["git", "-C", ROOT, "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", folder, commit], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, "remove", "--force", folder], check=True)


def take_turns(scene: Path, network: str, threads: int, roots: list[Path], rounds: int) -> list[dict]:
    """The medians of each side's figures; NAME/scene_classes.tif beside the scene is side NAME's last map."""
    figures = [[] for _ in roots]
    for _ in range(rounds):
        for side, root in enumerate(roots):
            output = scene.parent / str(side)
            output.mkdir(exist_ok=True)
            worker = [sys.executable, __file__, "--predict", scene, output, "--root", root]
            worker += ["--network", network, "--threads", str(threads)]
            done = subprocess.run(worker, stdout=subprocess.PIPE, text=True, check=True)
            figures[side].append(json.loads(done.stdout))
            print(f"{root.name}: {figures[side][-1]}", file=sys.stderr, flush=True)
    return [{name: statistics.median(row[name] for row in rows) for name in rows[0]} for rows in figures]


def share_equal(one: Path, other: Path) -> float:
    """The share of pixels that two rasters of one size have in common."""
    import rasterio

    with rasterio.open(one) as first, rasterio.open(other) as second:
        windows = [
            ((top, min(top + 512, first.height)), (0, first.width)) for top in range(0, first.height, 512)
        ]
        equal = sum((first.read(1, window=rows) == second.read(1, window=rows)).sum() for rows in windows)
        return float(equal / first.height / first.width)


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """The columns of a row, from maps that are written to a folder."""
    import landcover_segmentation as lc

    write_scene(folder / "scene.tif", args.side)
    network = args.network
    if network != "toy":
        torch.manual_seed(0)
        network = folder / "model.pth"
        lc.save_checkpoint(network, lc.DeepLabV3Segmentation(len(CLASSES), args.network, None), CLASSES)
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(checked_out(args.against))] if args.against else []
        roots = [ROOT, *others]
        ours, *theirs = take_turns(folder / "scene.tif", str(network), args.threads, roots, args.rounds)
    row = {"peak_mib": round(ours["peak_mib"]), "seconds": round(ours["seconds"])}
    row |= {"processor_seconds": round(ours["processor_seconds"], 1), "rounds": args.rounds}
    for their in theirs:
        row |= {"against": args.against, "against_peak_mib": round(their["peak_mib"])}
        row |= {f"against_{name}": round(their[name], 1) for name in ("seconds", "processor_seconds")}
        row["ratio"] = round(their["seconds"] / ours["seconds"], 2)
        row["equal"] = round(share_equal(*(folder / f"{side}/scene_classes.tif" for side in "01")), 6)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--side", type=int, default=20_000)
    flag("--network", default="toy", help="toy, or a backbone of deeplabv3")
    flag("--threads", type=int, help="default: all cores at hand")
    flag("--rounds", type=int, default=1)
    flag("--against", metavar="COMMIT", help="measure this commit, too")
    flag("--csv", type=Path, default=ROOT / "benchmarks/results/big_scene.csv")
    flag("--predict", nargs=2, metavar=("SCENE", "OUTPUT"), help=argparse.SUPPRESS)
    flag("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.predict:
        return predict(*args.predict, args.network, args.threads, args.root)
    sys.path[:0] = [str(ROOT), str(ROOT / "tools")]
    from study import append, command, provenance

    import landcover_segmentation as lc

    args.threads = args.threads or lc.cores_at_hand()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(args, Path(folder))
    given = ("side", "network", "threads", "rounds", "against")
    how = command("big_scene.py", **{name: getattr(args, name) for name in given if getattr(args, name)})
    row = {"side": args.side, "network": args.network} | row
    append(args.csv, row | {"weights": "random initialisation"} | provenance(how))
    print(row)


if __name__ == "__main__":
    main()
