# The types of csrc/bindings.cpp. Addresses, streams and dtype codes are ints; what launches returns
# a status (csrc/common/status.h). The functions with _cuda are there only when cuda_archs is not
# empty.

from typing import Literal

compiler: str
cuda_archs: tuple[str, ...]
cuda_ptx: str | None

# cudaError_t, its words, versions of runtime and driver (csrc/common/probe.h).
def cuda_probe() -> tuple[int, str, int, int]: ...
def set_parallel_for(address: int) -> None: ...
def has_parallel_for() -> bool: ...

# The instruction set whose CPU kernels run, by the names of CCDN_CPU_ISA.
def cpu_isa() -> str: ...

# Addresses of kernels as functions of (shape, addresses, workers), and one of them called.
packed: dict[str, int]

def call(function: int, shape: int, addresses: list[int], workers: int) -> int: ...

# From here on written by csrc/bindings.py.

interface: Literal["5b66db7e38a5"]

class CocsShape:
    def __init__(
        self,
        *,
        dtype: int,
        count: int,
        levels: int,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class CovarianceShape:
    def __init__(
        self,
        *,
        dtype: int,
        batch: int,
        channels: int,
        positions: int,
        stride_b: int,
        stride_d: int,
        stride_n: int,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class DualSqueezeShape:
    def __init__(
        self,
        *,
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
    @property
    def address(self) -> int: ...

class ExcitationGatesShape:
    def __init__(
        self,
        *,
        dtype: int,
        weights_dtype: int,
        batch: int,
        excitations: int,
        orders: int,
        channels: int,
        hidden: int,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class MultiExciteShape:
    def __init__(
        self,
        *,
        dtype: int,
        gates_dtype: int,
        batch: int,
        excitations: int,
        channels: int,
        positions: int,
        channels_last: bool,
        stride_b: int,
        stride_row: int,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class CtmShape:
    def __init__(
        self,
        *,
        squeeze: DualSqueezeShape,
        gates: ExcitationGatesShape,
        excite: MultiExciteShape,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class IsqrtCovShape:
    def __init__(
        self,
        *,
        features: CovarianceShape,
        wide: bool,
        by_positions: bool,
        triangle: bool,
        iterations: int,
        slots: int,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class NewtonSchulzShape:
    def __init__(
        self,
        *,
        dtype: int,
        wide: bool,
        batch: int,
        size: int,
        iterations: int,
        slots: int,
    ) -> None: ...
    @property
    def address(self) -> int: ...

class NewtonSchulzRootsShape:
    def __init__(
        self,
        *,
        matrices: NewtonSchulzShape,
        norm: bool,
    ) -> None: ...
    @property
    def address(self) -> int: ...

def cocs_loss_workspace_cpu(
    shape: CocsShape,
    backward: bool,
) -> int: ...
def cocs_loss_forward_cpu(
    shape: CocsShape,
    losses: int,
    sums: int,
    workspace: int,
) -> int: ...
def cocs_loss_backward_cpu(
    shape: CocsShape,
    grad_losses: int,
    sums: int,
    workspace: int,
) -> int: ...
def cocs_loss_workspace_cuda(
    shape: CocsShape,
    backward: bool,
) -> int: ...
def cocs_loss_forward_cuda(
    shape: CocsShape,
    losses: int,
    sums: int,
    workspace: int,
    stream: int,
) -> int: ...
def cocs_loss_backward_cuda(
    shape: CocsShape,
    grad_losses: int,
    sums: int,
    workspace: int,
    stream: int,
) -> int: ...
def covariance_pool_workspace_cpu(
    shape: CovarianceShape,
    workers: int,
    backward: bool,
) -> int: ...
def covariance_pool_forward_cpu(
    shape: CovarianceShape,
    x: int,
    covariance: int,
    trace: int,
    workspace: int,
    workers: int,
) -> int: ...
def covariance_pool_backward_cpu(
    shape: CovarianceShape,
    grad: int,
    x: int,
    trace: int,
    grad_x: int,
    workspace: int,
    workers: int,
) -> int: ...
def covariance_pool_workspace_cuda(
    shape: CovarianceShape,
    backward: bool,
) -> int: ...
def covariance_pool_forward_cuda(
    shape: CovarianceShape,
    x: int,
    covariance: int,
    trace: int,
    workspace: int,
    stream: int,
) -> int: ...
def covariance_pool_backward_cuda(
    shape: CovarianceShape,
    grad: int,
    x: int,
    trace: int,
    grad_x: int,
    workspace: int,
    stream: int,
) -> int: ...
def ctm_workspace_cpu(
    shape: CtmShape,
    workers: int,
    backward: bool,
) -> int: ...
def ctm_forward_cpu(
    shape: CtmShape,
    x: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    excited: int,
    pooled: int,
    saved_mean: int,
    saved_second: int,
    saved_trace: int,
    saved_gram: int,
    saved_gates: int,
    saved_hidden: int,
    saved_scales: int,
    workspace: int,
    workers: int,
) -> int: ...
def ctm_backward_cpu(
    shape: CtmShape,
    grad_excited: int,
    grad_pooled: int,
    x: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    saved_mean: int,
    saved_second: int,
    saved_trace: int,
    saved_gram: int,
    saved_gates: int,
    saved_hidden: int,
    saved_scales: int,
    grads_x: int,
    grads_reduce: int,
    grads_reduce_bias: int,
    grads_expand: int,
    grads_expand_bias: int,
    workspace: int,
    workers: int,
) -> int: ...
def ctm_workspace_cuda(
    shape: CtmShape,
    backward: bool,
) -> int: ...
def ctm_forward_cuda(
    shape: CtmShape,
    x: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    excited: int,
    pooled: int,
    saved_mean: int,
    saved_second: int,
    saved_trace: int,
    saved_gram: int,
    saved_gates: int,
    saved_hidden: int,
    saved_scales: int,
    workspace: int,
    stream: int,
) -> int: ...
def ctm_backward_cuda(
    shape: CtmShape,
    grad_excited: int,
    grad_pooled: int,
    x: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    saved_mean: int,
    saved_second: int,
    saved_trace: int,
    saved_gram: int,
    saved_gates: int,
    saved_hidden: int,
    saved_scales: int,
    grads_x: int,
    grads_reduce: int,
    grads_reduce_bias: int,
    grads_expand: int,
    grads_expand_bias: int,
    workspace: int,
    stream: int,
) -> int: ...
def dual_squeeze_workspace_cpu(
    shape: DualSqueezeShape,
    workers: int,
    backward: bool,
) -> int: ...
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
def dual_squeeze_workspace_cuda(
    shape: DualSqueezeShape,
    backward: bool,
) -> int: ...
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
def excitation_gates_workspace_cpu(
    shape: ExcitationGatesShape,
    backward: bool,
) -> int: ...
def excitation_gates_forward_cpu(
    shape: ExcitationGatesShape,
    first: int,
    second: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    gates: int,
    hidden: int,
    scales: int,
    workspace: int,
) -> int: ...
def excitation_gates_backward_cpu(
    shape: ExcitationGatesShape,
    grad_gates: int,
    first: int,
    second: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    hidden: int,
    scales: int,
    grads_first: int,
    grads_second: int,
    grads_reduce: int,
    grads_reduce_bias: int,
    grads_expand: int,
    grads_expand_bias: int,
    workspace: int,
) -> int: ...
def excitation_gates_workspace_cuda(
    shape: ExcitationGatesShape,
    backward: bool,
) -> int: ...
def excitation_gates_forward_cuda(
    shape: ExcitationGatesShape,
    first: int,
    second: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    gates: int,
    hidden: int,
    scales: int,
    stream: int,
) -> int: ...
def excitation_gates_backward_cuda(
    shape: ExcitationGatesShape,
    grad_gates: int,
    first: int,
    second: int,
    weights_reduce: int,
    weights_reduce_bias: int,
    weights_expand: int,
    weights_expand_bias: int,
    hidden: int,
    scales: int,
    grads_first: int,
    grads_second: int,
    grads_reduce: int,
    grads_reduce_bias: int,
    grads_expand: int,
    grads_expand_bias: int,
    workspace: int,
    stream: int,
) -> int: ...
def isqrt_cov_workspace_cpu(
    shape: IsqrtCovShape,
    workers: int,
    backward: bool,
) -> int: ...
def isqrt_cov_forward_cpu(
    shape: IsqrtCovShape,
    x: int,
    root: int,
    trace: int,
    iterates: int,
    workspace: int,
    workers: int,
) -> int: ...
def isqrt_cov_backward_cpu(
    shape: IsqrtCovShape,
    grad: int,
    x: int,
    trace: int,
    iterates: int,
    grad_x: int,
    workspace: int,
    workers: int,
) -> int: ...
def isqrt_cov_workspace_cuda(
    shape: IsqrtCovShape,
    backward: bool,
) -> int: ...
def isqrt_cov_forward_cuda(
    shape: IsqrtCovShape,
    x: int,
    root: int,
    trace: int,
    iterates: int,
    workspace: int,
    stream: int,
) -> int: ...
def isqrt_cov_backward_cuda(
    shape: IsqrtCovShape,
    grad: int,
    x: int,
    trace: int,
    iterates: int,
    grad_x: int,
    workspace: int,
    stream: int,
) -> int: ...
def multi_excite_forward_cpu(
    shape: MultiExciteShape,
    x: int,
    gates: int,
    out: int,
) -> int: ...
def multi_excite_backward_cpu(
    shape: MultiExciteShape,
    grad_out: int,
    x: int,
    gates: int,
    grad_x: int,
    grad_gates: int,
) -> int: ...
def multi_excite_workspace_cuda(
    shape: MultiExciteShape,
) -> int: ...
def multi_excite_forward_cuda(
    shape: MultiExciteShape,
    x: int,
    gates: int,
    out: int,
    stream: int,
) -> int: ...
def multi_excite_backward_cuda(
    shape: MultiExciteShape,
    grad_out: int,
    x: int,
    gates: int,
    grad_x: int,
    grad_gates: int,
    workspace: int,
    stream: int,
) -> int: ...
def newton_schulz_roots_workspace_cpu(
    shape: NewtonSchulzRootsShape,
    workers: int,
    backward: bool,
) -> int: ...
def newton_schulz_roots_forward_cpu(
    shape: NewtonSchulzRootsShape,
    a: int,
    root: int,
    inverse: int,
    divisor: int,
    iterates: int,
    workspace: int,
    workers: int,
) -> int: ...
def newton_schulz_roots_backward_cpu(
    shape: NewtonSchulzRootsShape,
    grad_root: int,
    grad_inverse: int,
    a: int,
    divisor: int,
    iterates: int,
    grad_a: int,
    workspace: int,
    workers: int,
) -> int: ...
def newton_schulz_roots_workspace_cuda(
    shape: NewtonSchulzRootsShape,
    backward: bool,
) -> int: ...
def newton_schulz_roots_forward_cuda(
    shape: NewtonSchulzRootsShape,
    a: int,
    root: int,
    inverse: int,
    divisor: int,
    iterates: int,
    workspace: int,
    stream: int,
) -> int: ...
def newton_schulz_roots_backward_cuda(
    shape: NewtonSchulzRootsShape,
    grad_root: int,
    grad_inverse: int,
    a: int,
    divisor: int,
    iterates: int,
    grad_a: int,
    workspace: int,
    stream: int,
) -> int: ...
def newton_schulz_sqrt_workspace_cpu(
    shape: NewtonSchulzShape,
    workers: int,
    backward: bool,
) -> int: ...
def newton_schulz_sqrt_forward_cpu(
    shape: NewtonSchulzShape,
    a: int,
    root: int,
    trace: int,
    iterates: int,
    workspace: int,
    workers: int,
) -> int: ...
def newton_schulz_sqrt_backward_cpu(
    shape: NewtonSchulzShape,
    grad: int,
    a: int,
    trace: int,
    iterates: int,
    grad_a: int,
    workspace: int,
    workers: int,
) -> int: ...
def newton_schulz_sqrt_workspace_cuda(
    shape: NewtonSchulzShape,
    backward: bool,
) -> int: ...
def newton_schulz_sqrt_forward_cuda(
    shape: NewtonSchulzShape,
    a: int,
    root: int,
    trace: int,
    iterates: int,
    workspace: int,
    stream: int,
) -> int: ...
def newton_schulz_sqrt_backward_cuda(
    shape: NewtonSchulzShape,
    grad: int,
    a: int,
    trace: int,
    iterates: int,
    grad_a: int,
    workspace: int,
    stream: int,
) -> int: ...
