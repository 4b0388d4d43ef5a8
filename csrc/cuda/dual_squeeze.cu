// dual_squeeze on CUDA: both squeezes of a feature map, and their gradient.
//
//   first = mean over the positions,   second = sqrt(tr S) / D * A q_K(A) 1,   A = S / tr S,
//
// with S = Xc Xc^T / N the covariance and q_K the polynomial of K Newton-Schulz steps, written in
// `terms` = m Chebyshev polynomials (29 for K = 5 in float32). Instead of the K matrix iterations
// the polynomial is applied to one vector, on the side (channels or positions) of n entries whose
// Gram matrix C the plan has chosen:
//
//   channels    C = Xc Xc^T / N, n = D:   second = sqrt(tr) / D * (C / tr) q(C / tr) 1
//   positions   C = Xc^T Xc / N, n = N:   second = sqrt(tr) / D * Xc q(C / tr) (Xc^T 1) / (N tr)
//
// On a napkin, for each sample, with e bytes an element and 4-byte accumulation:
//
// clang-format off
//              operations (multiply-adds)           bytes
//   forward    n D N / 2    gram                    e D N    x from device memory, once; the other
//              n^2 (m + 1)  recurrence, float64     passes (means, gram) from L2 when x fits there
//                                                   4 n^2 m  the matrix, from L2, once a term
//   backward   2 n^2 (m + 1)  recurrence            2 e D N  x read, gradient written; as above
//              dense form, n <= 2 pairs:  pairs n^2 + n D N
//              low-rank form:  2 pairs D N          the (free, pairs) factor, from L2
// clang-format on
//   pairs = 2 (m - 1), on the channels side 2 more
//
// (8, 256, 32 x 32) float32, K = 5: 8 MB of features are 2 us of an H200's memory, 0.3 G
// multiply-adds of the gram matrix 10 us, and 30 products with a matrix of 256 KB at one block a
// sample about 60 us: the recurrence is what to make faster, by keeping its matrix in shared memory
// and by more than one block a sample.
//
// Deterministic: no atomics, every sum in an order that depends on the shape alone. The vectors of
// the recurrence, all sums over lines and the scalars are float64, the matrix and the products with
// it are in the accumulation type.
#include "../common/dual_squeeze.h"
#include "dual_squeeze_kernels.cuh"
#include "dual_squeeze_workspace.h"
#include "launch.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

bool valid(const DualSqueezeShape& shape) {
  return shape.batch >= 0 && shape.channels >= 1 && shape.positions >= 1 && shape.terms >= 1 &&
         shape.terms <= kMaxTerms && shape.coefficients != nullptr &&
         (shape.side == Side::channels || shape.side == Side::positions);
}

Coefficients by_value(const DualSqueezeShape& shape) {
  Coefficients result = {};
  result.terms = shape.terms;
  for (int j = 0; j < shape.terms; ++j) result.c[j] = shape.coefficients[j];
  return result;
}

template <typename Pointer = double>
Pointer* at(void* workspace, int64_t offset) {
  return reinterpret_cast<Pointer*>(static_cast<char*>(workspace) + offset);
}

template <typename T>
Features<T> features_of(const DualSqueezeShape& shape, const DualSqueezeExtents& e, const void* x,
                        const void* mean, const Accumulator<T>* mean_rest) {
  Features<T> result = {};
  result.data = static_cast<const T*>(x);
  result.mean = static_cast<const Accumulator<T>*>(mean);
  result.mean_rest = mean_rest;
  result.free = e.free;
  result.side = e.side;
  result.batch_stride = shape.stride_b;
  result.free_stride = e.channel_is_side ? shape.stride_n : shape.stride_d;
  result.side_stride = e.channel_is_side ? shape.stride_d : shape.stride_n;
  result.channels = e.channels;
  result.channel_is_side = e.channel_is_side;
  return result;
}

template <typename T>
MeanArguments<T> mean_arguments(const DualSqueezeShape& shape, const void* x, void* mean,
                                Accumulator<T>* mean_rest) {
  MeanArguments<T> result = {};
  result.x = static_cast<const T*>(x);
  result.batch = shape.batch;
  result.channels = shape.channels;
  result.positions = shape.positions;
  result.stride_b = shape.stride_b;
  result.stride_d = shape.stride_d;
  result.stride_n = shape.stride_n;
  result.mean = static_cast<Accumulator<T>*>(mean);
  result.mean_rest = mean_rest;
  return result;
}

