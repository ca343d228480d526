"""The study behind the published tables: its splits, its way of going on; the tables are the CSVs'."""

import argparse
import csv
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_DATA, ROOT, flags, write_tiles
from PIL import Image

sys.path.insert(0, str(ROOT / "benchmarks"))
import dubai_tiles
import first_run
import inference
import pictures
import report
import soft_labels
import study
import unlabelled

import landcover_segmentation as lc


def tiles(split: str) -> list[tuple[Path, Path]]:
    parts = (3, 6, 9) if split == "val" else (1, 2, 4, 5, 7, 8)
    places = itertools.product(range(1, 9), parts)
    return [(Path(f"{split}/scene{scene}_part{part}_r0_c0.png"), Path("mask")) for scene, part in places]


def test_splits_do_not_overlap_and_choices_are_made_on_train_tiles_alone():
    train, val = tiles("train"), tiles("val")
    for split in ("val", "choose", "scenes", "choose_scenes"):
        learnt, scored = study.choose_tiles(split, 1, train, val)
        assert learnt and scored and not {path for path, _ in learnt} & {path for path, _ in scored}
        assert study.choose_tiles(split, 2, train, val)[0] == learnt[::2]
    learnt, scored = study.choose_tiles("choose", 1, train, val)
    assert all(path.parent.name == "train" for path, _ in learnt + scored)
    for split, of_learnt, of_scored in (("scenes", "23578", "146"), ("choose_scenes", "237", "58")):
        learnt, scored = study.choose_tiles(split, 1, train, val)
        assert {path.stem[5] for path, _ in scored} == set(of_scored)
        assert {path.stem[5] for path, _ in learnt} == set(of_learnt)


def test_features_of_the_forest():
    flat = study.pixel_features(np.full((20, 20, 3), (10, 200, 30), np.uint8))
    assert flat.shape == (20, 20, 19)
    assert (flat[..., :3] == (10, 200, 30)).all(), "colour"
    assert np.abs(flat[..., 15:18]).max() < 0.1, "no texture"
    assert (flat[..., 18] == 2 * 200 - 10 - 30).all()
    noisy = study.pixel_features(np.random.default_rng(0).integers(0, 255, (20, 20, 3)).astype(np.uint8))
    assert (noisy[..., 15:18].mean((0, 1)) > 5).all()


