// newton_schulz_roots on CUDA: the root and the inverse root of symmetric matrices by K
// Newton-Schulz steps, and their gradient; cpu/ops/newton_schulz_roots_kernels.cpp has the
// equations.
//
// On a napkin, for one n x n float32 matrix and K = 5: the ten products of the polynomial Z, whose
// figures newton_schulz_sqrt.cu has, and one more for Y = A Z; backward their derivatives, twenty
// halves of twice the depth, and two such products at the ends of Y. What is added to the iteration
// is n^3 multiply-adds forward and 2 n^3 backward, and 4 n^2 bytes of one more output.
#include "../common/newton_schulz_roots.h"
#include "newton_schulz.cuh"

namespace ccdn::cuda {

// The Frobenius norm (B,) of the symmetric part of matrices in rows. Piece: a sample.
template <typename T>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    matrix_norms(int64_t batch, int64_t n, const T* a, Accumulator<T>* norms) {
  for (int64_t b = blockIdx.x; b < batch; b += gridDim.x) {
    double sum = 0;
    for (int64_t e = threadIdx.x; e < n * n; e += kMatrixThreads) {
      const int64_t i = quotient(e, n), j = e - i * n;
      const double entry = double(Element<T>::load(a[b * n * n + e]));
      const double mirror = double(Element<T>::load(a[(b * n + j) * n + i]));
      sum += (entry + mirror) / 2 * ((entry + mirror) / 2);
    }
    sum = matrix_block_sum(sum);
    if (threadIdx.x == 0) norms[b] = Accumulator<T>(sqrt(sum));
  }
}

// to = scale to + shift M, in panels.
template <typename Acc>
__global__ void __launch_bounds__(kMatrixThreads, 1)
    scale_and_add(int64_t batch, int64_t n, Matrix<const Acc> from, Factors factors,
                  Matrix<Acc> to) {
  const int64_t size = panel_size<Acc>(n), step = int64_t(gridDim.x) * kMatrixThreads;
  for (int64_t at = int64_t(blockIdx.x) * kMatrixThreads + threadIdx.x; at < batch * size;
       at += step) {
    const int64_t b = quotient(at, size), place = at - b * size;
    Acc* out = to.sample(b) + place;
    *out = Acc(factors.scale(b)) * *out + Acc(factors.shift(b)) * from.sample(b)[place];
  }
}

}  // namespace ccdn::cuda

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

template <int kProduct>
struct Memory {
  using Acc = ProductAcc<kProduct>;
  NewtonSchulz<kProduct> iteration;
  double* factors;
  Matrix<Acc> first, product;  // forward: A, where its slot is used again, and Y

  Memory(const NewtonSchulzShape& s, void* iterates, bool backward, DeviceArena& arena)
      : iteration(s.batch, s.size, s.iterations, true,
                  s.slots ? static_cast<Acc*>(iterates) : nullptr, backward, arena),
        factors(arena.take<double>(2 * s.batch)) {
    const int64_t size = panel_size<Acc>(s.size);
    first = iteration.slot(0);
    if (!s.slots && !backward && iteration.steps.slots > kLiveSlots) {
      first = {arena.take<Acc>(s.batch * size), size};
    }
    product = {arena.take<Acc>(backward ? 0 : s.batch * size), size};
  }
};

// to = by (what `kind` says of the divisors) times the symmetric part of rows.
template <int kProduct, typename T>
void read_scaled(Launcher& launch, const NewtonSchulzShape& s, const Memory<kProduct>& m,
                 const void* rows, const Accumulator<T>* divisors, FactorOf kind,
                 Matrix<ProductAcc<kProduct>> to) {
  const Factors factors = factors_of(launch, s.batch, divisors, kind, 1, 0, m.factors);
  launch_symmetrise<kProduct == kDouble, T>(launch, s.batch, s.size, rows, false, factors, to);
}

template <int kProduct, typename T>
Status forward(const NewtonSchulzRootsShape& shape, const void* a, void* root, void* inverse,
               void* divisor, void* iterates, void* workspace, void* stream) {
  constexpr bool kDoubles = kProduct == kDouble;
  const NewtonSchulzShape& s = shape.matrices;
  DeviceArena arena(workspace);
  Memory<kProduct> m(s, iterates, /*backward=*/false, arena);
  auto& iteration = m.iteration;
  Launcher launch(stream);
  auto* divisors = static_cast<Accumulator<T>*>(divisor);
  launch(shape.norm ? matrix_norms<T> : matrix_traces<T>, s.batch, kMatrixThreads, s.batch, s.size,
         static_cast<const T*>(a), divisors);
  read_scaled<kProduct, T>(launch, s, m, a, divisors, FactorOf::trace, iteration.slot(0));
  iteration.iterate(launch);
  if (m.first.data != iteration.slot(0).data) {
    read_scaled<kProduct, T>(launch, s, m, a, divisors, FactorOf::trace, m.first);
  }
  const double z = iteration.steps.z;
  iteration.product(launch, m.first, iteration.result(), 1, {z, m.first}, {}, m.product);
  iteration.launch_chain(launch);
  const Factors by = factors_of(launch, s.batch, divisors, FactorOf::root, 1, 0, m.factors);
  launch_write_rows<kDoubles, T>(launch, s.batch, s.size, m.product, by, root, false);
  const Factors whole =
      factors_of(launch, s.batch, divisors, FactorOf::inverse_root, 1, z, m.factors);
  launch_write_rows<kDoubles, T>(launch, s.batch, s.size, iteration.result(), whole, inverse,
                                 false);
  return launch.status();
}

