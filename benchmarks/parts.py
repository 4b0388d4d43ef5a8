"""The parts that a row's time is split into, by the functions that a profiler names.

The CPU kernels are compiled once for each instruction set, each copy in a namespace isa_*. A
function that the compiler inlines counts as the one that calls it. PARTS has every function
of the kernels that a compiler leaves; a name that is missing is an error, so that no time is hidden
in a rest.
"""

from __future__ import annotations

import re

PRODUCTS, GRADIENT = "matrix products", "gradient"
PADDING = "rounding up to panels"
# What Linux does for a row is to hand out pages and to take them back, but for a few interrupts.
SYSTEM = "pages from the system"
WAITING, CALLS = "waiting for other threads", "PyTorch and Python"
BETWEEN = "between ctm's parts"

# Of the kernels, by the names of their functions in csrc/cpu. Profilers leave out the arguments, so
# that multi_excite's passes are told from the others' by the number of their types.
PARTS = {
    # The Gram matrix, and where an operator has them the iteration and its derivative.
    PRODUCTS: "block_product tile_product symmetric_block symmetric_product put_symmetric"
    " mirror_diagonal gram_panels feature_block feature_product multiply_features expand_block"
    " root_block gradient_features_block gradient_by_positions first_matrix newton_schulz"
    " newton_schulz_derivative multiply multiply_derivative root_gradient pair_gram pair_gram_block"
    " multiply_pairs",
    "recurrence": "chebyshev_step chebyshev_vectors combine dot remove_mean single_unit",
    GRADIENT: "gradient_small_rows gradient_small_columns gradient_factors gradient_tile",
    "reading and centring": "read_elements read_block read_channels read_scaled matrix_from_rows"
    " pack pack_all pack_columns pack_rows pair_columns pair_rows centre_both centre_panel"
    " symmetrize symmetrize_block",
    "sums": "feature_sums row_sums column_sums sum_packed find_means inner_product trace_of",
    "writing": "write_elements write_block write_rows put_rows fill_row fill_features fill_matrix"
    " zero",
    # What is left in the passes of one sample: vectors, scalars, scalings.
    "vectors and scalings": "scale_and_shift scaled forward<T> backward<T> sample_task bytes",
    "excited maps": "forward<S,T>",
    "excited maps' gradient": "backward<S,T> backward_group backward_channels backward_positions",
    "gates": "forward_squeezes forward_hidden forward_gates backward_logits backward_hidden"
    " backward_squeezes weight_gradient widen_squeezes write_gates product product_run row_tiles"
    " turn dot_product dot_rows",
    "loss": "sum_units collect loss gradient narrow_at widen_at",
    BETWEEN: "widen_numbers narrow_numbers add_numbers",
}
# Of what is around the kernels, compiled once: csrc/cpu/*/*.cpp but for *_kernels.cpp. All else
# there checks and hands out tasks.
AROUND = {
    BETWEEN: "pool pool_to_gates pool_to_mean task tasks forward backward typed_of narrow"
    " ctm_forward_cpu ctm_backward_cpu",
}
OTHERS = (SYSTEM, WAITING, CALLS, PADDING)
ALL = (*PARTS, *OTHERS)

_KERNELS = {name: part for part, names in PARTS.items() for name in names.split()}
_AROUND = {name: part for part, names in AROUND.items() for name in names.split()}


class UnknownFunctionError(LookupError):
    """A function of ours that no part has."""


def part_of(symbol: str, library: str) -> str:
    """The part that an instruction belongs to, by its function, demangled, and its library."""
    if library.startswith(("[kernel", "[guest")):
        return SYSTEM
    name = library.rpartition("/")[2]
    if re.match(r"lib(g|i)?omp", name):
        return WAITING
    ours = symbol == "[unknown]" or name_of(symbol).startswith("ccdn::")
    return native_part(symbol) if ours and name.startswith("_C.") else CALLS


def native_part(symbol: str) -> str:
    """That of a function of the native module. UnknownFunctionError without one."""
    if symbol == "[unknown]":
        raise UnknownFunctionError("the native module names no function: it was stripped")
    full = name_of(symbol)
    name = full.rpartition("::")[2]
    if not full.startswith("ccdn::isa_"):
        return _AROUND.get(name, CALLS)  # CALLS: checks and the handing out of tasks
    if name.endswith("_kernels"):  # hands over the addresses of the others
        return CALLS
    types = re.search(rf"\b{re.escape(name)}<([^<>]*)>", symbol)
    kind = "<S,T>" if types and "," in types[1] else "<T>"
    for found in (name, name + kind):
        if found in _KERNELS:
            return _KERNELS[found]
    raise UnknownFunctionError(f"{symbol!r} is in no part of benchmarks/parts.py; add {name!r}")


def name_of(symbol: str) -> str:
    """The function's name: `ccdn::pack` of `ccdn::Panels<float> ccdn::pack<float>(int)`.

    That of a function within another is the outer one's.
    """
    symbol = symbol.replace("(anonymous namespace)::", "")
    depth, bare = 0, ""
    for character in symbol:
        depth += character in "<("
        bare += character if depth == 0 else ""
        depth -= character in ">)"
    outer = bare.split("::{")[0].split(" [clone")[0]
    return outer.removesuffix(" const").rpartition(" ")[2]
