// covariance_pool on CUDA: S = Xc Xc^T / N of features (D, N), and its gradient.
//
// On a napkin, for a sample of s bytes a number:
//
//   forward    s (D N + D^2) bytes, D^2 N / 2 multiply-adds (of 64 x 64 tiles; a little more)
//   backward   s (2 D N + D^2) bytes, D^2 N multiply-adds: grad_x = (G + G^T) Xc / N, whose rows
//              sum to 0 because those of Xc do
//
// float32 at D = 256, N = 1024: 1.3 MB, 0.4 us of an H100's memory (3.35 TB/s), and three terms of
// TF32 at 495 TFLOP/s, 0.5 us: arithmetic does it. x is read once for the means and their squares
// (twice, the second time from the cache) and by each row of tiles, D / 64 times, from L2, where a
// sample is while its tiles are made. bf16 features whose memory has whole packs are read once,
// without a pass for the means: covariance_tiles.cuh.
//
// Other bf16 features are centred in float32 and rounded to bf16 again, which is as good as the
// result; those of float16 to TF32, which has as many bits and the range that centring may need.
// The gradient of either is made of float32 in three terms.
#include "covariance_tiles.cuh"
#include "symmetric_launch.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

template <typename T>
inline constexpr int kForward = kTf32x3;
template <>
inline constexpr int kForward<double> = kDouble;
template <>
inline constexpr int kForward<__nv_bfloat16> = kBfloat16;
template <>
inline constexpr int kForward<__half> = kTf32;

template <typename T>
inline constexpr int kBackward = sizeof(T) == 8 ? kDouble : kTf32x3;

template <typename T>
struct Memory {
  CentredFeatures<T> features;
  double* factors;
  Matrix<Accumulator<T>> matrix;

  Memory(const CovarianceShape& shape, const void* x, DeviceArena& arena, bool backward)
      : features(shape, x, arena), factors(arena.take<double>(2 * shape.batch)) {
    const int64_t size = panel_size<Accumulator<T>>(shape.channels);
    matrix = {arena.take<Accumulator<T>>(backward ? shape.batch * size : 0), size};
  }
};

// In one reading of x.
Status forward_in_tiles(const CovarianceShape& shape, bool turned, const Memory<__nv_bfloat16>& m,
                        void* covariance, void* trace, Launcher& launch) {
  CovarianceArguments p = {};
  p.x = m.features.x;
  p.batch = shape.batch;
  p.channels = shape.channels;
  p.positions = shape.positions;
  p.stride_b = shape.stride_b;
  p.stride_d = shape.stride_d;
  p.stride_n = shape.stride_n;
  p.means = m.features.mean;
  p.squares = m.features.squares;
  p.covariance = static_cast<__nv_bfloat16*>(covariance);
  p.packs = p.channels % kCovariancePack == 0 && aligned(covariance);
  const int64_t across = round_up_quotient(p.channels, kCovarianceTile);
  launch.cluster(turned ? covariance_tiles<true> : covariance_tiles<false>,
                 p.batch * TriangleTile::count(across), 1, sizeof(CovarianceMemory),
                 kCovarianceThreads, p);
  launch(finish_covariances, p.batch, kMatrixThreads, p, static_cast<float*>(trace));
  return launch.status();
}

template <typename T>
Status forward(const CovarianceShape& shape, const void* x, void* covariance, void* trace,
               void* workspace, void* stream) {
  DeviceArena arena(workspace);
  const Memory<T> m(shape, x, arena, /*backward=*/false);
  Launcher launch(stream);
  if constexpr (kForward<T> == kBfloat16) {
    const CovarianceLayout layout(shape, x);
    if (layout.fits) {
      return forward_in_tiles(shape, layout.turned, m, covariance, trace, launch);
    }
  }
  auto* traces = static_cast<Accumulator<T>*>(trace);
  m.features.find_means(launch, traces);
  const Factors factors = factors_of(launch, shape.batch, traces, FactorOf::one,
                                     1.0 / double(shape.positions), 0, m.factors);
  launch_gram<kForward<T>, false, T>(launch, shape.batch, shape.channels, m.features.view(false),
                                     {}, factors, {static_cast<T*>(covariance), false}, {});
  return launch.status();
}

template <typename T>
Status backward(const CovarianceShape& shape, const void* grad, const void* x, const void* trace,
                void* grad_x, void* workspace, void* stream) {
  DeviceArena arena(workspace);
  const Memory<T> m(shape, x, arena, /*backward=*/true);
  Launcher launch(stream);
  m.features.find_means(launch, nullptr);
  const Factors factors = factors_of(launch, shape.batch, static_cast<const Accumulator<T>*>(trace),
                                     FactorOf::one, 2.0 / double(shape.positions), 0, m.factors);
  launch_symmetrise<sizeof(T) == 8, T>(launch, shape.batch, shape.channels, grad, false, factors,
                                       m.matrix);
  launch_multiply<kBackward<T>, kNarrow>(launch, shape.batch, shape.channels, read_only(m.matrix),
                                         m.features.view(false), 0, grad_x, shape.stride_b,
                                         shape.stride_d, shape.stride_n);
  return launch.status();
}

}  // namespace

int64_t covariance_pool_workspace_cuda(const CovarianceShape& shape, bool backward) {
  int64_t size = 0;
  for_element(shape.dtype, [&](auto element) {
    DeviceArena arena(nullptr);
    Memory<decltype(element)>(shape, nullptr, arena, backward);
    size = arena.used();
    return Status::ok;
  });
  return size;
}

Status covariance_pool_forward_cuda(const CovarianceShape& shape, const void* x, void* covariance,
                                    void* trace, void* workspace, void* stream) noexcept {
  if (!shape.valid()) return Status::bad_argument;
  return for_element(shape.dtype, [&](auto element) {
    return forward<decltype(element)>(shape, x, covariance, trace, workspace, stream);
  });
}

Status covariance_pool_backward_cuda(const CovarianceShape& shape, const void* grad, const void* x,
                                     const void* trace, void* grad_x, void* workspace,
                                     void* stream) noexcept {
  if (!shape.valid()) return Status::bad_argument;
  return for_element(shape.dtype, [&](auto element) {
    return backward<decltype(element)>(shape, grad, x, trace, grad_x, workspace, stream);
  });
}

}  // namespace ccdn
