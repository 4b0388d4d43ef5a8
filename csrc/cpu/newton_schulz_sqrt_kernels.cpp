// The kernels of newton_schulz_sqrt for one instruction set.
#include "cpu/isa.h"
//
#include "cpu/newton_schulz.h"
#include "cpu/newton_schulz_sqrt_job.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

template <class T>
struct Memory {
  T *slots, *pool;

  Memory(Arena& arena, const NewtonSchulzShape& s, const NewtonSchulzSteps& steps, bool backward) {
    const int64_t size = matrix_size<T>(s.size);
    slots = arena.take<T>(s.slots ? 0 : size * (backward ? steps.slots : live(steps)));
    pool = arena.take<T>(backward ? size * Pool<T>::kCount : 0);
  }
};

template <class T>
int64_t bytes(const NewtonSchulzShape& s, bool backward) {
  Arena arena(nullptr);
  Memory<T>(arena, s, NewtonSchulzSteps(s.iterations, false), backward);
  return arena.used();
}

// S is the type of a and root, T that of the arithmetic, V that of what is saved.
template <class S, class T, class V>
CCDN_TARGET Status forward(const void* context, int64_t sample, char* memory, int threads) {
  const NewtonSchulzJob& job = *static_cast<const NewtonSchulzJob*>(context);
  const NewtonSchulzShape& s = *job.shape;
  const NewtonSchulzSteps steps(s.iterations, false);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, false);
  const int64_t n = s.size, size = matrix_size<T>(n);
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, live(steps));
  Team team(threads);
  symmetrize(team, static_cast<const S*>(job.a) + sample * n * n, Rows::full, n, slots[0]);
  const double trace = trace_of(slots[0], n);
  static_cast<V*>(job.trace)[sample] = V(trace);
  S* root = static_cast<S*>(job.root) + sample * n * n;
  if (V(trace) == 0) {
    for (int k = 0; k < s.slots; ++k) fill_matrix(slots[k], n, T(0));
    zero(root, n * n);
    return Status::ok;
  }
  const double saved = double(V(trace));
  scale_and_shift(slots[0], n, T(1 / saved), T(0));
  newton_schulz(team, n, steps, slots);
  write_rows(team, slots[steps.result], T(std::sqrt(saved)), n, Rows::full, root);
  return team.status();
}

template <class S, class T, class V>
CCDN_TARGET Status backward(const void* context, int64_t sample, char* memory, int threads) {
  const NewtonSchulzJob& job = *static_cast<const NewtonSchulzJob*>(context);
  const NewtonSchulzShape& s = *job.shape;
  const NewtonSchulzSteps steps(s.iterations, false);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, true);
  const int64_t n = s.size, size = matrix_size<T>(n);
  const double trace = double(static_cast<const V*>(job.trace)[sample]);
  S* grad_a = static_cast<S*>(job.grad_a) + sample * n * n;
  if (trace == 0) {
    zero(grad_a, n * n);
    return Status::ok;
  }
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, steps.slots);
  Team team(threads);
  if (!s.slots) {
    symmetrize(team, static_cast<const S*>(job.a) + sample * n * n, Rows::full, n, slots[0]);
    scale_and_shift(slots[0], n, T(1 / trace), T(0));
    newton_schulz(team, n, steps, slots);
  }
  Pool<T> pool(m.pool, size);
  T* grad = pool.take();
  symmetrize(team, static_cast<const S*>(job.grad) + sample * n * n, Rows::full, n, grad);
  T* found = root_gradient(team, n, steps, slots, pool, grad, trace);
  write_rows(team, found, T(1), n, Rows::full, grad_a);
  return team.status();
}

}  // namespace

const NewtonSchulzKernels& newton_schulz_kernels() {
  static const NewtonSchulzKernels kernels{
      {forward<float, float, float>, forward<double, double, double>,
       forward<BFloat16, float, float>, forward<Half, float, float>, forward<float, double, float>},
      {backward<float, float, float>, backward<double, double, double>,
       backward<BFloat16, float, float>, backward<Half, float, float>,
       backward<float, double, float>},
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
