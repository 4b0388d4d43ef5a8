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
//   forward    n D N / 2    gram                    e D N  x from device memory, once; the other
//              n^2 (m + 1)  recurrence, float64     passes (means, gram) from L2 when x fits there
//                                                   4 n^2 m  the matrix, from L2, once a term
//   backward   2 n^2 m      two recurrences         2 e D N  x read, gradient written; as above
//              2 r n m      their combination       4 n^2 m  the matrix, once a term for both
//              dense form, n <= 2 pairs:  pairs n^2 + n D N
//              low-rank form:  2 pairs D N          the (free, pairs) factor, from L2
// clang-format on
//   r = rank of the gradient's thin factors (8 for K = 5, float32), pairs = 2 r, on the channels
//   side 2 more
//
// The thin factors (ccdn_ops/plans.py) make 18 pairs of the 58 that the adjoint recurrence would
// give, which is the expansion's arithmetic; and because both recurrences start from vectors that
// are known, one pass over the matrix serves both, where an adjoint one needs the other's end.
//
// (8, 256, 32 x 32) float32, K = 5: 8 MB of features are 2 us of an H200's memory, 0.3 G
// multiply-adds of the gram matrix in three terms of TF32 are spread over 240 blocks, and of the 30
// products with a matrix of 256 KB each takes about 0.45 us (a prediction) where a cluster holds
// the matrix (cluster_recurrence.cuh), and about 8 where one block reads it from L2
// (recurrence.cuh). The products with the features, forward and backward, are those of tensor cores
// (product.cuh): of a tile that fused multiply-adds made, three quarters were padding of the pairs.
//
// Deterministic: no atomics, every sum in an order that depends on the shape alone. The vectors of
// the recurrence, all sums over lines and the scalars are float64, the matrix and the products with
// it are in the accumulation type.
#include <cmath>

#include "../common/dual_squeeze.h"
#include "cluster_launch.cuh"
#include "cluster_recurrence.cuh"
#include "dual_squeeze_gradient.cuh"
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

// Numbers of the gradient's table from `first` on, as many as travel with a launch.
Coefficients gradient_numbers(const DualSqueezeShape& shape, int64_t first) {
  const GradientTable table = {shape.terms, shape.rank};
  const double* left = shape.coefficients + 2 * int64_t(shape.terms);
  const double* right = left + int64_t(shape.rank) * shape.terms;
  Coefficients result = {};
  for (int64_t k = first; k < table.size() && k - first < kMaxTerms; ++k) {
    double number;
    if (k < table.right(0)) {
      number = shape.coefficients[k];
    } else if (k < table.factors()) {
      number = right[k - table.right(0)];
    } else {  // what a row L is of its row R, where that is largest
      const int64_t row = (k - table.factors()) * shape.terms;
      int64_t most = row;
      for (int64_t j = row; j < row + shape.terms; ++j) {
        if (std::fabs(right[j]) > std::fabs(right[most])) most = j;
      }
      number = left[most] / right[most];
    }
    result.c[result.terms++] = number;
  }
  return result;
}

template <typename Pointer = double>
Pointer* at(void* workspace, int64_t offset) {
  return reinterpret_cast<Pointer*>(static_cast<char*>(workspace) + offset);
}

// What both directions begin with: the features as their kernels see them, the means (or what the
// stored ones round off), the matrix and, on the positions side, the vector Xc^T 1.
template <typename T>
struct Pass {
  using Acc = Accumulator<T>;
  const DualSqueezeShape& shape;
  DualSqueezeExtents e;
  DualSqueezeWorkspace w;
  void* workspace;
  Launcher launch;
  Features<T> features = {};
  MeanArguments<T> means = {};
  double *vectors, *start, *result_gradient;

  Pass(const DualSqueezeShape& shape, bool backward, const void* x, const void* mean,
       void* workspace, void* stream)
      : shape(shape),
        e(shape),
        w(DualSqueezeWorkspace::plan(shape, backward)),
        workspace(workspace),
        launch(stream, overlaps(channel_means<T>)),
        vectors(at(workspace, w.vectors)),
        start(e.channel_is_side ? nullptr : at(workspace, w.start)),
        result_gradient(start && backward ? at(workspace, w.result_gradient) : nullptr) {
    features.data = means.x = static_cast<const T*>(x);
    means.mean = static_cast<Acc*>(const_cast<void*>(mean));
    means.mean_rest = at<Acc>(workspace, w.mean_rest);
    means.batch = e.batch;
    means.channels = features.channels = e.channels;
    means.positions = e.positions;
    means.stride_b = features.batch_stride = shape.stride_b;
    means.stride_d = shape.stride_d;
    means.stride_n = shape.stride_n;
    features.mean = means.mean;
    features.mean_rest = means.mean_rest;
    features.free = e.free;
    features.side = e.side;
    features.free_stride = e.channel_is_side ? shape.stride_n : shape.stride_d;
    features.side_stride = e.channel_is_side ? shape.stride_d : shape.stride_n;
    features.channel_is_side = e.channel_is_side;
  }