// Blocks for pieces of a few lines each, of which `lines` make a sample.
int64_t line_pieces(int64_t batch, int64_t lines, bool line_is_contiguous) {
  const int64_t count = lines_of_block(line_is_contiguous);
  return batch * ((lines + count - 1) / count);
}

template <typename T>
Status forward(const DualSqueezeShape& shape, const void* x, void* first, void* second, void* mean,
               void* trace, void* gram, void* workspace, void* stream) {
  using Acc = Accumulator<T>;
  const DualSqueezeExtents e(shape);
  const auto w = DualSqueezeWorkspace::plan(shape, /*backward=*/false);
  Acc* mean_rest = at<Acc>(workspace, w.mean_rest);
  Acc* matrix = shape.saves_gram ? static_cast<Acc*>(gram) : at<Acc>(workspace, w.gram);
  double* vectors = at(workspace, w.vectors);
  double* start = e.channel_is_side ? nullptr : at(workspace, w.start);
  Launcher launch(stream);

  MeanArguments<T> means = mean_arguments<T>(shape, x, mean, mean_rest);
  means.first = {first, shape.wide_squeezes};
  means.squares = at(workspace, w.squares);
  launch(channel_means<T>, line_pieces(e.batch, e.channels, shape.stride_n <= shape.stride_d),
         kLineThreads, means);

  const Features<T> features = features_of<T>(shape, e, x, mean, mean_rest);
  const bool side_is_inner = features.side_stride <= features.free_stride;
  launch(gram_matrix<T>, e.batch * tiles(e.side) * tiles(e.side), kTileThreads, features, e.batch,
         e.positions, matrix);
  if (start) {
    launch(weighted_sums<T>, line_pieces(e.batch, e.side, !side_is_inner), kLineThreads, features,
           e.batch, static_cast<const double*>(nullptr), start);
  }

  SqueezeArguments<T> squeeze = {};
  squeeze.batch = e.batch;
  squeeze.channels = e.channels;
  squeeze.positions = e.positions;
  squeeze.n = e.side;
  squeeze.matrix = matrix;
  squeeze.mean = static_cast<const Acc*>(mean);
  squeeze.squares = means.squares;
  squeeze.start = start;
  squeeze.vectors = vectors;
  squeeze.trace = static_cast<Acc*>(trace);
  squeeze.second = {e.channel_is_side ? second : nullptr, shape.wide_squeezes};
  launch(chebyshev_squeeze<T>, e.batch, kRecurrenceThreads, squeeze, by_value(shape));
  if (!e.channel_is_side) {
    launch(squeeze_positions<T>, line_pieces(e.batch, e.channels, side_is_inner), kLineThreads,
           features, e.batch, static_cast<const Acc*>(trace), vectors,
           Squeezes<T>{second, shape.wide_squeezes});
  }
  return launch.status();
}

