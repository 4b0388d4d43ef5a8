# The types of csrc/bindings.cpp. Addresses and streams are ints; launches return a status
# (csrc/common/status.h). The functions with _cuda are there only when cuda_archs is not empty.

compiler: str
interface: int
cuda_archs: tuple[str, ...]
cuda_ptx: str | None

def set_parallel_for(address: int) -> None: ...
def has_parallel_for() -> bool: ...

class DualSqueezeShape:
    def __init__(
        self,
        dtype: int,
        batch: int,
        channels: int,
        positions: int,
        stride_b: int,
        stride_d: int,
        stride_n: int,
        side: int,
        saves_gram: bool,
        terms: int,
        rank: int,
        dense_gradient: bool,
        coefficients: int,
    ) -> None: ...

def dual_squeeze_workspace_cpu(shape: DualSqueezeShape, workers: int, backward: bool) -> int: ...
def dual_squeeze_forward_cpu(
    shape: DualSqueezeShape,
    x: int,
    first: int,
    second: int,
    mean: int,
    trace: int,
    gram: int,
    workspace: int,
    workers: int,
) -> int: ...
def dual_squeeze_backward_cpu(
    shape: DualSqueezeShape,
    grad_first: int,
    grad_second: int,
    x: int,
    mean: int,
    trace: int,
    gram: int,
    grad_x: int,
    workspace: int,
    workers: int,
) -> int: ...
def dual_squeeze_workspace_cuda(shape: DualSqueezeShape, backward: bool) -> int: ...
def dual_squeeze_forward_cuda(
    shape: DualSqueezeShape,
    x: int,
    first: int,
    second: int,
    mean: int,
    trace: int,
    gram: int,
    workspace: int,
    stream: int,
) -> int: ...
def dual_squeeze_backward_cuda(
    shape: DualSqueezeShape,
    grad_first: int,
    grad_second: int,
    x: int,
    mean: int,
    trace: int,
    gram: int,
    grad_x: int,
    workspace: int,
    stream: int,
) -> int: ...
