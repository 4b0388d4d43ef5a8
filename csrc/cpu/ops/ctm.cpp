// The whole ctm on the CPU: squeeze, gates and excite from one call, and what passes between them.
//
// The parts take nearly all of the time, each on all threads. Between them B P D numbers are
// multiplied for pooled, and in the backward pass the squeezes' gradient, of x's size, is added to
// that of the excited maps. The order of summation depends on the shape alone.
#include "cpu/engine/parallel.h"
#include "cpu/engine/samples.h"
#include "cpu/ops/ctm_job.h"

namespace ccdn {
namespace {

int64_t squeezes(const CtmShape& s) { return s.excite.batch * s.excite.channels; }

int64_t maps(const CtmShape& s) { return squeezes(s) * s.excite.positions; }

template <class T>
const T* of(const void* numbers) {
  return static_cast<const T*>(numbers);
}

// pooled (B, P, D) = gates * mean: the mean of every excited map.
template <class T>
void pool(const CtmShape& s, const CtmSaved& saved, T* pooled) {
  const int64_t excitations = s.excite.excitations, channels = s.excite.channels;
  const T* gates = of<T>(saved.gates);
  for (int64_t b = 0; b < s.excite.batch; ++b) {
    const T* mean = of<T>(saved.mean) + b * channels;
    for (int64_t p = 0; p < excitations; ++p, gates += channels, pooled += channels) {
      for (int64_t d = 0; d < channels; ++d) pooled[d] = gates[d] * mean[d];
    }
  }
}

// grad_gates (B, P, D) += the gradient of pooled * mean.
template <class T>
void pool_to_gates(const CtmShape& s, const CtmSaved& saved, const T* grad, T* grad_gates) {
  const int64_t excitations = s.excite.excitations, channels = s.excite.channels;
  for (int64_t b = 0; b < s.excite.batch; ++b) {
    const T* mean = of<T>(saved.mean) + b * channels;
    for (int64_t p = 0; p < excitations; ++p, grad += channels, grad_gates += channels) {
      for (int64_t d = 0; d < channels; ++d) grad_gates[d] += grad[d] * mean[d];
    }
  }
}

// grad_mean (B, D) += the sum over the excitations of the gradient of pooled * gates.
template <class T>
void pool_to_mean(const CtmShape& s, const CtmSaved& saved, const T* grad, T* grad_mean) {
  const int64_t excitations = s.excite.excitations, channels = s.excite.channels;
  const T* gates = of<T>(saved.gates);
  for (int64_t b = 0; b < s.excite.batch; ++b, grad_mean += channels) {
    for (int64_t p = 0; p < excitations; ++p, grad += channels, gates += channels) {
      for (int64_t d = 0; d < channels; ++d) grad_mean[d] += grad[d] * gates[d];
    }
  }
}

// A task adds this many numbers: a thread that is woken for less saves nothing.
constexpr int64_t kTaskNumbers = 1 << 15;

struct Sum {
  const CtmKernels::Typed* typed;
  const char* from;
  char* to;
  int64_t count;

  int64_t tasks() const { return (count + kTaskNumbers - 1) / kTaskNumbers; }

  static void task(int64_t index, void* context) noexcept {
    const Sum& sum = *static_cast<const Sum*>(context);
    const int64_t begin = index * kTaskNumbers, rest = sum.count - begin;
    const int64_t at = begin * sum.typed->bytes;
    sum.typed->add(sum.from + at, rest < kTaskNumbers ? rest : kTaskNumbers, sum.to + at);
  }
};

const CtmKernels::Typed& typed_of(const CtmShape& s) {
  return CCDN_KERNELS(ctm_kernels).typed[static_cast<int>(s.excite.dtype)];
}

// Whether x has 16 bits. The squeezes that dual_squeeze takes and returns have them, too, and so
// has pooled; all else between the parts has the accumulation type.
bool narrow(const CtmShape& s) {
  return s.excite.dtype == Dtype::bf16 || s.excite.dtype == Dtype::f16;
}

// The parts run one after another and share their workspace. What ends in _x has x's type.
struct Workspace {
  void *first_x, *second_x, *pooled, *grad_gates, *grad_first, *grad_second, *grad_x, *part;
  int64_t size;

  Workspace(const CtmShape& s, int workers, bool backward, void* base) : Workspace() {
    const int64_t wide = s.excite.dtype == Dtype::f64 ? 8 : 4, own = typed_of(s).bytes;
    Arena arena = Arena::aligned(base);
    const auto take = [&](int64_t count, int64_t bytes) { return arena.take<char>(count * bytes); };
    const int64_t gates_count = squeezes(s) * s.excite.excitations;
    if (narrow(s)) pooled = take(gates_count, wide);
    if (narrow(s)) second_x = take(squeezes(s), own);
    if (narrow(s) || !backward) first_x = take(squeezes(s), own);
    if (backward) {
      grad_gates = take(gates_count, wide);
      grad_first = take(squeezes(s), wide);
      grad_second = take(squeezes(s), wide);
      grad_x = take(maps(s), own);
    }
    const int64_t squeeze = dual_squeeze_workspace_cpu(s.squeeze, workers, backward);
    const int64_t gates = excitation_gates_workspace_cpu(s.gates, backward);
    part = arena.take<char>(squeeze > gates ? squeeze : gates);
    size = arena.used() + kSlotAlignment;
  }