template <typename T>
Status backward(const DualSqueezeShape& shape, const void* grad_first, const void* grad_second,
                const void* x, const void* mean, const void* trace, const void* gram, void* grad_x,
                void* workspace, void* stream) {
  using Acc = Accumulator<T>;
  const DualSqueezeExtents e(shape);
  const auto w = DualSqueezeWorkspace::plan(shape, /*backward=*/true);
  Acc* mean_rest = at<Acc>(workspace, w.mean_rest);
  double* upstream = at(workspace, w.upstream);
  double* vectors = at(workspace, w.vectors);
  double* start = e.channel_is_side ? nullptr : at(workspace, w.start);
  double* result_gradient = e.channel_is_side ? nullptr : at(workspace, w.result_gradient);
  Acc* factor = at<Acc>(workspace, w.factor);
  Launcher launch(stream);

  MeanArguments<T> means = mean_arguments<T>(shape, x, const_cast<void*>(mean), mean_rest);
  means.grad_second = {const_cast<void*>(grad_second), shape.wide_squeezes};
  means.upstream = upstream;
  launch(channel_means<T>, line_pieces(e.batch, e.channels, shape.stride_n <= shape.stride_d),
         kLineThreads, means);

  const Features<T> features = features_of<T>(shape, e, x, mean, mean_rest);
  const bool side_is_inner = features.side_stride <= features.free_stride;
  const Acc* matrix = static_cast<const Acc*>(gram);
  if (!shape.saves_gram) {
    Acc* own = at<Acc>(workspace, w.gram);
    launch(gram_matrix<T>, e.batch * tiles(e.side) * tiles(e.side), kTileThreads, features, e.batch,
           e.positions, own);
    matrix = own;
  }
  if (start) {
    const int64_t pieces = line_pieces(e.batch, e.side, !side_is_inner);
    launch(weighted_sums<T>, pieces, kLineThreads, features, e.batch,
           static_cast<const double*>(nullptr), start);
    launch(weighted_sums<T>, pieces, kLineThreads, features, e.batch,
           static_cast<const double*>(upstream), result_gradient);
  }

  AdjointArguments<Acc> adjoint = {};
  adjoint.batch = e.batch;
  adjoint.channels = e.channels;
  adjoint.positions = e.positions;
  adjoint.n = e.side;
  adjoint.matrix = matrix;
  adjoint.trace = static_cast<const Acc*>(trace);
  adjoint.upstream = upstream;
  adjoint.start = start;
  adjoint.result_gradient = result_gradient;
  adjoint.vectors = vectors;
  adjoint.trace_gradient = at(workspace, w.trace_gradient);
  launch(chebyshev_gradient<Acc>, e.batch, kRecurrenceThreads, adjoint, by_value(shape));

  ExpandArguments<T> expand = {};
  expand.features = features;
  expand.batch = e.batch;
  expand.terms = shape.terms;
  expand.pairs = e.pairs;
  expand.vectors = vectors;
  expand.factor = factor;
  expand.scale = GradientScale<Acc>{adjoint.trace, adjoint.trace_gradient, e.positions};
  expand.grad_first = {const_cast<void*>(grad_first), shape.wide_squeezes};
  expand.accumulate = shape.accumulates;
  expand.upstream = upstream;
  expand.grad_x = static_cast<T*>(grad_x);
  const int64_t gradient_tiles = e.batch * tiles(e.free) * tiles(e.side);
  if (e.dense) {
    launch(pair_matrix<Acc>, e.batch * tiles(e.side) * tiles(e.side), kTileThreads, e.batch, e.side,
           shape.terms, e.pairs, static_cast<const double*>(vectors), expand.scale, factor);
    launch(expand_dense<T>, gradient_tiles, kTileThreads, expand);
  } else {
    launch(pair_projection<T>, e.batch * tiles(e.free) * tiles(e.pairs), kTileThreads, features,
           e.batch, shape.terms, e.pairs, static_cast<const double*>(vectors), expand.scale,
           factor);
    launch(expand_low_rank<T>, gradient_tiles, kTileThreads, expand);
  }
  return launch.status();
}

}  // namespace

int64_t dual_squeeze_workspace_cuda(const DualSqueezeShape& shape, bool backward) {
  return DualSqueezeWorkspace::plan(shape, backward).size;
}

Status dual_squeeze_forward_cuda(const DualSqueezeShape& shape, const void* x, void* first,
                                 void* second, void* mean, void* trace, void* gram, void* workspace,
                                 void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  if (shape.batch == 0) return Status::ok;
  return for_element(shape.dtype, [&](auto element) {
    return forward<decltype(element)>(shape, x, first, second, mean, trace, gram, workspace,
                                      stream);
  });
}

Status dual_squeeze_backward_cuda(const DualSqueezeShape& shape, const void* grad_first,
                                  const void* grad_second, const void* x, const void* mean,
                                  const void* trace, const void* gram, void* grad_x,
                                  void* workspace, void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  if (shape.batch == 0) return Status::ok;
  return for_element(shape.dtype, [&](auto element) {
    return backward<decltype(element)>(shape, grad_first, grad_second, x, mean, trace, gram, grad_x,
                                       workspace, stream);
  });
}

}  // namespace ccdn