  // After the rest of `means` has been filled in. On the positions side Xc^T 1 and, backward, Xc^T
  // grad_second. The matrix is computed where it is not `saved`, in as many parts as its plan says.
  MatrixParts<Acc> begin(const Acc* saved, Acc* computed) {
    launch(channel_means<T>, line_pieces(e.batch, e.channels, shape.stride_n <= shape.stride_d),
           kLineThreads, means);
    if (start) {
      launch(weighted_sums<T>, line_pieces(e.batch, e.side, !features.side_is_inner()),
             kLineThreads, features, e.batch, start, means.upstream, result_gradient);
    }
    if (saved) return {saved, 1, 0, nullptr};
    const bool whole = e.parts.count == 1;
    Acc* out = whole ? computed : at<Acc>(workspace, w.gram_parts);
    const GramMatrixArguments<T> gram{features, e.batch, e.positions, e.parts, out};
    launch(gram_matrix<T>, e.batch * TriangleTile::count(tiles(e.side)) * e.parts.count,
           kProductThreads<kGramProduct<T>>, gram);
    return {out, e.parts.count, e.batch * e.side * e.side, computed};
  }

  // The recurrence: in clusters, where that is possible, with the sum of the parts on the way.
  template <int kVectors, typename Arguments, typename KernelOf, typename Plain>
  void recur(Arguments& arguments, const Coefficients& coefficients, KernelOf kernel_of,
             Plain plain) {
    bool launched = false;
    with_cluster_form<Acc>(e.side, shape.terms, [&](auto form) {
      using Form = decltype(form);
      const auto kernel = kernel_of(form);
      constexpr size_t bytes = sizeof(ClusterMemory<Form, kVectors>);
      const auto address = reinterpret_cast<const void*>(kernel);
      if (Form::kBlocks > 1 && !launches_clusters(address, Form::kBlocks, Form::kThreads, bytes)) {
        return;
      }
      launched = true;
      launch.cluster(kernel, e.batch, Form::kBlocks, bytes, Form::kThreads, arguments,
                     coefficients);
    });
    if (launched) return;
    MatrixParts<Acc>& matrix = arguments.matrix;
    if (matrix.count > 1) {
      launch(add_gram_parts<Acc>, round_up_quotient(matrix.stride, kLineThreads), kLineThreads,
             matrix.stride, matrix.count, matrix.first, matrix.sum);
      matrix = {matrix.sum, 1, 0, nullptr};
    }
    launch(plain, e.batch, kRecurrenceThreads, arguments, coefficients);
  }
};

template <typename T>
Status forward(const DualSqueezeShape& shape, const void* x, void* first, void* second, void* mean,
               void* trace, void* gram, void* workspace, void* stream) {
  using Acc = Accumulator<T>;
  Pass<T> pass(shape, /*backward=*/false, x, mean, workspace, stream);
  const DualSqueezeExtents& e = pass.e;
  pass.means.first = {first, shape.wide_squeezes};
  pass.means.squares = at(workspace, pass.w.squares);
  Acc* matrix = shape.saves_gram ? static_cast<Acc*>(gram) : at<Acc>(workspace, pass.w.gram);

  SqueezeArguments<Acc> squeeze = {};
  squeeze.matrix = pass.begin(nullptr, matrix);
  squeeze.batch = e.batch;
  squeeze.channels = e.channels;
  squeeze.positions = e.positions;
  squeeze.n = e.side;
  squeeze.mean = pass.means.mean;
  squeeze.squares = pass.means.squares;
  squeeze.start = pass.start;
  squeeze.vectors = pass.vectors;
  squeeze.trace = static_cast<Acc*>(trace);
  squeeze.second = {e.channel_is_side ? second : nullptr,
                    shape.wide_squeezes ? Dtype::f32 : shape.dtype};
  pass.template recur<1>(
      squeeze, by_value(shape), [](auto form) { return cluster_squeeze<Acc, decltype(form)>; },
      chebyshev_squeeze<Acc>);
  if (!e.channel_is_side) {
    pass.launch(squeeze_positions<T>,
                line_pieces(e.batch, e.channels, pass.features.side_is_inner()), kLineThreads,
                pass.features, e.batch, static_cast<const Acc*>(trace), pass.vectors,
                Squeezes<T>{second, shape.wide_squeezes});
  }
  return pass.launch.status();
}

