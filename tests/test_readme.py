"""README's examples run exactly as printed, in order, in one folder; its commands are those that CI runs."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT

import landcover_segmentation as lc

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SETTING = r"^\| (`[A-Z_]+`(?:, `[A-Z_]+`)*) \| ([^|]*) \|"  # a row of the settings: constants, defaults
SETTINGS = re.findall(SETTING, README, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small dataset/ cut from the shipped one."""
    folder = tmp_path_factory.mktemp("readme")
    for split, count in (("train", 4), ("val", 2)):
        tiles = lc.list_tiles(ROOT / f"dataset/{split}/images", ROOT / f"dataset/{split}/masks")
        for tile in tiles[:count]:
            for path in tile:
                small = folder / path.relative_to(ROOT)
                small.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(small), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:96, :96])
    return folder


def test_there_are_three_examples():
    assert len(EXAMPLES) == 3


def test_examples_run_as_printed(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    transforms = lc.get_transforms  # crops as small as the tiles here: seven times fewer pixels than printed
    smaller = lambda *given, **how: transforms(*given, **how | {"crop_size": 96})  # noqa: E731
    monkeypatch.setattr(lc, "get_transforms", smaller)
    for example in EXAMPLES:
        exec(compile(example, "README.md", "exec"), {"__name__": "__main__"})
    said = capsys.readouterr().out
    assert "epoch 10: loss" in said
    assert "100 labelled pixels of 9216" in said
    class_ids = cv2.imread("map.png", cv2.IMREAD_UNCHANGED)
    assert class_ids.shape == (96, 96)
    assert set(np.unique(class_ids)) <= set(range(6))
    assert cv2.imread("map_in_colour.png").shape == (96, 96, 3)


def test_files_and_flags_that_readme_names_exist():
    for path in re.findall(r"`((?:tools|tests|benchmarks|dataset)/[\w./-]*)`", README):
        assert (ROOT / path).exists() or "…" in path, path
    for name in ("README.md", "technical_report.md", "benchmarks/results/TABLES.md"):
        programs = re.findall(
            r"(?:tools|benchmarks|findings)/\w+\.(?:py|sh)", (ROOT / name).read_text("utf-8")
        )
        assert all((ROOT / program).is_file() for program in programs), (name, programs)
    commands = ROOT.glob("benchmarks/*.sh")
    assert all(os.access(path, os.X_OK) for path in commands), "they are named as commands"
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture
    known = {f"--{name.lower().replace('_', '-')}" for name in lc.setting_types()} | {"--help", "--check"}
    programs = (*ROOT.glob("*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("benchmarks/*.py"))
    for source in programs:
        known |= set(re.findall(r'"(--[a-z-]+)"', source.read_text(encoding="utf-8")))
    ours = re.sub(r"(srun|torchrun) [^`|]*?(?=landcover_segmentation\.py)", "", README)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= known


def test_settings_are_those_of_the_module():
    """Each constant has a row, beside its default; the lists and folders are in one row, without theirs."""
    described = {}
    for row, cell in SETTINGS:
        names, defaults = re.findall(r"\w+", row), cell.replace("`", "").split(", ")
        defaults = defaults if len(defaults) == len(names) else [None] * len(names)
        described |= zip(names, defaults, strict=True)
    constants = {name: getattr(lc, name) for name in lc.setting_types()}
    assert described.keys() == constants.keys()
    told = {name: default for name, default in described.items() if default is not None}
    assert len(told) >= len(constants) - 8
    for name, default in told.items():
        number = type(constants[name]) in (int, float)
        assert (float if number else str)(constants[name]) == (float if number else str)(default), name


@pytest.mark.parametrize("name", ["README.md", "technical_report.md", "benchmarks/results/TABLES.md"])
def test_no_score_stands_unmarked(name):
    """Rule 6: benchmarks/report.py writes what is marked; test_benchmarks.py compares it with the CSVs."""
    text = (ROOT / name).read_text(encoding="utf-8")
    mark = r"<!-- [\w:.+@/,-]+ -->[+-]?\d+(\.\d+)?( ± \d+(\.\d+)?)?"
    assert re.search(mark, text)
    unmarked = re.sub(r"<!-- table:\w+ -->.*?<!-- end -->", "", text, flags=re.DOTALL)
    unmarked = re.sub(mark, "", re.sub(SETTING, "", unmarked, flags=re.MULTILINE))
    assert not re.findall(r"(?<![\d.:/])(?<!= )0\.\d{2,}", unmarked)  # NAME = 0.01 is a setting


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_style(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command, ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
