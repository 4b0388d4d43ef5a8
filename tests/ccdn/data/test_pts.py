"""The .pts format: what is read, and that every fault is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccdn.data import DataError, read_pts, write_pts

GOOD = "version: 1\nn_points:  3\n{\n1 1\n2.5 3.25\n101 -4\n}\n"


def test_coordinates_become_zero_based(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    path.write_text(GOOD)
    found = read_pts(path, points=3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[0, 0], [1.5, 2.25], [100, -5]])


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        GOOD.replace("n_points:  3", "n_points:3"),
        GOOD.replace("{", "\n{\n").replace("1 1", "  1\t1  "),
        GOOD.removeprefix("version: 1\n"),
        GOOD.rstrip("\n"),
    ],
    ids=["crlf", "byte order mark", "no space", "blank lines", "no version", "no last newline"],
)
def test_harmless_variations_are_read(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.pts"
    path.write_bytes(text.encode("utf-8"))
    np.testing.assert_array_equal(read_pts(path), [[0, 0], [1.5, 2.25], [100, -5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        ("hello\n", r"line 1: found 'hello', expected 'version: 1'"),
        ("version\n", r"line 1: found 'version', expected 'version: 1'"),
        (f"faces: 1\n{GOOD}", r"line 1: found 'faces: 1', expected 'version: 1'"),
        (GOOD.replace("version: 1", "version: 2"), "line 1: found version '2', expected 1"),
        (GOOD.replace("n_points:  3", "n_points: x"), "line 2: found n_points 'x'"),
        (GOOD.replace("n_points:  3", "n_points: 0"), "line 2: found n_points '0'"),
        (GOOD.replace("n_points:  3\n", ""), "line 2: found no 'n_points:'"),
        (GOOD.replace("n_points:  3", "n_points: 4"), "found 3 points, expected n_points = 4"),
        (GOOD.replace("n_points:  3", "n_points: 2"), "found 3 points, expected n_points = 2"),
        (GOOD.replace("2.5 3.25\n", "2.5\n"), r"line 5: found 1 fields \('2.5'\), expected 'x y'"),
        (GOOD.replace("2.5 3.25", "2.5 3.25 1"), "line 5: found 3 fields"),
        (GOOD.replace("2.5 3.25", "2.5 nan"), "line 5: found '2.5 nan', expected finite"),
        (GOOD.replace("2.5 3.25", "inf 1"), "line 5: found 'inf 1', expected finite"),
        (GOOD.replace("2.5 3.25", "2e38 1"), "line 5: found .2e38 1., expected finite"),
        (GOOD.replace("2.5 3.25", "2.5 b"), "line 5: found '2.5 b', expected two numbers"),
        (GOOD.split("101")[0], "truncated: found 2 points and no closing brace, expected 3 points"),
        (GOOD.replace("2.5 3.25", "~"), r"line 5: found 1 fields \('~'\), expected 'x y'"),
        (GOOD.split("{")[0], "truncated: found no opening brace"),
        (GOOD + "9 9\n", "line 8: found '9 9' after the closing brace"),
    ],
)
def test_every_fault_names_file_and_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad face.pts"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_pts(path)
    assert str(path) in str(caught.value)


LONG = "x" * 60


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        GOOD.replace("version: 1", f"version: {LONG}"),
        GOOD.replace("n_points:  3", f"n_points: {LONG}"),
        GOOD.replace("2.5 3.25", LONG),
        GOOD.replace("2.5 3.25", f"{LONG} 1"),
        GOOD + LONG,
    ],
    ids=["header", "version", "count", "fields", "numbers", "after the end"],
)
def test_an_error_shows_the_beginning_of_a_long_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.pts"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"'{LONG[:40]}'"):
        read_pts(path)


def test_a_number_too_large_is_shown_short(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    path.write_text(GOOD.replace("2.5 3.25", f"1{'0' * 60} 1"))
    with pytest.raises(DataError, match=rf"found '1{'0' * 39}', expected finite numbers"):
        read_pts(path)


def test_counts_of_up_to_nine_digits_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    path.write_text(GOOD.replace("n_points:  3", f"n_points: {10**9 - 1}"))
    with pytest.raises(DataError, match="found 3 points, expected n_points = 999999999"):
        read_pts(path)
    path.write_text(GOOD.replace("n_points:  3", f"n_points: {10**9}"))
    with pytest.raises(DataError, match="line 2: found n_points '1000000000', expected a positive"):
        read_pts(path)
    path.write_text("n_points: 1\n{\n1 2\n}\n")
    np.testing.assert_array_equal(read_pts(path), [[0, 1]])


def test_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    write_pts(path, np.array([[0, 1.5], [-3, 100]]))
    text = "version: 1\nn_points:  2\n{\n1.000000 2.500000\n-2.000000 101.000000\n}\n"
    assert path.read_text() == text
    write_pts(path, np.array([[0, 1.5]]))
    assert len(read_pts(path)) == 1


def test_wrong_count_names_both_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    path.write_text(GOOD)
    with pytest.raises(DataError, match=r"line 2: found n_points 3, expected 68"):
        read_pts(path, points=68)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pts: annotation not found"):
        read_pts(tmp_path / "none.pts")
    binary = tmp_path / "binary.pts"
    binary.write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.pts: not a text file"):
        read_pts(binary)


@given(
    st.lists(
        st.tuples(st.floats(-500, 8000, width=32), st.floats(-500, 8000, width=32)),
        min_size=1,
        max_size=20,
    )
)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, points: list) -> None:
    path = tmp_path_factory.mktemp("pts") / "a.pts"
    values = np.array(points, dtype=np.float32)
    write_pts(path, values)
    np.testing.assert_allclose(read_pts(path, len(values)), values, atol=1e-6, rtol=1e-6)
    assert [found.name for found in path.parent.iterdir()] == ["a.pts"]


def test_a_refused_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    path.write_text(GOOD)
    shapes = [(3, 3), (3, 1), (0, 2), (2,), (1, 2, 2)]
    for bad in (*map(np.zeros, shapes), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match=r"a\.pts: found .* expected (finite|\(L, 2\))"):
            write_pts(path, bad)
    assert path.read_text() == GOOD
    assert len(list(tmp_path.iterdir())) == 1


def test_a_count_of_thousands_of_digits(tmp_path: Path) -> None:
    path = tmp_path / "a.pts"
    path.write_text(f"version: 1\nn_points: {'9' * 5000}\n{{\n1 1\n}}\n")
    with pytest.raises(DataError, match=r"a.pts, line 2: found n_points '9+', expected a positive"):
        read_pts(path)