template <int kProduct, typename T>
Status backward(const NewtonSchulzRootsShape& shape, const void* grad_root,
                const void* grad_inverse, const void* a, const void* divisor, const void* iterates,
                void* grad_a, void* workspace, void* stream) {
  using Acc = ProductAcc<kProduct>;
  const NewtonSchulzShape& s = shape.matrices;
  DeviceArena arena(workspace);
  // It only reads what is saved.
  Memory<kProduct> m(s, const_cast<void*>(iterates), /*backward=*/true, arena);
  auto& iteration = m.iteration;
  Launcher launch(stream);
  const auto* divisors = static_cast<const Accumulator<T>*>(divisor);
  if (!s.slots) {
    read_scaled<kProduct, T>(launch, s, m, a, divisors, FactorOf::trace, m.first);
    iteration.iterate(launch);
  }
  const Matrix<Acc> first = m.first, rest = iteration.result(), direction = iteration.take();
  const double z = iteration.steps.z;
  Matrix<Acc> of_root = {};
  if (grad_inverse) {
    read_scaled<kProduct, T>(launch, s, m, grad_inverse, divisors, FactorOf::inverse_root,
                             direction);
  }
  if (grad_root) {
    of_root = iteration.take();
    read_scaled<kProduct, T>(launch, s, m, grad_root, divisors, FactorOf::root, of_root);
    iteration.products(launch, of_root, first, first, of_root, 0.5,
                       {1, grad_inverse ? direction : Matrix<Acc>{}}, {}, direction);
    iteration.launch_chain(launch);
  }
  launch_inner_product(launch, s.batch, s.size, rest, direction, z, iteration.inner());
  const Matrix<Acc> found = iteration.derivative(launch, direction);
  launch_inner_product(launch, s.batch, s.size, found, first, 0, iteration.other());
  if (grad_root) {
    iteration.products(launch, of_root, rest, rest, of_root, 0.5, {z, of_root}, {1, found}, found);
    iteration.launch_chain(launch);
  }
  Factors factors = factors_of(launch, s.batch, divisors, FactorOf::polynomial_gradient, 1, 0,
                               m.factors, iteration.inner(), iteration.other());
  if (shape.norm) {
    launch(scale_and_add<Acc>, matrix_blocks(s.batch * panel_size<Acc>(s.size)), kMatrixThreads,
           s.batch, s.size, read_only(first), factors, found);
    factors = factors_of(launch, s.batch, divisors, FactorOf::one, 1, 0, m.factors);
  }
  launch_write_rows<kProduct == kDouble, T>(launch, s.batch, s.size, found, factors, grad_a, false);
  return launch.status();
}

}  // namespace

int64_t newton_schulz_roots_workspace_cuda(const NewtonSchulzRootsShape& shape, bool backward) {
  const NewtonSchulzShape& s = shape.matrices;
  int64_t size = 0;
  for_product(s.dtype, s.wide, [&](auto, auto product) {
    DeviceArena arena(nullptr);
    // Where the matrices are saved they need no room, wherever that is.
    char saved = 0;
    Memory<decltype(product)::value>(s, &saved, backward, arena);
    size = arena.used();
    return Status::ok;
  });
  return size;
}

Status newton_schulz_roots_forward_cuda(const NewtonSchulzRootsShape& shape, const void* a,
                                        void* root, void* inverse, void* divisor, void* iterates,
                                        void* workspace, void* stream) noexcept {
  if (!valid(shape.matrices, /*polynomial=*/true)) return Status::bad_argument;
  return for_product(shape.matrices.dtype, shape.matrices.wide, [&](auto element, auto product) {
    return forward<decltype(product)::value, decltype(element)>(shape, a, root, inverse, divisor,
                                                                iterates, workspace, stream);
  });
}

Status newton_schulz_roots_backward_cuda(const NewtonSchulzRootsShape& shape, const void* grad_root,
                                         const void* grad_inverse, const void* a,
                                         const void* divisor, const void* iterates, void* grad_a,
                                         void* workspace, void* stream) noexcept {
  if (!valid(shape.matrices, /*polynomial=*/true)) return Status::bad_argument;
  return for_product(shape.matrices.dtype, shape.matrices.wide, [&](auto element, auto product) {
    return backward<decltype(product)::value, decltype(element)>(
        shape, grad_root, grad_inverse, a, divisor, iterates, grad_a, workspace, stream);
  });
}

}  // namespace ccdn
