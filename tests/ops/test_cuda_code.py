"""How a kernel's compiled code is read: names, loops, round trips to memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Load = Callable[[str], Any]


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN4ccdn4cuda6exciteI6__halfLi2ELb1EEEvNS0_", "excite half 2 1"),
        ("_ZN4ccdn4cuda13channel_meansI13__nv_bfloat16EEvNS0_13MeanA", "channel_means bf16"),
        ("_ZN4ccdn4cuda13store_numbersENS0_12CoefficientsEPd", "store_numbers"),
        (
            "_ZN4ccdn4cuda15cluster_squeezeIfNS0_11ClusterFormIdLi64ELi1ELi256ELi4EEEEEvNS0_",
            "cluster_squeeze float double 64 1 256 4",
        ),
        ("memset", "memset"),
    ],
)
def test_the_names_of_kernels(load: Load, symbol: str, name: str) -> None:
    assert load("cubin").demangled(symbol) == name


def code_of(load: Load, *lines: tuple[str, int, int, int] | str) -> Any:
    """A kernel of lines (instruction, stall, scoreboard that it sets, mask that it waits for)."""
    text, encodings = [], []
    for line in lines:
        if isinstance(line, str):
            text.append(f"{line}:")
            continue
        instruction, stall, sets, waits = line
        text.append(f"        /*{16 * len(encodings):04x}*/                   {instruction} ;")
        encodings.append((stall | sets << 5 | waits << 11) << 105)
    return load("cubin").Code("k", "90", "13.0", 32, 0, 0, 256, tuple(encodings), text)


def test_round_trips(load: Load) -> None:
    """Concurrent loads are one trip; a wait for shared memory is not a trip."""
    turns = load("turns")
    loop = [
        ".L_x_0",
        ("LDG.E.128 R4, desc[UR4][R2.64]", 1, 0, 0),
        ("LDG.E.128 R8, desc[UR4][R2.64+0x10]", 1, 0, 0),
        ("IADD3 R20, R20, 0x1, RZ", 4, 7, 0),
        ("STS.128 [R12], R4", 2, 7, 1),
        ("LDS R14, [R12]", 2, 1, 0),
        ("FFMA R15, R14, R14, R15", 4, 7, 2),
        ("LDG.E R4, desc[UR4][R2.64+0x20]", 1, 2, 0),
        ("FFMA R15, R4, R4, R15", 4, 7, 4),
        ("@P0 BRA `(.L_x_0)", 5, 7, 0),
        ("EXIT", 5, 7, 0),
    ]
    turn = turns.figures(code_of(load, *loop)).loop
    assert (turn.instructions, turn.clocks, turn.trips, turn.waits) == (9, 24, 2, 1)
    assert (turn.loads, turn.fused, turn.bytes) == (((16, 2), (4, 1)), 2, 36)
    assert turn.covered == 1 + 4 + 1  # from the last load of a scoreboard on


def test_loads_of_the_next_turn_are_waited_for_in_this_one(load: Load) -> None:
    turns = load("turns")
    loop = [
        ".L_x_0",
        ("STS [R12], R4", 2, 7, 1),
        ("LDG.E R4, desc[UR4][R2.64]", 1, 0, 0),
        ("HMMA.1688.F32.TF32 R24, R4, R8, R24", 15, 7, 0),
        ("BAR.SYNC.DEFER_BLOCKING 0x0", 5, 7, 0),
        ("@P0 BRA `(.L_x_0)", 5, 7, 0),
        ("EXIT", 5, 7, 0),
    ]
    turn = turns.figures(code_of(load, *loop)).loop
    assert (turn.trips, turn.products, turn.barriers) == (1, 1, 1)
    assert turn.covered == 1 + 15 + 5 + 5


def test_asynchronous_copies_are_waited_for_at_their_barrier(load: Load) -> None:
    turns = load("turns")
    loop = [
        ".L_x_0",
        ("LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64]", 1, 7, 0),
        ("LDGDEPBAR", 1, 0, 0),
        ("HMMA.1688.F32.TF32 R24, R4, R8, R24", 9, 7, 0),
        ("DEPBAR.LE SB0, 0x0", 1, 7, 1),
        ("@P0 BRA `(.L_x_0)", 5, 7, 0),
        ("EXIT", 5, 7, 0),
    ]
    turn = turns.figures(code_of(load, *loop)).loop
    assert (turn.trips, turn.loads, turn.covered) == (1, ((16, 1),), 11)


def test_copies_of_a_pipeline_were_asked_for_turns_before(load: Load) -> None:
    """A turn waits for all copies but those of the last two groups, and asks for one group more."""
    turns = load("turns")
    loop = [
        ".L_x_0",
        ("DEPBAR.LE SB0, 0x2", 1, 7, 1),
        ("LDGSTS.E.BYPASS.128 [R3], desc[UR4][R2.64]", 1, 7, 0),
        ("LDGDEPBAR", 1, 0, 0),
        ("HMMA.1688.F32.TF32 R24, R4, R8, R24", 9, 7, 0),
        ("@P0 BRA `(.L_x_0)", 5, 7, 0),
        ("EXIT", 5, 7, 0),
    ]
    turn = turns.figures(code_of(load, *loop)).loop
    assert (turn.trips, turn.covered) == (1, 3 * 17 - 1)


def test_of_two_ways_the_wide_one_is_followed(load: Load) -> None:
    """And the other one is `narrow`: the same bytes in more instructions."""
    turns = load("turns")
    loop = [
        ".L_x_0",
        ("@P1 BRA `(.L_x_1)", 5, 7, 0),
        *[("LDG.E R4, desc[UR4][R2.64]", 1, 0, 0)] * 4,
        ("BRA `(.L_x_2)", 5, 7, 0),
        ".L_x_1",
        ("LDG.E.128 R4, desc[UR4][R2.64]", 1, 0, 0),
        ".L_x_2",
        ("FFMA R15, R4, R4, R15", 4, 7, 1),
        ("@P0 BRA `(.L_x_0)", 5, 7, 0),
        ("EXIT", 5, 7, 0),
        ".L_x_3",
        ("BRA `(.L_x_3)", 0, 7, 0),
    ]
    found = turns.figures(code_of(load, *loop))
    assert found.loads == ((16, 1), (4, 4))
    assert (found.loop.loads, found.loop.instructions) == (((16, 1),), 4)
    assert (found.narrow.loads, found.narrow.instructions) == (((4, 4),), 8)


def test_the_main_loop_is_the_one_with_the_products(load: Load) -> None:
    """With the loads that feed it, where they stand in a loop around it."""
    sass = load("sass")
    program = sass.parse(
        code_of(
            load,
            ".L_x_0",
            *[("DFMA R4, R4, R4, R4", 4, 7, 0)] * 20,
            ("@P0 BRA `(.L_x_0)", 5, 7, 0),
            ".L_x_1",
            ("LDG.E R4, desc[UR4][R2.64]", 1, 0, 0),
            ".L_x_2",
            ("HMMA.1688.F32.TF32 R24, R4, R8, R24", 9, 7, 0),
            ("@P0 BRA `(.L_x_2)", 5, 7, 0),
            ("@P0 BRA `(.L_x_1)", 5, 7, 0),
            ("EXIT", 5, 7, 0),
        )
    )
    assert sass.loops(program) == [(0, 20), (21, 24), (22, 23)]
    assert sass.main_loop(program) == (21, 24)