def test_faulty_points_are_as_faulty_as_they_say():
    mask = np.random.default_rng(1).integers(0, 5, (60, 60)).astype(np.uint8)
    right = study.lc.sample_random_points(mask, 50, np.random.default_rng(0))
    wrong = study.sample_wrong_points(20, mask, 50, np.random.default_rng(0))
    assert ((wrong != 255) == (right != 255)).all() and (wrong != right).sum() == 10
    assert wrong[wrong != 255].max() < 5
    # Areas of 30 x 30: who is 3 pixels off, is near its own
    checkers = (np.indices((60, 60)) // 30).sum(0).astype(np.uint8)
    shifted = study.sample_shifted_points(3, checkers, 50, np.random.default_rng(0))
    near = np.argwhere(study.lc.sample_random_points(checkers, 50, np.random.default_rng(0)) != 255)
    for place in np.argwhere(shifted != 255):
        distances = np.hypot(*(near - place).T)
        of_its_class = checkers[tuple(near.T)] == shifted[tuple(place)]
        assert ((distances > 2) & (distances < 4) & of_its_class).any() or 0 in place
    there = shifted != 255
    assert 45 <= there.sum() <= 50 and (shifted[there] != checkers[there]).any()


def test_focal_loss():
    logits, targets = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    targets[0, :2] = 255
    known = targets[targets != 255].numpy()
    p = logits.softmax(1).movedim(1, -1)[targets != 255].numpy()[np.arange(len(known)), known]
    expected = np.mean(-((1 - p) ** 2) * np.log(p))
    assert study.FocalLoss()(logits, targets).item() == pytest.approx(expected, rel=1e-5)
    assert study.FocalLoss()(logits, torch.full_like(targets, 255)).item() == 0


def test_a_variant_says_all_that_decides_its_score(monkeypatch):
    """So that rows stay valid when a default of the program changes. `default` is its objective."""
    program = {name: getattr(lc, name.upper()) for name in study.DEFAULT}
    assert program == study.DEFAULT
    given = argparse.Namespace(class_names=["a", "b"], size=32, epochs=1, device="cpu", precision="auto")
    monkeypatch.setattr(lc, "parse_settings", lambda argv: argparse.Namespace())
    config = study.settings(given, Path("work"), {"variant": "plain", "points": 20, "seed": 0})
    left = {name.lower() for name in lc.setting_types()} - vars(config).keys()
    assert left == {"bands", "num_workers", "output_dir", "resume"}, "settings that decide no score"


def test_a_study_writes_each_cell_once(tmp_path, monkeypatch, capsys):
    for split in ("train", "val"):
        write_tiles(tmp_path / split, 4, 64)
    (tmp_path / "work/claims").mkdir(parents=True)
    (tmp_path / "work/claims/val-plain-10-0-1-32-1").touch()  # of a process that was killed

    variants = ["forest", "plain", "dense", "plain_none", "plain@wrong20"]

    def arguments(variants: list[str], *points: str) -> list[str]:
        given = ["--data", tmp_path, "--csv", tmp_path / "study.csv", "--work", tmp_path / "work"]
        given += ["--variants", *variants, "--points", *points, "--class-names", "low,middle,high"]
        given += ["--seeds", "0", "--epochs", "1", "--size", "32", "--every", "1"]
        return [str(part) for part in given]

    def rows() -> list[dict]:
        return list(csv.DictReader((tmp_path / "study.csv").read_text().splitlines()))

    monkeypatch.setattr(sys, "argv", ["study.py", *arguments(variants, "10")])
    study.main()
    first = rows()
    capsys.readouterr()
    budgets = ["10", "10", "all", "10", "10"]
    assert [(row["variant"], row["points"]) for row in first] == list(zip(variants, budgets, strict=True))
    assert [name for name in first[0] if name.startswith("iou_")] == ["iou_low", "iou_middle", "iou_high"]
    assert {row["weights"] for row in first} == {"none", "ImageNet"}
    assert all(row["command"].endswith(" --class-names low,middle,high") for row in first)
    assert (tmp_path / "work/models/val-plain-10-0-1-32-1.pth").is_file()

    monkeypatch.setattr(sys, "argv", ["study.py", *arguments(variants[:3], "10", "20")])
    study.main()
    assert rows()[:5] == first
    assert [(row["variant"], row["points"]) for row in rows()[5:]] == [("forest", "20"), ("plain", "20")]
    assert all((row["train_miou"] == "") == (row["variant"] == "forest") for row in rows())
    assert all(0 <= float(row["miou"]) <= 1 for row in rows())
    assert all(row["train_tiles"] == row["val_tiles"] == "4" for row in rows())
    said = capsys.readouterr().out
    assert said.count("in study.csv already") == 3 + 1, "dense masks are asked for at either budget"


def test_a_row_goes_under_the_header_that_a_csv_has(tmp_path, monkeypatch, capsys):
    """An earlier version had its columns in another order; written by position, rows would be others."""
    path = tmp_path / "study.csv"
    study.append(path, {"miou": 0.5, "iou_land": 0.4, "weights": "ImageNet"})
    study.append(path, {"weights": "none", "miou": 0.6, "iou_land": 0.3})
    assert [row["miou"] + row["weights"] for row in csv.DictReader(path.open())] == ["0.5ImageNet", "0.6none"]
    with pytest.raises(ValueError, match="commit"):
        study.append(path, {"miou": 0.5, "commit": "a"})
    given = ["--data", "x", "--csv", str(path), "--class-names", "low,high"]
    monkeypatch.setattr(sys, "argv", ["study.py", *given])
    with pytest.raises(SystemExit):  # before a cell is trained, not after
        study.main()
    assert "holds the classes land" in capsys.readouterr().err


def test_the_tiles_of_a_split_are_laid_out_for_other_programs(tmp_path, monkeypatch):
    for split, parts in (("train", (1, 2, 7, 8)), ("val", (3,))):
        write_tiles(tmp_path / split, len(parts), 64, num_classes=5)
        for kind in ("images", "masks"):
            for part, path in zip(parts, sorted((tmp_path / split / kind).iterdir()), strict=True):
                path.rename(path.with_name(f"scene1_part{part}_r0_c0.png"))
    (tmp_path / "other.csv").write_text("miou,iou_low,iou_high\n")  # classes matter to scores alone
    given = ["--data", tmp_path, "--work", tmp_path / "work", "--csv", tmp_path / "other.csv",
             "--split", "choose", "--size", 32, "--link", tmp_path / "laid"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["study.py", *map(str, given)])
    study.main()
    for split, parts in (("train", "1"), ("val", "78")):  # --every 2 of parts 1 and 2; all of 7 and 8
        laid = tmp_path / "laid" / split
        found = lc.LandCoverDataset(laid / "images", laid / "masks")
        assert [image.stem[11] for image, _ in found.tiles] == list(parts)
        assert found.read(0)[0].shape == (32, 32, 3)


def test_tiles_are_cut_from_the_published_images_as_those_that_were_measured(tmp_path, monkeypatch, capsys):
    """A real image, and the mosaic of its masks in the publisher's colours, give back the very tiles."""
    scene, val = REAL_DATA.parent / "dubai_scenes/scene7_part3.jpg", REAL_DATA / "val"
    if not scene.exists():
        pytest.skip("needs the Dubai tiles")
    colors = np.full((256, 3), 0x9B, np.uint8)
    published = ("8429F6", "E2A929", "3C1098", "FEDD3A", "6EC1E4")
    colors[:5] = [list(bytes.fromhex(color)) for color in published]
    picture, names = Image.open(scene), sorted(path.stem for path in (val / "masks").glob("scene7_part3_*"))
    mosaic = np.full((picture.height, picture.width), 255, np.uint8)
    for name in names:
        row, column = map(int, re.findall(r"[rc](\d+)", name.removeprefix("scene7_part3")))
        mosaic[row * 256 :, column * 256 :][:256, :256] = lc.read_mask(val / f"masks/{name}.png")
    for kind in ("images", "masks"):
        (tmp_path / "archive/Tile 7" / kind).mkdir(parents=True)
    shutil.copy(scene, tmp_path / "archive/Tile 7/images/image_part_003.jpg")
    Image.fromarray(colors[mosaic]).save(tmp_path / "archive/Tile 7/masks/image_part_003.png")
    monkeypatch.setattr(sys, "argv", ["dubai_tiles.py", str(tmp_path / "archive"), str(tmp_path / "data")])
    dubai_tiles.main()
    said = "val: 56 tiles, other ones than in dubai_tiles.csv\n"  # of one image of 72
    assert capsys.readouterr().out == said
    made = lc.list_tiles(tmp_path / "data/val/images", tmp_path / "data/val/masks")
    assert [image.stem for image, _ in made] == names
    for image, mask in made:
        assert np.array_equal(lc.read_mask(mask), lc.read_mask(val / "masks" / mask.name))
        assert np.array_equal(lc.read_image(image), lc.read_image(val / "images" / image.name))


def test_the_tiles_that_were_measured_are_known_again(tmp_path, monkeypatch, capsys):
    write_tiles(tmp_path / "data/val", 2, 32, num_classes=5)
    monkeypatch.setattr(dubai_tiles, "MEASURED", tmp_path / "dubai_tiles.csv")
    monkeypatch.setattr(sys, "argv", ["dubai_tiles.py", str(tmp_path / "data")])
    dubai_tiles.main()
    row = next(csv.DictReader((tmp_path / "dubai_tiles.csv").open()))
    masks = [lc.read_mask(path) for path in sorted((tmp_path / "data/val/masks").iterdir())]
    counts = [sum((mask == index).sum() for mask in masks) for index in range(5)]
    assert [int(row[name]) for name in study.CLASSES] == counts
    dubai_tiles.main()
    path = min((tmp_path / "data/val/masks").iterdir())
    Image.fromarray(np.rot90(lc.read_mask(path)).copy()).save(path)  # as many pixels of each class
    dubai_tiles.main()
    said = capsys.readouterr().out.splitlines()
    known, other = "those that were measured", "other ones than in dubai_tiles.csv"
    assert said == [f"val: 2 tiles, {what}" for what in (known, known, other)]


def test_the_report_can_be_read_in_an_evening():
    assert (ROOT / "technical_report.md").stat().st_size <= 25_000


def test_links_between_the_documents_lead_somewhere():
    """Files and headings, as GitHub makes addresses of them."""
    texts = {ROOT / name: (ROOT / name).read_text(encoding="utf-8") for name in report.DOCUMENTS}
    plain = {path: re.sub(r"```.*?```", "", text, flags=re.DOTALL) for path, text in texts.items()}
    for path, text in plain.items():
        for link in re.findall(r"\]\(((?!https?:)[^)\s]+)\)", text):
            name, _, heading = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {link}"
            headings = re.findall(r"^#+ (.*)$", plain.get(target, ""), re.MULTILINE)
            addresses = {
                re.sub(r"[^\w -]", "", words).strip().lower().replace(" ", "-") for words in headings
            }
            assert not heading or heading in addresses, f"{path.name}: {link}"


def test_documents_and_figures_are_those_of_the_results():
    for name in report.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert report.fill(text) == text, f"{name}: run python benchmarks/report.py"
    assert report.stale_figures() == []


def test_images_without_labels_are_neither_labelled_nor_wrongly_scored():
    for split in ("val", "choose", "scenes", "choose_scenes"):
        labelled, images, scored = unlabelled.choose_images(split, 4, tiles("train"), tiles("val"))
        assert images and len(images) <= len(labelled) and not {*images} & {*labelled}
        assert {*images} <= {*scored} if "scenes" in split else not {*images} & {*scored}


def test_images_without_labels_leave_the_running_statistics_alone():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)).train()
    before = model[1].running_mean.clone()
    with unlabelled.kept_statistics(model):
        found = model(torch.rand(2, 3, 8, 8))
    assert torch.equal(model[1].running_mean, before) and model[1].momentum == 0.1
    assert found.mean((0, 2, 3)).abs().max() < 1e-5, "each batch by itself"


