"""Write a trained model as one ONNX file, for QGIS and for every program that runs ONNX.

    python tools/export_onnx.py --checkpoint best_model.pth --output best_model.onnx      images of any size
    python tools/export_onnx.py --output qgis.onnx --tile 512 --resolution 50     for QGIS: 512x512, 50 cm

In: `images` (B, 3, H, W) float32, RGB in 0..1. Out: `probabilities` (B, C, H, W) float32; the class is
the argmax over C. The metadata holds, each as JSON, names and colours of the classes and what the QGIS
plugin Deepness reads there. The file is written only if onnxruntime gives what PyTorch gives, to 1e-3 in
the logits, for several sizes and batches.

Deepness (https://qgis-plugin-deepness.readthedocs.io, Model classes and requirements; Adding metadata)
feeds square tiles of one size only, so it needs --tile. It feeds RGB / 255 and wants probabilities,
whereas the model takes normalised images and gives logits: normalisation and softmax are therefore part
of the graph. In QGIS, press "Load default parameters" after choosing the file: Deepness by itself makes
every pixel below a probability of 0.5 class 0 and smooths class ids by their median; the metadata turn
both off. Layers in metres are best, older versions refuse others; it fills up with black what lies beyond
the edge of a layer.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from matplotlib.colors import to_hex
from torch import Tensor, nn

import landcover_segmentation as lc

TOLERANCE = 1e-3  # in logits, between PyTorch and the exported file
OPSET = (
    17  # of ONNX; onnxruntime has known it since 1.12 (2022), so old installations of QGIS run the file too
)


class PictureToProbabilities(nn.Module):
    """A model with what stands before and behind it: images (B, bands, H, W) in 0..1 -> probabilities."""

    def __init__(self, model: lc.DeepLabV3Segmentation):
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(model.normalisation["mean"]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(model.normalisation["std"]).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.std).softmax(1)


def export(
    model: lc.DeepLabV3Segmentation,
    path: str | Path,
    tile: int | None = None,
    resolution: float | None = None,
) -> float:
    """Writes a model of `lc.load_model`, on the CPU, as an ONNX file.

    Returns by how much its logits differ from PyTorch's.

    tile: side of the only size of image that the file takes, in pixels; None: any size. The batch is free
    in both. resolution: of the images that it was trained on, in cm per pixel. Raises InputError for a
    missing package, and if the file would not do what the model does; then nothing is written.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise lc.InputError(f"export needs {error.name}: pip install onnx onnxruntime") from error
    network = PictureToProbabilities(model).eval()
    sides = {} if tile else {2: "height", 3: "width"}
    buffer, example = io.BytesIO(), torch.rand(2, len(model.reading["bands"]), tile or 96, tile or 64)
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of sizes that it might take for constants, which `difference` finds out.
        warnings.simplefilter("ignore")
        names = {"input_names": ["images"], "output_names": ["probabilities"]}
        axes = {name: {0: "batch"} | sides for name in ("images", "probabilities")}
        # The exporter that traces, not the newer one by torch.export, which needs another package and
        # took ten times as long and more.
        how = {"dynamic_axes": axes, "opset_version": OPSET, "dynamo": False}
        torch.onnx.export(network, (example,), buffer, **names, **how)
    graph = onnx.load_from_string(buffer.getvalue())
    shape = graph.graph.output[0].type.tensor_type.shape  # of which the tracer knows less than we do
    for dimension, size in zip(shape.dim[1:], (model.num_classes, tile, tile), strict=True):
        if size:
            dimension.dim_value = size
    known = metadata(model, tile, resolution)
    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in known.items()})
    file = graph.SerializeToString()
    worst = difference(network, file, [(tile, tile)] if tile else [(64, 64), (75, 131)])
    if not worst <= TOLERANCE:  # NaN is no success
        problem = f"its logits differ from PyTorch's by {worst:.2g}, more than {TOLERANCE:g}"
        raise lc.InputError(f"{path}: not written: {problem}; another version of torch may mend it")
    with lc.atomic_write(path) as partial_path:
        partial_path.write_bytes(file)
    return worst