template <typename T>
Status backward(const DualSqueezeShape& shape, const void* grad_first, const void* grad_second,
                const void* x, const void* mean, const void* trace, const void* gram, void* grad_x,
                void* workspace, void* stream) {
  using Acc = Accumulator<T>;
  Pass<T> pass(shape, /*backward=*/true, x, mean, workspace, stream);
  const DualSqueezeExtents& e = pass.e;
  const DualSqueezeWorkspace& w = pass.w;
  pass.means.grad_second = {const_cast<void*>(grad_second), shape.wide_squeezes};
  pass.means.upstream = at(workspace, w.upstream);
  const Acc* saved = shape.saves_gram ? static_cast<const Acc*>(gram) : nullptr;

  AdjointArguments<Acc> adjoint = {};
  adjoint.matrix = pass.begin(saved, at<Acc>(workspace, w.gram));
  adjoint.result_gradient = pass.result_gradient;
  adjoint.batch = e.batch;
  adjoint.channels = e.channels;
  adjoint.positions = e.positions;
  adjoint.rows = e.rows;
  adjoint.trace = static_cast<const Acc*>(trace);
  adjoint.upstream = pass.means.upstream;
  adjoint.start = pass.start;
  adjoint.vectors = pass.vectors;
  adjoint.pair_rows = {e.dense ? nullptr : at<Acc>(workspace, w.pair_rows), e.dense ? 0 : e.pairs};
  adjoint.trace_gradient = at(workspace, w.trace_gradient);
  const GradientTable table = {shape.terms, shape.rank};
  if (!table.travels()) {
    double* stored = at(workspace, w.table);
    for (int64_t k = 0; k < table.size(); k += kMaxTerms) {
      pass.launch(store_numbers, 1, kRecurrenceThreads, gradient_numbers(shape, k), stored + k);
    }
    adjoint.table = stored;
  }
  pass.template recur<2>(
      adjoint, gradient_numbers(shape, 0),
      [](auto form) { return cluster_gradient<Acc, decltype(form)>; }, chebyshev_gradient<Acc>);

  Acc* factor = at<Acc>(workspace, w.factor);
  ExpandArguments<T> expand = {};
  expand.features = pass.features;
  expand.batch = e.batch;
  expand.rows = e.rows;
  expand.vectors = pass.vectors;
  expand.pair_rows = adjoint.pair_rows;
  expand.factor = factor;
  expand.scale = GradientScale<Acc>{adjoint.trace, adjoint.trace_gradient, e.positions};
  expand.grad_first = {const_cast<void*>(grad_first), shape.wide_squeezes};
  expand.accumulate = shape.accumulates;
  expand.upstream = pass.means.upstream;
  expand.grad_x = static_cast<T*>(grad_x);
  constexpr int threads = kProductThreads<kGramProduct<T>>;
  const int64_t gradient_tiles = e.batch * tiles(e.free) * tiles(e.side);
  if (e.dense) {
    pass.launch(pair_matrix<Acc>, e.batch * tiles(e.side) * tiles(e.side), kTileThreads, e.batch,
                e.rows, e.pairs, expand.vectors, expand.scale, factor);
    pass.launch(expand_dense<T>, gradient_tiles, threads, expand);
  } else {
    pass.launch(pair_projection<T>, e.batch * tiles(e.free) * tiles(e.pairs), threads,
                pass.features, e.batch, expand.pair_rows, expand.scale, factor);
    pass.launch(expand_low_rank<T>, gradient_tiles, threads, expand);
  }
  return pass.launch.status();
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
  if (!valid(shape) || shape.rank < 1) return Status::bad_argument;
  if (shape.batch == 0) return Status::ok;
  return for_element(shape.dtype, [&](auto element) {
    return backward<decltype(element)>(shape, grad_first, grad_second, x, mean, trace, gram, grad_x,
                                       workspace, stream);
  });
}

}  // namespace ccdn
