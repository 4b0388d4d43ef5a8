"""ctm: schema, fake kernel, and the composition that serves it if no backend has it whole.

x (B, D, H, W), any strides, and the weights of excitation_gates -> excited (B, P, D, H, W), as
multi_excite makes it, and pooled (B, P, D), both in x's dtype. What its parts save, all in the
accumulation dtype (float64 for float64, else float32), is there for the backward pass: mean (B, D),
second (B, D), trace (B,) and gram as dual_squeeze makes them, gates (B, P, D), hidden (B, P, O, R)
and scales (B, P, O, D). With O = 1 there is no second squeeze: second, trace and gram are empty.

A backend may provide ctm as a whole,

  forward(x, reduce_weight, reduce_bias, expand_weight, expand_bias, iterations)
      -> excited, pooled, mean, second, trace, gram, gates, hidden, scales
  backward(grad_excited, grad_pooled, x, reduce_weight, reduce_bias, expand_weight, expand_bias,
           mean, second, trace, gram, gates, hidden, scales, iterations)
      -> the gradients of x (dense in its memory order) and of the four weights

and gets B >= 1, x and grad_excited with any strides, either gradient perhaps None, and everything
else contiguous and in the accumulation dtype, in which it gives the weights' gradients.

Otherwise the backend that serves the operator of each part's name serves that part. Between the
parts everything stays in the accumulation dtype, except for second and the gradients of the
squeezes, which dual_squeeze takes and returns in x's dtype. pooled, the GAP of the excited maps, is
gates * mean, computed without reading the maps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccdn_ops.backends import registry
from ccdn_ops.layout import empty_maps, in_order_of
from ccdn_ops.ops.dual_squeeze import spec as dual_squeeze
from ccdn_ops.ops.excitation_gates import spec as excitation_gates
from ccdn_ops.ops.excitation_gates.spec import packed
from ccdn_ops.ops.multi_excite import spec as multi_excite
from ccdn_ops.ops.operator import Operator, define
from ccdn_ops.ops.raw import looped
from ccdn_ops.precision import accumulation_dtype, no_autocast
from ccdn_ops.work import Call, Work


def _ctm_empty(x: Tensor, reduce_weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    iterations = arguments[-1]
    p, o, r, d = reduce_weight.shape
    batch, wide = x.shape[0], accumulation_dtype(x.dtype)
    mean = x.new_empty(batch, d, dtype=wide)
    if o == 1:
        second, trace, gram = _no_second(mean)
    else:
        _, _, mean, trace, gram = dual_squeeze.outputs(x, iterations)
        second = torch.empty_like(mean)
    return (
        empty_maps(x, batch, p),
        x.new_empty(batch, p, d),
        mean,
        second,
        trace,
        gram,
        x.new_empty(batch, p, d, dtype=wide),
        x.new_empty(batch, p, o, r, dtype=wide),
        x.new_empty(batch, p, o, d, dtype=wide),
    )


def _no_second(mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return mean.new_empty(0), mean.new_empty(0), mean.new_empty(0)


def _ctm(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    *weights, iterations = arguments
    if x.shape[0] == 0:
        return _ctm_empty(x, *arguments)
    wide = accumulation_dtype(x.dtype)
    whole = registry.offered("ctm", x, *weights, iterations)
    with no_autocast(x.device.type):
        if whole is not None:
            return whole.forward(x, *packed(wide, *weights), iterations)
        if weights[0].shape[1] == 1:
            mean = x.mean((2, 3), dtype=wide)
            second, trace, gram = _no_second(mean)
        else:
            flat = x.flatten(2)
            squeeze = registry.select("dual_squeeze", flat, iterations)
            _, second, mean, trace, gram = squeeze.forward(flat, iterations)
            # An operator's outputs do not alias, and mean is one of them.
            second = second.to(wide)
        squeezes = mean, second if second.numel() else None
        inputs = excitation_gates.given(wide, *squeezes, *weights)
        networks = registry.select("excitation_gates", *inputs)
        gates, hidden, scales = networks.forward(*inputs)
        excited = registry.select("multi_excite", x, gates).forward(x, gates)
        pooled = (gates * mean.unsqueeze(1)).to(x.dtype)
    return excited, pooled, mean, second, trace, gram, gates, hidden, scales


def _ctm_grads_empty(
    grad_excited: Tensor | None, grad_pooled: Tensor | None, x: Tensor, *arguments: Any
) -> tuple[Tensor, ...]:
    weights = arguments[: len(excitation_gates.WEIGHTS)]
    return empty_maps(x, x.shape[0]), *(w.new_empty(w.shape) for w in weights)


def _ctm_backward(
    grad_excited: Tensor | None,
    grad_pooled: Tensor | None,
    x: Tensor,
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    mean: Tensor,
    second: Tensor,
    trace: Tensor,
    gram: Tensor,
    gates: Tensor,
    hidden: Tensor,
    scales: Tensor,
    iterations: int,
) -> tuple[Tensor, ...]:
    weights = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    if x.shape[0] == 0:
        return empty_maps(x, 0), *(w.new_zeros(w.shape) for w in weights)
    # Under vmap a tensor without the mapped dimension arrives expanded: its stride there is 0.
    mean, trace, gram = mean.contiguous(), trace.contiguous(), gram.contiguous()
    gates = gates.contiguous()
    whole = registry.offered("ctm", x, *weights, iterations)
    with no_autocast(x.device.type):
        grad_x: Tensor | None = None
        if whole is not None:
            inputs = packed(gates.dtype, *weights)
            states = packed(gates.dtype, mean, second, trace, gram, gates, hidden, scales)
            grad_x, *grad_weights = whole.backward(
                grad_excited, grad_pooled, x, *inputs, *states, iterations
            )
            return grad_x, *(g.to(w.dtype) for w, g in zip(weights, grad_weights, strict=True))
        grad_gates, grad_mean = torch.zeros_like(gates), torch.zeros_like(mean)
        if grad_excited is not None:
            excite = registry.select("multi_excite", x, gates)
            grad_x, grad_gates = excite.backward(grad_excited, x, gates)
        if grad_pooled is not None:
            upstream = grad_pooled.to(gates.dtype)
            grad_gates = torch.addcmul(grad_gates, upstream, mean.unsqueeze(1))
            grad_mean = (upstream * gates).sum(1)

        squeezes = [mean, second if second.numel() else None]
        inputs = excitation_gates.given(gates.dtype, *squeezes, *weights)
        networks = registry.select("excitation_gates", *inputs)
        states = packed(gates.dtype, hidden, scales)
        found = networks.backward(grad_gates.contiguous(), *inputs, *states)
        from_mean, grad_second, *grad_weights = found
        grad_mean += from_mean

        if grad_second is None:
            from_squeezes = (grad_mean / (x.shape[2] * x.shape[3]))[:, :, None, None]
        else:
            flat = x.flatten(2)
            squeeze = registry.select("dual_squeeze", flat, iterations)
            squeezed = grad_mean.to(x.dtype), grad_second.to(x.dtype)
            from_squeezes = squeeze.backward(*squeezed, flat, mean, trace, gram, iterations)
            from_squeezes = from_squeezes.view(x.shape)
        if grad_x is not None:
            grad_x += from_squeezes
        elif grad_second is None:
            grad_x = empty_maps(x, x.shape[0]).copy_(from_squeezes)
        else:
            grad_x = in_order_of(x, from_squeezes)
    return grad_x, *(grad.to(w.dtype) for w, grad in zip(weights, grad_weights, strict=True))


PARTS = ("dual_squeeze", "excitation_gates", "multi_excite")


def work(x: Tensor, call: Call) -> Work:
    """The operations of its parts; x, the excited maps and their gradients move only once."""
    batch, channels = x.shape[:2]
    size, wide = x.element_size(), accumulation_dtype(x.dtype).itemsize
    networks = excitation_gates.networks_work(batch, channels, accumulation_dtype(x.dtype), call)
    excite = multi_excite.work(x, call)
    if call.orders == 1:
        squeeze = Work("the mean", (0, 0), (x.numel(), x.numel()))
        kept = 0
    else:
        squeeze = dual_squeeze.work(x, call)
        # trace and gram; mean and second are counted with the networks.
        kept = squeeze.bytes[0] - x.numel() * size - batch * channels * (2 * size + wide)
    # The gradients of the squeezes and of the gates stay inside.
    inside = batch * channels * (call.orders * wide + call.excitations * size)
    operations = (squeeze.operations, networks.operations, excite.operations)
    forward, backward = (sum(parts) for parts in zip(*operations, strict=True))
    return Work(
        f"{squeeze.algorithm}; {networks.algorithm}; {excite.algorithm}",
        (
            networks.bytes[0] + excite.bytes[0] + kept,
            networks.bytes[1] + excite.bytes[1] + kept - inside,
        ),
        (forward, backward),
        side=squeeze.side,
    )


def _asked(x: Tensor, call: Call) -> tuple[Any, ...]:
    hidden = excitation_gates.hidden_units(x.shape[1], call)
    return x, x.new_empty(call.excitations, call.orders, hidden, x.shape[1])


def _backward_operations(
    grad_excited: Tensor | None, x: Tensor, reduce_weight: Tensor, iterations: int, **rest: Any
) -> int:
    weights = (reduce_weight, rest["reduce_bias"], rest["expand_weight"], rest["expand_bias"])
    _, backward = OPERATOR.operations(x, *weights, iterations)
    if grad_excited is not None:
        return backward
    call = Call(excitations=reduce_weight.shape[0])
    return backward - multi_excite.work(x, call).operations[1]


OPERATOR = define(
    Operator(
        name="ctm",
        first="(B, D, H, W)",
        schema="(Tensor x, Tensor reduce_weight, Tensor reduce_bias, Tensor expand_weight, "
        "Tensor expand_bias, int iterations) -> (Tensor excited, Tensor pooled, Tensor mean, "
        "Tensor second, Tensor trace, Tensor gram, Tensor gates, Tensor hidden, Tensor scales)",
        outputs=2,
        kernel=_ctm,
        backward=_ctm_backward,
        fake=_ctm_empty,
        backward_fake=_ctm_grads_empty,
        vmap=looped,
        parts=PARTS,
        work=work,
        asked=_asked,
        backward_operations=_backward_operations,
        tensors={"x": "BDHW", **excitation_gates.WEIGHTS},
        arrange=lambda x, *weights: (x, weights),
        results=["BPDHW", "BPD"],
        samples=1,
        options={"iterations": 5},
        variants=[{"orders": 1}],
        maps=3,  # the squeezes' gradient is added to that of the excited maps
    )
)