def test_ways_to_let_images_in_share_a_control_that_is_the_default(tmp_path, monkeypatch, capsys):
    for split in ("train", "val"):
        write_tiles(tmp_path / split, 8, 64)
        for path in (tmp_path / split).rglob("*.png"):
            part = 1 if split == "train" else 7
            path.rename(path.with_name(f"scene1_part{part}_{path.name}"))
    monkeypatch.setattr(unlabelled, "SIDE", 32)
    monkeypatch.setattr(study, "CLASSES", ["low", "middle", "high"])
    (tmp_path / "work").mkdir()
    same = f"--data {tmp_path} --work {tmp_path}/work --split val --seeds 0 --epochs 1 --every 2"
    of_study = "--variants default_unet --points 20 --size 32 --class-names low,middle,high"
    for module, own in ((unlabelled, "--ways fixed control apart fixed"), (study, of_study)):
        csv_of = f"--csv {tmp_path}/{module.__name__}.csv"
        monkeypatch.setattr(sys, "argv", [module.__name__, *f"{same} {own} {csv_of}".split()])
        module.main()
    assert "fixed, seed 0: the control comes first" in capsys.readouterr().out
    found = list(csv.DictReader((tmp_path / "unlabelled.csv").read_text().splitlines()))
    (default,) = csv.DictReader((tmp_path / "study.csv").read_text().splitlines())
    assert [row["way"] for row in found] == ["control", "apart", "fixed"]
    assert [row["images"] for row in found] == ["0", "4", "4"]
    assert found[0]["miou"] == default["miou"] and found[0]["train_miou"] == default["train_miou"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks/results").glob("*.csv")), ids=lambda path: path.name
)
def test_every_row_says_where_it_comes_from(path):
    """The start, the command that gives it again, machine, versions, commit; not where its data lay."""
    for row in report.rows(path.name):
        words = [word for word in shlex.split(row["command"]) if not re.match("[A-Z]+=", word)]
        program = words[words[0] == "bash"]
        assert (ROOT / program).is_file()
        assert row.get("weights") or row["starting_weights"]
        assert row["hardware"] and row["versions"].count("torch ") and re.match("[0-9a-f]{7}", row["commit"])
        assert not re.search("/(home|root|work|tmp|Users)/", " ".join(row.values()))
        if path.name == "study.csv":
            assert row["command"] == study.command_of(row, row["precision"])


