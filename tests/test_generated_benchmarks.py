"""What is measured on generated scenes: rows that say what they are, and tables that are the rows'."""

import csv
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import infrared
import report

import landcover_segmentation as lc


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results of its own, with three seeds of each arm."""
    folder = tmp_path / "benchmarks/results"
    folder.mkdir(parents=True)
    monkeypatch.setattr(report, "ROOT", tmp_path)

    def write(name: str, key: str, arms: dict[str, tuple]) -> None:
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([key, "epochs", "seed", "miou", "iou_road", "iou_bare ground", "precision"])
            for arm, (miou, road, bare) in arms.items():
                for seed in range(3):
                    writer.writerow([arm, 24, seed, miou + seed / 100, road, bare, "float32"])

    write("infrared.csv", "bands", {"1,2,3": (0.4, 0.5, 0.1), "1,2,3,4": (0.6, 0.5, 0.4)})
    arms = {"plain": (0.4, 0.2, 0.1), "default": (0.5, 0.3, 0.3), "dense": (0.6, 0.6, 0.5)}
    arms = {f"{name}_unet": figures for name, figures in arms.items()}
    write("generated.csv", "variant", arms)


def test_infrared_is_compared_seed_by_seed(results):
    header, _, without, with_it, gain = report.TABLES["infrared"]().splitlines()
    assert header == "|  | mIoU | road | bare ground |"
    assert "0.410 ± 0.010 (3)" in without and "0.610 ± 0.010 (3)" in with_it
    assert gain.startswith("| gain, seed by seed | **+0.200 ± 0.000 (3)**")
    assert gain.split(" | ")[2] == "+0.000 ± 0.000 (3)", "no gain is none beyond chance"


def test_points_are_compared_with_dense_masks(results):
    header, _, plain, default, dense = report.TABLES["generated"]().splitlines()
    assert header.endswith("| mIoU | over plain, seed by seed | of dense masks | road | bare ground |")
    assert plain.split(" | ")[3] == "-" and "**+0.100 ± 0.000 (3)**" in default
    assert dense.split(" | ")[4] == "1.000 ± 0.000"


@pytest.mark.parametrize(
    ("mark", "value"),
    [
        ("generated/default_unet/plain_unet:gap", "0.50"),
        ("generated/default_unet/plain_unet:gap.iou_road", "0.25"),
        ("generated/default_unet/dense_unet:share.iou_bare_ground", "0.60"),
        ("infrared/1,2,3,4/1,2,3:gain.iou_bare_ground", "0.30"),
    ],
)
def test_marked_values_of_two_arms(results, mark, value):
    assert report.fill(f"<!-- {mark} -->9.99") == f"<!-- {mark} -->{value}"
    assert report.fill(f"<!-- {mark} -->+9.99").endswith(f"+{value}")


def test_marks_without_rows_are_named(results):
    with pytest.raises(ValueError, match="no such rows"):
        report.fill("<!-- infrared/1,2/1:gain -->+9.99")


def test_infrared_differs_in_bands_alone_and_is_measured_once(tmp_path, monkeypatch, capsys):
    """With a module that does not train, but says what it was asked to and gives each class the IoU 0.5."""
    asked = []

    def trained(program, **how):
        asked.append(lc.parse_settings([str(word) for word in program[2:]]))
        last = {"val_miou": 0.5, **{f"iou_{name}": 0.5 for name in infrared.CLASSES}}
        last |= {"starting_weights": "ImageNet"}
        lc.write_history(Path(asked[-1].output_dir, "training_history.csv"), [last | {"val_miou": 0.9}, last])

    monkeypatch.setattr(infrared, "generate", lambda tiles: None)
    monkeypatch.setattr(infrared, "draw_tiles", lambda tiles: None)
    monkeypatch.setattr(infrared.subprocess, "run", trained)
    monkeypatch.setattr(infrared, "provenance", lambda how: {"command": how})
    path = tmp_path / "infrared.csv"
    arguments = ["infrared.py", "--work", str(tmp_path / "tiles"), "--csv", str(path), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    infrared.main()
    infrared.main()
    assert "in infrared.csv already" in capsys.readouterr().out
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["bands"], row["miou"]) for row in rows] == [("1,2,3", "0.5"), ("1,2,3,4", "0.5")]
    without, with_it = map(vars, asked)
    differing = {name for name in without if without[name] != with_it[name]}
    assert differing == {"bands", "output_dir"}
    assert without["num_classes"] == 10 and without["seed"] == 1 and without["weights"] == "imagenet"
