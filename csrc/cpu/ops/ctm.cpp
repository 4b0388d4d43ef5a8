// The whole ctm on the CPU: squeeze, gates and excite from one call, and what passes between them.
//
// The parts take nearly all of the time, each on all threads. Between them B P D numbers are
// multiplied for pooled, and in the backward pass the squeezes' gradient, of x's size, is added to
// that of the excited maps. The order of summation depends on the shape alone.
#include "common/ctm.h"

#include "cpu/engine/parallel.h"
#include "cpu/engine/samples.h"

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

template <class T>
struct Sum {
  T* to;
  const T* from;
  int64_t count;

  static void task(int64_t index, void* context) noexcept {
    const Sum& sum = *static_cast<const Sum*>(context);
    const int64_t begin = index * kTaskNumbers, rest = sum.count - begin;
    T* to = sum.to + begin;
    const T* from = sum.from + begin;
    const int64_t count = rest < kTaskNumbers ? rest : kTaskNumbers;
    for (int64_t i = 0; i < count; ++i) to[i] += from[i];
  }
};

// The parts run one after another and share their workspace.
struct Workspace {
  void *first, *grad_gates, *grad_first, *grad_second, *grad_x, *part;
  int64_t size;

  Workspace(const CtmShape& s, int workers, bool backward, void* base) : Workspace() {
    const int64_t bytes = s.excite.dtype == Dtype::f64 ? 8 : 4;
    // The start is aligned to a cache line, for which there is room.
    char* start = static_cast<char*>(base);
    Arena arena(start ? start + (64 - reinterpret_cast<uintptr_t>(start) % 64) % 64 : nullptr);
    const auto take = [&](int64_t count) { return arena.take<char>(count * bytes); };
    if (backward) {
      grad_gates = take(squeezes(s) * s.excite.excitations);
      grad_first = take(squeezes(s));
      grad_second = take(squeezes(s));
      grad_x = take(maps(s));
    } else {
      first = take(squeezes(s));
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
  if (s.excite.dtype != Dtype::f32 && s.excite.dtype != Dtype::f64) {
    return Status::unsupported_dtype;
  }
  return s.consistent() ? Status::ok : Status::bad_argument;
}

template <class T>
Status backward(const CtmShape& s, const void* grad_excited, const void* grad_pooled, const void* x,
                const ExcitationGatesWeights& weights, const CtmSaved& saved, const CtmGrads& grads,
                void* workspace, int workers) {
  const Workspace w(s, workers, true, workspace);
  T* grad_gates = static_cast<T*>(w.grad_gates);
  if (grad_excited) {
    const Status status =
        multi_excite_backward_cpu(s.excite, grad_excited, x, saved.gates, grads.x, grad_gates);
    if (status != Status::ok) return status;
  } else {
    for (int64_t i = 0; i < squeezes(s) * s.excite.excitations; ++i) grad_gates[i] = 0;
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
  status =
      dual_squeeze_backward_cpu(s.squeeze, w.grad_first, w.grad_second, x, saved.mean, saved.trace,
                                saved.gram, grad_excited ? w.grad_x : grads.x, w.part, workers);
  if (status != Status::ok || !grad_excited) return status;
  Sum<T> sum{static_cast<T*>(grads.x), of<T>(w.grad_x), maps(s)};
  return parallel_for((sum.count + kTaskNumbers - 1) / kTaskNumbers, Sum<T>::task, &sum);
}

}  // namespace

int64_t ctm_workspace_cpu(const CtmShape& shape, int workers, bool backward) {
  return Workspace(shape, workers, backward, nullptr).size;
}

Status ctm_forward_cpu(const CtmShape& s, const void* x, const ExcitationGatesWeights& weights,
                       void* excited, void* pooled, const CtmSaved& saved, void* workspace,
                       int workers) noexcept {
  Status status = check(s);
  if (status != Status::ok) return status;
  const Workspace w(s, workers, false, workspace);
  status = dual_squeeze_forward_cpu(s.squeeze, x, w.first, saved.second, saved.mean, saved.trace,
                                    saved.gram, w.part, workers);
  if (status != Status::ok) return status;
  status = excitation_gates_forward_cpu(s.gates, saved.mean, saved.second, weights, saved.gates,
                                        saved.hidden, saved.scales, w.part);
  if (status != Status::ok) return status;
  if (s.excite.dtype == Dtype::f64) {
    pool(s, saved, static_cast<double*>(pooled));
  } else {
    pool(s, saved, static_cast<float*>(pooled));
  }
  return multi_excite_forward_cpu(s.excite, x, saved.gates, excited);
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
