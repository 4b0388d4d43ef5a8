"""What counts as a number in a file and on a command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ccdn.cli.activations import main as activations
from ccdn.cli.arguments import number, positive, whole
from ccdn.cli.data import main as data
from ccdn.cli.predict import parse_box
from ccdn.data import DataError, open_faces, read_folder, read_pts
from ccdn.data.images import cv2
from ccdn.inference.sources import sources
from ccdn.runtime.numbers import is_whole, parse_number

# Numbers for Python, and for no program that writes landmarks.
ODD = ["1_0.5", "1_0", "\u0661", "\uff11\uff12", "\uff11.5", "1e1_0", "\u00a05", "5\u3000"]
NONE = ["", " ", ".", "+", "e5", "1e", "0x10", "1,5", "1 2", "--1", "1.5f", "True", "½", "²"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0.0", 0),
        ("12", 12),
        (" 1.5\t", 1.5),
        ("+.5", 0.5),
        ("5.", 5),
        ("-1e3", -1000),
        ("1.25E-2", 0.0125),
        ("007", 7),
        ("1e400", np.inf),
        ("-Inf", -np.inf),
    ],
)
def test_numbers(text: str, value: float) -> None:
    assert parse_number(text) == value


def test_nan_is_given_as_such() -> None:
    assert all(np.isnan(parse_number(text)) for text in ("nan", "NaN", "-nan"))


@pytest.mark.parametrize("text", [*ODD, *NONE])
def test_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number") as caught:
        parse_number(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ODD)
def test_odd_numbers_in_every_text_format(text: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((48, 56, 3), np.uint8))
    pts = tmp_path / "a.pts"
    pts.write_text(f"version: 1\nn_points: 2\n{{\n9 9\n7 {text}\n}}\n", encoding="utf-8")
    if text.strip() == text:  # blanks of any script separate the fields of a .pts file
        with pytest.raises(DataError, match=r"a.pts, line 5: found .*expected two numbers"):
            read_pts(pts)
    table = tmp_path / "t.csv"
    table.write_text(f"image,x0,y0\nimages/a.png,9,{text}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"t.csv, line 2: found y0 = .*expected a finite number"):
        read_folder(table)
    table = tmp_path / "own_train.csv"
    header = "image_name,scale,center_w,center_h,original_0_x,original_0_y"
    table.write_text(f"{header}\na.png,1,9,9,9,{text}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: found original_0_y = .*expected a number"):
        open_faces("hrnet", table)


def test_odd_numbers_in_a_list_of_wflw(tmp_path: Path) -> None:
    folder = tmp_path / "list_98pt_rect_attr_train_test"
    folder.mkdir()
    (tmp_path / "WFLW_images").mkdir()
    fields = ["9"] * 196 + ["9", "9", "31", "31"] + ["0"] * 6 + ["a.png"]
    for text in ODD[:6]:
        row = " ".join([*fields[:5], text, *fields[6:]])
        (folder / "list_98pt_rect_attr_train.txt").write_text(row, encoding="utf-8")
        with pytest.raises(DataError, match=r"line 1: found .*, expected a number"):
            open_faces("wflw", tmp_path)


@pytest.mark.parametrize("text", ["+3", "3 ", "1_0", "\u0661", "\uff11", "²", "", "9" * 100, "3.0"])
def test_no_whole_numbers(text: str, tmp_path: Path) -> None:
    assert not is_whole(text)
    for kind in (positive, whole):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from"):
            kind(text)
    with pytest.raises(DataError, match="expected the number of a camera"):
        sources([f"camera:{text}"])
    path = tmp_path / "a.pts"
    path.write_text(f"version: 1\nn_points: {text}\n{{\n9 9\n}}\n", encoding="utf-8")
    if text.strip() == text:
        with pytest.raises(DataError, match=r"found n_points .*, expected a positive whole number"):
            read_pts(path)


def test_whole_numbers() -> None:
    assert is_whole("0")
    assert is_whole("9" * 99)
    assert (whole("0"), whole("12"), positive("1")) == (0, 12, 1)
    with pytest.raises(argparse.ArgumentTypeError, match="from 1, found '0'"):
        positive("0")


@pytest.mark.parametrize("text", [*ODD, "nan", "inf", "1e999", "x"])
def test_numbers_of_a_command_line(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a finite number, found"):
        number(text)
    with pytest.raises(argparse.ArgumentTypeError, match="expected x0,y0,x1,y1"):
        parse_box(f"1,2,30,{text}")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (data, ["inspect", "synthetic", "--margin", "1_0"]),
        (data, ["inspect", "synthetic", "--size", "1_0"]),
        (data, ["inspect", "synthetic", "--seed", "\uff11"]),
        (data, ["inspect", "synthetic", "--points", "6_8"]),
        (data, ["synthesize", "--protocol", "wflw", "--out", "x", "--pose", "1", "2", "٣"]),
        (activations, ["photo.png", "--weights", "x", "--side", "1_92"]),
        (activations, ["photo.png", "--weights", "x", "--box", "1,2,3,1_0"]),
    ],
)
def test_commands(
    command: Callable, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    assert caught.value.code == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("box", ["5,1,5,9", "1,5,9,5", "5,1,4,9", "1,5,9,4"])
def test_a_box_without_an_area(box: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="with x0 < x1 and y0 < y1"):
        parse_box(box)
