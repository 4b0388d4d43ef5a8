// The kernels of newton_schulz_roots for one instruction set.
//
// With A = S / c, c the divisor, and Z = q_K(A) = z 1 + R, the root is sqrt(c) A Z and the inverse
// root Z / sqrt(c): one product more than Z alone. The upstream gradients, made symmetric, are F,
// that of the root times sqrt(c), and G, that of the inverse root divided by it: those of A Z and
// of Z. Then
//
//   dS = (F Z / 2 + Z F / 2 + M - (<D, Z> / 2 + <M, A>) c') / c,  D = F A / 2 + A F / 2 + G
//
// where M is the derivative of q_K at A in the direction of D, and c' that of c: 1 for the trace, A
// for the Frobenius norm.
#include "cpu/engine/isa.h"
//
#include "cpu/engine/engine.h"
#include "cpu/ops/newton_schulz.h"
#include "cpu/ops/newton_schulz_roots_job.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

template <class T>
struct Memory {
  T *slots, *pool;
  T *first, *result;  // forward: A, where its slot is used again, and what is written

  Memory(Arena& arena, const NewtonSchulzShape& s, const NewtonSchulzSteps& steps, bool backward) {
    const int64_t size = matrix_size<T>(s.size);
    slots = arena.take<T>(s.slots ? 0 : size * (backward ? steps.slots : live(steps)));
    pool = arena.take<T>(backward ? size * Pool<T>::kCount : 0);
    first = arena.take<T>(backward || s.slots || live(steps) == steps.slots ? 0 : size);
    result = arena.take<T>(backward ? 0 : size);
  }
};

template <class T>
int64_t bytes(const NewtonSchulzRootsShape& shape, bool backward) {
  Arena arena(nullptr);
  Memory<T>(arena, shape.matrices, NewtonSchulzSteps(shape.matrices.iterations, true), backward);
  return arena.used();
}

// value, NaN where the divisor is infinite: what overflows must show.
CCDN_INLINE double shown(double divisor, double value) { return value + (divisor - divisor); }

// out = by rows, made symmetric.
template <class T>
CCDN_TARGET void read_scaled(Team& team, const Codec<T>& codec, const void* rows, double by,
                             int64_t n, T* out) {
  symmetrize(team, codec, rows, Rows::full, n, out);
  scale_and_shift(out, n, T(by), T(0));
}

template <class T>
CCDN_TARGET Status forward(const NewtonSchulzRootsJob& job, int64_t sample, char* memory,
                           int threads, const Codec<T>& codec) {
  const NewtonSchulzShape& s = job.shape->matrices;
  const NewtonSchulzSteps steps(s.iterations, true);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, false);
  const int64_t n = s.size, size = matrix_size<T>(n);
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, live(steps));
  const void* rows = codec.at(job.a, sample * n * n);
  void *root = codec.at(job.root, sample * n * n), *inverse = codec.at(job.inverse, sample * n * n);
  Team team(threads);
  symmetrize(team, codec, rows, Rows::full, n, slots[0]);
  const double found =
      job.shape->norm ? std::sqrt(inner_product(slots[0], slots[0], n)) : trace_of(slots[0], n);
  const double divisor = Saved{s.dtype != Dtype::f64}.put(job.divisor, sample, found);
  if (divisor == 0) {
    for (int k = 0; k < s.slots; ++k) fill_matrix(slots[k], n, T(0));
    zero(codec, root, n * n);
    zero(codec, inverse, n * n);
    return Status::ok;
  }
  scale_and_shift(slots[0], n, T(1 / divisor), T(0));
  newton_schulz(team, n, steps, slots);
  const T *first = slots[0], *rest = slots[steps.result], *const nothing = nullptr;
  if (slots.count < steps.slots) {
    read_scaled(team, codec, rows, 1 / divisor, n, m.first);
    first = m.first;
  }
  multiply(team, n, first, rest, T(1), T(steps.z), first, T(0), nothing, m.result);
  write_rows(team, codec, m.result, T(shown(divisor, std::sqrt(divisor))), n, Rows::full, root);
  scaled(n, rest, T(1), m.result);
  scale_and_shift(m.result, n, T(1), T(steps.z));
  write_rows(team, codec, m.result, T(shown(divisor, 1 / std::sqrt(divisor))), n, Rows::full,
             inverse);
  return team.status();
}

template <class T>
CCDN_TARGET Status backward(const NewtonSchulzRootsJob& job, int64_t sample, char* memory,
                            int threads, const Codec<T>& codec) {
  const NewtonSchulzShape& s = job.shape->matrices;
  const NewtonSchulzSteps steps(s.iterations, true);
  Arena arena(memory);
  const Memory<T> m(arena, s, steps, true);
  const int64_t n = s.size, size = matrix_size<T>(n);
  const double divisor = Saved{s.dtype != Dtype::f64}.get(job.divisor, sample);
  void* grad_a = codec.at(job.grad_a, sample * n * n);
  if (divisor == 0) {
    zero(codec, grad_a, n * n);
    return Status::ok;
  }
  const Slots<T> slots = slots_of<T>(job.iterates, s.slots, sample, m.slots, size, steps.slots);
  Team team(threads);
  if (!s.slots) {
    read_scaled(team, codec, codec.at(job.a, sample * n * n), 1 / divisor, n, slots[0]);
    newton_schulz(team, n, steps, slots);
  }
  const T *first = slots[0], *rest = slots[steps.result], *const nothing = nullptr;
  const double power = std::sqrt(divisor);
  Pool<T> pool(m.pool, size);
  T *direction = pool.take(), *of_root = nullptr;
  if (job.grad_inverse) {
    read_scaled(team, codec, codec.at(job.grad_inverse, sample * n * n), 1 / power, n, direction);
  }
  if (job.grad_root) {
    of_root = pool.take();
    read_scaled(team, codec, codec.at(job.grad_root, sample * n * n), power, n, of_root);
    multiply_derivative(team, n, of_root, first, first, of_root, T(0.5), T(1),
                        job.grad_inverse ? direction : nothing, T(0), nothing, direction);
  }
  const double inner = inner_product(rest, direction, n) + steps.z * trace_of(direction, n);
  T* found = newton_schulz_derivative(team, n, steps, slots, pool, direction);
  const double shift = -(inner / 2 + inner_product(found, first, n)) / divisor;
  if (of_root) {
    multiply_derivative(team, n, of_root, rest, rest, of_root, T(0.5), T(steps.z), of_root, T(1),
                        found, found);
  }
  const bool norm = job.shape->norm;
  scale_and_shift(found, n, T(shown(divisor, 1 / divisor)), T(norm ? 0 : shift));
  if (norm) {
    for (int64_t e = 0; e < size; ++e) found[e] += T(shift) * first[e];
  }
  write_rows(team, codec, found, T(1), n, Rows::full, grad_a);
  return team.status();
}

}  // namespace

const NewtonSchulzRootsKernels& newton_schulz_roots_kernels() {
  static const NewtonSchulzRootsKernels kernels{
      CCDN_SAMPLE_TASKS(NewtonSchulzRootsJob, forward),
      CCDN_SAMPLE_TASKS(NewtonSchulzRootsJob, backward),
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