def metadata(model: lc.DeepLabV3Segmentation, tile: int | None, resolution: float | None) -> dict:
    """What the file says of itself: the keys of Deepness, and three more.

    `class_colors`: #rrggbb; `bands`: which it takes, counted from 1; `band_ranges`: the
    lowest and highest value of each, which became 0 and 1; null: 0 to 255.
    """
    ids, bands = [str(index) for index in range(model.num_classes)], len(model.reading["bands"])
    palette = lc.class_palette(model.class_colors, model.num_classes) / 255
    known = {
        "model_type": "Segmentor",
        "class_names": dict(zip(ids, model.class_names, strict=True)),
        "class_colors": dict(zip(ids, map(to_hex, palette), strict=True)),
        "bands": model.reading["bands"],
        "band_ranges": model.reading["ranges"],
        "standardization_mean": [0.0] * bands,  # the graph normalises, as older plugins do not
        "standardization_std": [1.0] * bands,
        "tiles_overlap": 25,  # percent, as tools/map_scenes.py has it
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
    }
    if tile:
        known |= {
            "tiles_size": tile,
            "tile_size": tile,
        }  # the first by its documentation, the second by its source
    if resolution:
        known["resolution"] = resolution
    return known


def difference(network: nn.Module, file: bytes, sizes: list[tuple[int, int]]) -> float:
    """The largest difference in logits between PyTorch and onnxruntime, on random images of these sizes.

    They are given alone and in threes. Logits are known from probabilities but for a constant per pixel,
    which no class feels.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    rng, worst = np.random.default_rng(0), [0.0]
    for batch, (height, width) in ((batch, size) for batch in (1, 3) for size in sizes):
        images = rng.random((batch, len(network.mean), height, width), np.float32)
        with torch.no_grad():
            expected = network(torch.from_numpy(images)).numpy()
        (given,) = session.run(None, {"images": images})
        if given.shape != expected.shape:
            return np.nan
        logits = [np.log(np.maximum(probabilities, 1e-30)) for probabilities in (given, expected)]
        worst.append(float(np.abs(logits[0] - logits[1]).max()))
    return max(worst, key=lambda value: (np.isnan(value), value))


# =====================================================================================================
# Command line
# =====================================================================================================


def parse(argv: list[str]) -> argparse.Namespace:
    parser = lc.FlagParser(description=__doc__)
    flag = parser.add_argument
    # fmt: off
    flag("--checkpoint", metavar="FILE", default="best_model.pth",
         help="the trained model (default: best_model.pth)")
    flag("--output", metavar="FILE", type=Path, default=Path("best_model.onnx"),
         help="(default: best_model.onnx)")
    flag("--tile", metavar="N", type=int,
         help="take images of N x N pixels only, as Deepness needs it (default: any)")
    flag("--resolution", metavar="CM", type=float, help="of the images it was trained on, in cm per pixel")
    # fmt: on
    args = parser.parse_args(argv)
    if args.tile is not None and args.tile < 32:
        lc.complain(f"--tile {args.tile}: must be at least 32")
    if args.output.is_dir():
        lc.complain(f"--output {args.output}: is a folder; name a file")
    if args.resolution is not None and not 0 < args.resolution < np.inf:
        lc.complain(f"--resolution {args.resolution:g}: must be above 0")
    return args


@lc.command_line
def main(argv: list[str]) -> None:
    args = parse(argv)
    model = lc.load_model(args.checkpoint, "cpu")
    lc.prepare_output(args.output.parent)
    worst = export(model, args.output, args.tile, args.resolution)
    size = f"{args.tile}x{args.tile}" if args.tile else "any size"
    what = f"images of {size}, {model.num_classes} classes"
    print(f"wrote {args.output}: {what}; logits as PyTorch's within {worst:.1g}")
    bands, ranges = model.reading["bands"], model.reading["ranges"]
    if ranges:
        print(f"its input is bands {bands}, scaled so that {ranges} become 0 and 1")
    if not (args.tile and args.resolution):
        why = "it takes tiles of one size, at one resolution"
        print(f"for Deepness in QGIS give --tile and --resolution: {why}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    sys.exit(main())