 private:
  Workspace() = default;
};

Status check(const CtmShape& s) {
  const int code = static_cast<int>(s.excite.dtype);
  if (code < 0 || code > 3) return Status::unsupported_dtype;
  return s.consistent() ? Status::ok : Status::bad_argument;
}

template <class T>
Status forward(const CtmShape& s, const void* x, const ExcitationGatesWeights& weights,
               void* excited, void* pooled, const CtmSaved& saved, void* workspace, int workers) {
  const Workspace w(s, workers, false, workspace);
  const CtmKernels::Typed& typed = typed_of(s);
  Status status =
      dual_squeeze_forward_cpu(s.squeeze, x, w.first_x, narrow(s) ? w.second_x : saved.second,
                               saved.mean, saved.trace, saved.gram, w.part, workers);
  if (status != Status::ok) return status;
  if (narrow(s)) typed.widen(w.second_x, squeezes(s), saved.second);
  status = excitation_gates_forward_cpu(s.gates, saved.mean, saved.second, weights, saved.gates,
                                        saved.hidden, saved.scales, w.part);
  if (status != Status::ok) return status;
  pool(s, saved, static_cast<T*>(narrow(s) ? w.pooled : pooled));
  if (narrow(s)) typed.narrow(w.pooled, squeezes(s) * s.excite.excitations, pooled);
  return multi_excite_forward_cpu(s.excite, x, saved.gates, excited);
}

template <class T>
Status backward(const CtmShape& s, const void* grad_excited, const void* grad_pooled, const void* x,
                const ExcitationGatesWeights& weights, const CtmSaved& saved, const CtmGrads& grads,
                void* workspace, int workers) {
  const Workspace w(s, workers, true, workspace);
  const CtmKernels::Typed& typed = typed_of(s);
  const int64_t gates_count = squeezes(s) * s.excite.excitations;
  T* grad_gates = static_cast<T*>(w.grad_gates);
  if (grad_excited) {
    const Status status =
        multi_excite_backward_cpu(s.excite, grad_excited, x, saved.gates, grads.x, grad_gates);
    if (status != Status::ok) return status;
  } else {
    for (int64_t i = 0; i < gates_count; ++i) grad_gates[i] = 0;
  }
  if (grad_pooled && narrow(s)) {
    typed.widen(grad_pooled, gates_count, w.pooled);
    grad_pooled = w.pooled;
  }
  if (grad_pooled) pool_to_gates<T>(s, saved, of<T>(grad_pooled), grad_gates);
  const ExcitationGatesGrads found{w.grad_first,      w.grad_second, grads.reduce,
                                   grads.reduce_bias, grads.expand,  grads.expand_bias};
  Status status = excitation_gates_backward_cpu(s.gates, grad_gates, saved.mean, saved.second,
                                                weights, saved.hidden, saved.scales, found, w.part);
  if (status != Status::ok) return status;
  if (grad_pooled) {
    pool_to_mean<T>(s, saved, of<T>(grad_pooled), static_cast<T*>(w.grad_first));
  }
  if (narrow(s)) {
    typed.narrow(w.grad_first, squeezes(s), w.first_x);
    typed.narrow(w.grad_second, squeezes(s), w.second_x);
  }
  status = dual_squeeze_backward_cpu(
      s.squeeze, narrow(s) ? w.first_x : w.grad_first, narrow(s) ? w.second_x : w.grad_second, x,
      saved.mean, saved.trace, saved.gram, grad_excited ? w.grad_x : grads.x, w.part, workers);
  if (status != Status::ok || !grad_excited) return status;
  Sum sum{&typed, static_cast<const char*>(w.grad_x), static_cast<char*>(grads.x), maps(s)};
  return parallel_for(sum.tasks(), Sum::task, &sum);
}

}  // namespace

int64_t ctm_workspace_cpu(const CtmShape& shape, int workers, bool backward) {
  if (check(shape) != Status::ok) return 0;
  return Workspace(shape, workers, backward, nullptr).size;
}

Status ctm_forward_cpu(const CtmShape& s, const void* x, const ExcitationGatesWeights& weights,
                       void* excited, void* pooled, const CtmSaved& saved, void* workspace,
                       int workers) noexcept {
  const Status status = check(s);
  if (status != Status::ok) return status;
  const auto run = s.excite.dtype == Dtype::f64 ? forward<double> : forward<float>;
  return run(s, x, weights, excited, pooled, saved, workspace, workers);
}

Status ctm_backward_cpu(const CtmShape& s, const void* grad_excited, const void* grad_pooled,
                        const void* x, const ExcitationGatesWeights& weights, const CtmSaved& saved,
                        const CtmGrads& grads, void* workspace, int workers) noexcept {
  const Status status = check(s);
  if (status != Status::ok) return status;
  const auto run = s.excite.dtype == Dtype::f64 ? backward<double> : backward<float>;
  return run(s, grad_excited, grad_pooled, x, weights, saved, grads, workspace, workers);
}

}  // namespace ccdn
