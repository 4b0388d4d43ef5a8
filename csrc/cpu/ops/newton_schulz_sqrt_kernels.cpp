// The kernels of newton_schulz_sqrt for one instruction set.
#include "cpu/engine/isa.h"
//
#include "cpu/engine/engine.h"
#include "cpu/ops/newton_schulz.h"
#include "cpu/ops/newton_schulz_sqrt_job.h"

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

template <class T>
CCDN_TARGET Status forward(const NewtonSchulzJob& job, int64_t sample, char* memory, int threads,
                           const Codec<T>& codec) {
  const NewtonSchulzShape& s = *job.shape;
  const NewtonSchulzSteps steps(s.iterations, false);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, false);
  const int64_t n = s.size, size = matrix_size<T>(n);
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, live(steps));
  const Saved saved{s.dtype != Dtype::f64};
  Team team(threads);
  symmetrize(team, codec, codec.at(job.a, sample * n * n), Rows::full, n, slots[0]);
  const double trace = saved.put(job.trace, sample, trace_of(slots[0], n));
  void* root = codec.at(job.root, sample * n * n);
  if (trace == 0) {
    for (int k = 0; k < s.slots; ++k) fill_matrix(slots[k], n, T(0));
    zero(codec, root, n * n);
    return Status::ok;
  }
  scale_and_shift(slots[0], n, T(1 / trace), T(0));
  newton_schulz(team, n, steps, slots);
  write_rows(team, codec, slots[steps.result], T(std::sqrt(trace)), n, Rows::full, root);
  return team.status();
}

template <class T>
CCDN_TARGET Status backward(const NewtonSchulzJob& job, int64_t sample, char* memory, int threads,
                            const Codec<T>& codec) {
  const NewtonSchulzShape& s = *job.shape;
  const NewtonSchulzSteps steps(s.iterations, false);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, true);
  const int64_t n = s.size, size = matrix_size<T>(n);
  const double trace = Saved{s.dtype != Dtype::f64}.get(job.trace, sample);
  void* grad_a = codec.at(job.grad_a, sample * n * n);
  if (trace == 0) {
    zero(codec, grad_a, n * n);
    return Status::ok;
  }
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, steps.slots);
  Team team(threads);
  if (!s.slots) {
    symmetrize(team, codec, codec.at(job.a, sample * n * n), Rows::full, n, slots[0]);
    scale_and_shift(slots[0], n, T(1 / trace), T(0));
    newton_schulz(team, n, steps, slots);
  }
  Pool<T> pool(m.pool, size);
  T* grad = pool.take();
  symmetrize(team, codec, codec.at(job.grad, sample * n * n), Rows::full, n, grad);
  T* found = root_gradient(team, n, steps, slots, pool, grad, trace);
  write_rows(team, codec, found, T(1), n, Rows::full, grad_a);
  return team.status();
}

}  // namespace

const NewtonSchulzKernels& newton_schulz_kernels() {
  static const NewtonSchulzKernels kernels{
      CCDN_SAMPLE_TASKS(NewtonSchulzJob, forward),
      CCDN_SAMPLE_TASKS(NewtonSchulzJob, backward),
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