def understood(command: list[str], monkeypatch) -> argparse.Namespace:
    """The settings of a program of benchmarks/, which is stopped before it does anything."""
    programs = {"study": study, "inference": inference, "soft_labels": soft_labels}
    module = programs[Path(command[0]).stem]
    parsed, parse = [], argparse.ArgumentParser.parse_args
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", command)
        keep = lambda self: parsed.append(parse(self)) or parsed[0]  # noqa: E731
        patch.setattr(argparse.ArgumentParser, "parse_args", keep)
        patch.setattr(module, "prepare", lambda *args: sys.exit("understood"))  # the first that it does
        with pytest.raises(SystemExit, match="understood"):
            module.main()
    return parsed[0]


def test_a_command_of_a_row_is_understood_by_its_program(tmp_path, monkeypatch):
    for name in ("study.csv", "networks.csv", "inference.csv", "labels.csv"):
        for command in {row["command"] for row in report.rows(name)}:
            understood(shlex.split(command.replace("DATA", str(tmp_path))), monkeypatch)


def test_the_grid_has_every_cell_of_the_results(tmp_path, monkeypatch):
    """benchmarks/grid.sh with a Python that only says what it was asked to do."""
    lay_out = 'while [ $# -gt 1 ]; do [ "$1" = --link ] && mkdir "$2"; shift; done'
    (tmp_path / "python").write_text(f"#!/usr/bin/env bash\nprintf '%q ' \"$@\"\necho\n{lay_out}\nexit 0\n")
    (tmp_path / "python").chmod(0o755)
    command = ["bash", ROOT / "benchmarks/grid.sh", tmp_path, tmp_path / "work"]
    python = os.environ | {"PYTHON": str(tmp_path / "python")}
    done = subprocess.run(command, env=python, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    trained, predicted = set(), set()

    def tiles_of(asked: argparse.Namespace) -> tuple[str, ...]:
        return asked.split, str(asked.size), str(asked.every)

    for command in commands:
        if command[0] == "benchmarks/study.py" and "--link" not in command:
            asked = understood(command, monkeypatch)
            for variant, points, seed in itertools.product(asked.variants, asked.points, asked.seeds):
                budget = "all" if study.VARIANTS[variant].get("num_points", 0) is None else points
                epochs = 0 if variant == "forest" else asked.epochs
                trained.add((*tiles_of(asked), str(epochs), variant, str(budget), str(seed)))
        if command[0] == "benchmarks/inference.py":
            asked = understood(command, monkeypatch)
            cell = (*tiles_of(asked), str(asked.epochs), asked.variant, asked.points)
            assert {(*cell, str(seed)) for seed in asked.seeds} <= trained, "models that are there by then"
            predicted |= {(*cell, way) for way in asked.ways}
    columns = ("split", "size", "every", "epochs", "variant", "points")

    def cells(name: str, key: str) -> set:
        return {tuple(row[column] for column in (*columns, key)) for row in report.rows(name)}

    assert cells("study.csv", "seed") | cells("networks.csv", "seed") <= trained
    ways = cells("inference.csv", "way")
    assert {cell for cell in ways if "ensemble" not in cell[-1]} <= predicted, "ensembles come of themselves"
    assert {"soft_labels", "pictures"} <= {Path(command[0]).stem for command in commands}


def test_no_cell_of_the_study_is_left_out_of_the_tables():
    text = (ROOT / "benchmarks/results/TABLES.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table:(\w+) -->", text)) == set(report.TABLES)
    kinds = {"parts", "methods", *report.KINDS}
    assert {report.kind_of(name) for name in study.VARIANTS} <= kinds
    shown = [
        row for kind in kinds for _, named in report.groups(kind) for own in named.values() for row in own
    ]
    shown += [row for setup in report.COMPARED.values() for row in report.study_rows(setup)]
    networks = [row for row in report.rows("study.csv") if row["epochs"] != "0"]
    assert [row for row in networks if row not in shown] == []


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A folder of results of its own, with a study of two seeds."""
    folder = tmp_path / "benchmarks/results"
    folder.mkdir(parents=True)
    miou = {("plain", "20"): (0.5, 0.6), ("default", "20"): (0.6, 0.7), ("default", "100"): (0.7, 0.8)}
    miou |= {("dense", "all"): (0.7, 0.7), ("plain@wrong5", "20"): (0.4,), ("teacher", "20"): (0.55, 0.6)}
    lines = ["split,variant,points,seed,epochs,size,every,miou,seconds,train_miou"]
    for (variant, points), scores in miou.items():
        for seed, score in enumerate(scores):
            seconds, on_train = (150, 0.9) if variant == "default" else (100, "")
            lines.append(f"val,{variant},{points},{seed},24,128,3,{score},{seconds},{on_train}")
            lines.append(
                f"val,{variant},{points},{seed},12,128,2,0.9,900,"
            )  # another set-up, not in the table
    (folder / "study.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(report, "ROOT", tmp_path)
    return folder


def test_tables_and_values_are_computed_from_their_rows(results):
    text = report.fill("<!-- table:val -->\nold\n<!-- end -->")
    brief = "| 20 | 0.550 ± 0.071 (2) | 0.650 ± 0.071 (2) | +0.100 ± 0.000 (2) |"
    assert f"{brief} 92.9% | 1.7 ± 0.0 | 2.5 ± 0.0 | 1.50 ± 0.00 (2) |\n" in text
    assert f"{brief}\n" in report.fill("<!-- table:budgets -->\n<!-- end -->")
    assert "old" not in text and report.fill(text) == text
    noise = report.variants_table("noise")
    assert (
        "| `val`, every 3rd tile, 128 px, 24 epochs, 20 points | `plain` | 0.550 ± 0.071 (2) | - |" in noise
    )
    assert "| `plain@wrong5` | 0.400 (1) | -0.100 (1) over plain | 1.0 |" in noise  # against seed 0 alone
    assert (
        "| `default` | 0.650 ± 0.071 (2) | +0.100 ± 0.000 (2) over plain | 1.5 ± 0.0 | 0.250 ± 0.071 (2) |"
        in report.variants_table("parts")
    )
    assert report.SHORT["added"]().splitlines() == [
        "|  | `val`, 20 points |",
        "| --- | --- |",
        "| plain, the score itself | 0.550 ± 0.071 (2) |",
        "| mean teacher | +0.025 ± 0.035 (2) |",
        "| CutMix | - |",
        "| mean teacher, CutMix | - |",
        "| mean teacher, soft labels | - |",
        "| all three: `default` | +0.100 ± 0.000 (2) |",
        "| dense masks, plain | +0.150 ± 0.071 (2) |",
        "| dense masks, mean teacher, CutMix | - |",
    ]
    assert report.TABLES["scenes"]() == report.TABLES["first_run"]() == report.NOT_RUN


def test_marked_values_are_computed_and_keep_their_form(results):
    cell = "<!-- study:val/default/20"
    marks = f"{cell}:miou -->1 {cell}:gain -->9.99. {cell}:seeds -->0 {cell}:gap -->9.9"
    assert re.findall(r"->([\d.]+)", report.fill(marks)) == ["1", "0.10.", "2", "0.7"]
    filled = report.fill(f"{cell}:gain -->+0.9, {cell}:miou -->0.99 ± 0.99, {cell}:miou -->0.99 ± chance")
    assert re.findall(r"-->([^<]*)", filled) == ["+0.1, ", "0.65 ± 0.07, ", "0.65 ± chance"]
    assert report.fill(filled) == filled
    with pytest.raises(ValueError, match="default/500"):
        report.fill("<!-- study:val/default/500:miou -->0.5")
    lines = [
        "backbone,device,measure,ratio,hardware",
        "resnet50,cpu,data loading,2,AVX2",
        "resnet50,cpu,data loading,3,AVX512 and AMX",
    ]
    (results / "speed.csv").write_text("\n".join(lines) + "\n")
    assert report.fill("<!-- speed:resnet50/AMX/data_loading:ratio -->9.9").endswith("3.0")
    (results / "run").mkdir()
    (results / "run/metrics.json").write_text('{"iou_per_class": {"built-up": 0.456}}')
    assert report.fill("<!-- run:iou_per_class.built-up -->0.12") == "<!-- run:iou_per_class.built-up -->0.46"


def test_what_was_measured_since_joins_the_short_tables(results):
    with (results / "study.csv").open("a") as file:
        file.writelines(
            f"val,default_stratified,100,{seed},24,128,3,{0.71 + seed / 10},150,\n" for seed in range(2)
        )
    table = report.fill("<!-- table:sampled -->\n<!-- end -->").splitlines()[1:-1]
    assert table == [
        "|  | default, 100: mIoU |",  # at 20 points no other sampling was run
        "| --- | --- |",
        "| random, the score itself | 0.750 ± 0.071 (2) |",
        "| stratified | +0.010 ± 0.000 (2) |",
        "| grid | - |",
        "| boundary | - |",
    ]
    lines = ["seed,miou,iou_water,iou_road,seconds,epochs,network,hardware"]
    lines += [f"{seed},0.6{seed},0.9,0.{seed},{100 + seed},30,unet lite,cpu" for seed in range(1, 4)]
    (results / "first_run.csv").write_text("\n".join(lines) + "\n")
    assert report.TABLES["first_run"]().splitlines() == [
        "| mIoU | water | road | seconds of training | epochs | network | hardware |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0.620 ± 0.010 (3) | 0.900 ± 0.000 | 0.200 ± 0.100 | 102 ± 1 | 30 | unet lite | cpu |",
    ]
    assert report.fill("<!-- first_run:miou -->0 <!-- first_run:miou -->0.00 ± 0.00").endswith("0.62 ± 0.01")


def test_a_gain_is_called_sure_only_if_its_seeds_agree(results):
    lines = ["split,variant,points,seed,epochs,size,every,miou"]
    for variant, scores in {
        "plain": (0.5, 0.5, 0.5),
        "default": (0.6, 0.62, 0.61),
        "teacher": (0.5, 0.56, 0.53),
    }.items():
        lines += [f"val,{variant},20,{seed},24,128,3,{score}" for seed, score in enumerate(scores)]
    (results / "study.csv").write_text("\n".join(lines) + "\n")
    gains = dict(line.strip("| ").split(" | ") for line in report.SHORT["added"]().splitlines()[3:])
    assert gains["all three: `default`"] == "**+0.110 ± 0.010 (3)**"
    assert gains["mean teacher"] == "+0.030 ± 0.030 (3)"


def test_the_resnet50_of_those_with_a_gpu_joins_the_table(results):
    lines = ["split,variant,points,seed,epochs,size,every,miou,seconds,backbone,weights"]
    for variant, points, miou, seconds in (
        ("plain", 20, 0.6, 10),
        ("default", 20, 0.65, 15),
        ("dense", "all", 0.7, 10),
    ):
        lines.append(f"val,{variant}_resnet50,{points},0,50,256,1,{miou},{seconds},resnet50,ImageNet")
    (results / "study.csv").write_text("\n".join(lines) + "\n")
    table = report.variants_table("networks")
    assert "`val`, all tiles, 256 px, 50 epochs, 20 points" in table
    assert [line.split(" | ")[1:5] for line in table.splitlines()[2:]] == [
        ["`plain_resnet50`", "0.600 (1)", "-", "1.0"],
        ["`default_resnet50`", "0.650 (1)", "+0.050 (1) over plain_resnet50", "1.5"],
        ["`dense_resnet50`", "0.700 (1)", "+0.100 (1) over plain_resnet50", "1.0"],
    ]


def test_leads_over_the_forest_are_those_of_the_same_seeds(results):
    lines = ["split,variant,points,seed,epochs,size,every,miou"]
    lines += [f"scenes,forest,100,{seed},0,128,3,{0.4 + seed / 10}" for seed in range(2)]
    lines += [
        "scenes,default,100,1,24,128,3,0.6",
        "scenes,dense,all,0,24,128,3,0.55",
        "val,default,100,0,24,128,3,0.9",
    ]
    (results / "study.csv").write_text("\n".join(lines) + "\n")
    lines = [
        "split,variant,points,epochs,size,every,way,seed,miou",
        "scenes,default,100,24,128,3,plain,1,0.6",
    ]
    lines += ["scenes,default,100,24,128,3,plain,0,0.5"]
    lines += ["scenes,default,100,24,128,3,ensemble of 2,0 1,0.7"]
    (results / "inference.csv").write_text("\n".join(lines) + "\n")
    table = [line.split(" | ") for line in report.across_table().splitlines()[2:]]
    assert [(line[0], line[1], line[3], line[5]) for line in table] == [
        ("| `default`", "ensemble of 2", "0.700 (1)", "+0.250 (1) |"),
        ("| `dense`", "", "0.550 (1)", "+0.150 (1) |"),
        ("| `default`", "", "0.600 (1)", "+0.100 (1) |"),
    ]
    ensemble = "<!-- inference:scenes/default/100/ensemble_of_2"
    marks = "<!-- study:scenes/default/100:lead -->1 "
    marks += f"{ensemble}:lead -->1 {ensemble}:gain -->0.11 {ensemble}:points -->1"
    assert re.findall(r"->([\d.]+)", report.fill(marks)) == ["10", "25", "0.15", "15"]


def test_a_figure_that_does_not_show_the_rows_is_found(results):
    assert report.stale_figures() == ["points"]
    report.draw_figures()
    assert report.stale_figures() == []
    with (results / "study.csv").open("a") as file:
        file.write("val,plain,100,0,24,128,3,0.62,100,\n")
    assert report.stale_figures() == ["points"]


def test_pictures_show_tiles_chosen_by_rule(results, tmp_path, monkeypatch):
    write_tiles(tmp_path / "tiles/128/val", 6, 32, num_classes=5)
    (tmp_path / "models").mkdir()
    model = lc.DeepLabV3Segmentation(5, "mobilenet_v3_large", weights=None)
    for cell in pictures.MODELS.values():
        lc.save_checkpoint(tmp_path / f"models/val-{cell}-24-128-3.pth", model, study.CLASSES)
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--models", str(tmp_path / "models")])
    pictures.main()
    found = report.rows("pictures.csv")
    assert [row["percentile"] for row in found] == ["90", "50", "10", "0"]
    scores = [float(row["default"]) for row in found]
    assert scores == sorted(scores, reverse=True)
    assert "pictures" not in report.stale_figures()
    (results / "pictures.csv").write_text((results / "pictures.csv").read_text() + "0,tile,0,0,0\n")
    assert "pictures" in report.stale_figures()


def test_the_first_run_is_the_program_as_it_is(tmp_path, data, monkeypatch):
    program = [sys.executable, str(ROOT / "landcover_segmentation.py")]
    assert program == first_run.FIRST
    monkeypatch.setattr(first_run, "FIRST", [*program, *flags(data, backbone="mobilenet_v3_large")])

    def run_here(command: list[str], cwd: Path, check: bool) -> None:
        assert (command[:2], cwd, check) == (program, ROOT, True)
        assert lc.main(command[2:]) == 0

    monkeypatch.setattr(first_run, "subprocess", argparse.Namespace(run=run_here))
    path = tmp_path / "first_run.csv"
    monkeypatch.setattr(sys, "argv", ["first_run.py", "--csv", str(path), "--seeds", "3", "4"])
    first_run.main()
    with path.open() as file:
        found = list(csv.DictReader(file))
    assert [row["seed"] for row in found] == ["3", "4"]
    for row in found:
        assert float(row["miou"]) >= 0 and row["epochs"] == "1"
        assert row["network"] == "deeplabv3 mobilenet_v3_large"
        assert float(row["all_seconds"]) > float(row["seconds"]) and row["iou_low"] != "" and row["commit"]
        assert row["command"] == f"benchmarks/first_run.py --seeds {row['seed']}"


def test_other_text_stays():
    text = "nothing to fill, <!-- a note -->0.5"
    assert report.fill(text) == text


def test_rows_of_two_machines_are_paired_with_care():
    def row(miou: float, seconds: float, precision: str, hardware: str) -> dict:
        return {
            "seed": "0",
            "miou": str(miou),
            "seconds": str(seconds),
            "precision": precision,
            "hardware": hardware,
        }

    slow, fast = row(0.50, 400, "float32", "old"), row(0.54, 100, "bfloat16", "new")
    own = row(0.60, 200, "bfloat16", "new")
    assert report.gains([own], [slow, fast]) == pytest.approx([0.06]), "the base of the same precision"
    assert report.gains([own], [slow]) == pytest.approx([0.10]), "or what there is"
    assert report.costs([own], [slow, fast]) == [2], "the same machine"
    assert report.costs([own], [slow]) == [], "or none"
    assert report.column([slow, fast]) == pytest.approx([0.52]), "a cell run twice counts once"
