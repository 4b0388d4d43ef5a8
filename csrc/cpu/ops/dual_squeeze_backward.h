// One sample's backward pass.
//
// Everything that the gradient needs is small: vectors of n numbers, made from the saved matrix.
// The features are read to multiply them, in strips, by Q = 2 a (D + D^T) + alpha (D = dL/dM,
// plans.py), dense or as thin factors, plus what has rank one. Writing g for the gradient of
// second, s = sqrt(tr) / D and a = 1 / (N tr),
//
//   channels    f = h_K,  v = 1,       dL/dy = s g,         dX = Q Xc
//   positions   f = q_K,  v = Xc^T 1,  dL/dy = s a Xc^T g,
//               dX = Xc Q + s a g y^T + 1 (q(G) dL/dy)^T
//
// with y = f(A) v; alpha = -(dL/dy)^T r(A) v / (N tr), r = 2 t h' - h or q + 2 t q', is what is
// left of the derivative by the trace. Rows of Xc sum to zero, so dX needs no centring of its own.
#pragma once

#include "cpu/ops/dual_squeeze_gradient.h"
#include "cpu/ops/dual_squeeze_job.h"
#include "cpu/ops/recurrence.h"

namespace ccdn {
namespace CCDN_ISA {

// line (s.line) = the numbers of a sample's channels, and zeros.
template <class T>
CCDN_TARGET void read_channels(const Sizes& s, const Codec<T>& codec, const void* numbers,
                               int64_t sample, double* line) {
  constexpr int64_t kBlock = 128;
  T block[kBlock];
  for (int64_t from = 0; from < s.channels; from += kBlock) {
    const int64_t count = s.channels - from < kBlock ? s.channels - from : kBlock;
    codec.read(codec.at(numbers, sample * s.channels + from), 0, 1, 1, count, {}, block, 0);
    for (int64_t i = 0; i < count; ++i) line[from + i] = double(block[i]);
  }
  for (int64_t i = s.channels; i < s.line; ++i) line[i] = 0;
}

// The matrix of (small, small) rows, in panels.
template <class T>
CCDN_TARGET void matrix_from_rows(const Sizes& s, const Codec<T>& codec, const void* rows,
                                  T* matrix) {
  for (int64_t j = 0; j < s.small; j += s.panel) {
    const int64_t count = s.small - j < s.panel ? s.small - j : s.panel;
    T* panel = matrix + j * s.small;
    if (count < s.panel) {
      for (int64_t e = 0; e < s.small * s.panel; ++e) panel[e] = 0;
    }
    codec.read(codec.at(rows, j), s.small, 1, s.small, count, {}, panel, s.panel);
  }
}

template <class T>
CCDN_TARGET Status backward(const DualSqueezeJob& job, int64_t sample, char* memory, int threads,
                            const Codec<T>& codec) {
  const DualSqueezeShape& shape = *job.shape;
  const Sizes s(shape, kPanel<T>);
  const Saved saved{shape.dtype != Dtype::f64};
  const Codec<T>& saves = saved.codec<T>();
  Arena arena(memory);
  const BackwardMemory<T> m(arena, s, shape.saves_gram);
  const Workers<T> workers(memory + arena.used(), s);
  Team team(threads);
  const T* mean = static_cast<const T*>(job.mean) + sample * s.channels;
  const auto x = features_of<T>(shape, codec, job.x, sample, mean, m.rest);
  read_channels(s, codec, job.grad_first, sample, m.bias);
  read_channels(s, codec, job.grad_second, sample, m.gradient);
  for (int64_t d = 0; d < s.channels; ++d) m.bias[d] /= double(s.positions);
  GradientWork<T> gradient{&s, x, &m, workers, nullptr, m.gradient, m.bias, 0};
  gradient.out = codec.at(job.grad_x, sample * shape.stride_b);

  const double trace = saved.get(job.trace, sample);
  if (trace == 0) {
    fill_features(team, x, m.bias, gradient.out);
    return team.status();
  }

  // What the rounded mean leaves in every channel.
  for (int64_t d = 0; d < round_up(s.channels, s.panel); ++d) m.rest[d] = 0;
  if (s.by_channels) {
    feature_sums(team, SumsWork<T, 1>{&x, true, s.channel_rows, {nullptr}, {m.t}});
    for (int64_t d = 0; d < s.channels; ++d) m.rest[d] = T(m.t[d] / double(s.positions));
  }
  if (shape.saves_gram) {
    matrix_from_rows(s, saves, saves.at(job.gram, sample * s.small * s.small), m.matrix);
  } else {
    gram_panels(team, x, s.by_channels, m.room, m.matrix);
  }

  // The start vectors: t_0 = v and s_0 = dL/dy.
  const double scale = std::sqrt(trace) / double(s.channels);  // s
  const double a = 1 / (double(s.positions) * trace);
  const double outer = scale * a;
  if (s.by_channels) {
    for (int64_t i = 0; i < s.padded; ++i) {
      m.t[i] = i < s.small;
      m.s[i] = i < s.small ? scale * m.gradient[i] : 0;
    }
  } else {
    for (int64_t i = 0; i < s.padded; ++i) m.t[i] = m.s[i] = 0;
    feature_sums(team, SumsWork<T, 2>{&x, true, s.small_rows, {nullptr, m.gradient}, {m.t, m.s}});
    remove_mean(m.t, s.small);
    remove_mean(m.s, s.small);
    for (int64_t i = 0; i < s.small; ++i) m.s[i] *= outer;
  }
  double* vectors[2] = {m.t, m.s};
  T* single[2] = {m.single, m.single + s.padded};
  chebyshev_vectors<T, 2>(s, m.matrix, trace, first_single_term(shape), vectors, single);

  // From t: y, the radial part, and half of the factors; from s: q(A) s_0, and the other half.
  const double* table = shape.coefficients;
  combine(s, table, 2, m.t, m.from_t);
  combine(s, table + (2 + s.rank) * s.terms, s.rank, m.t, m.from_t + 2 * s.padded);
  combine(s, table, 1, m.s, m.from_s);
  combine(s, table + 2 * s.terms, s.rank, m.s, m.from_s + s.padded);
  const double alpha = -a * dot(m.s, m.from_t + s.padded, s.small);
  if (!s.by_channels) {
    for (int64_t r = 0; r < 2 + s.rank; ++r) remove_mean(m.from_t + r * s.padded, s.small);
    for (int64_t r = 0; r < 1 + s.rank; ++r) remove_mean(m.from_s + r * s.padded, s.small);
    for (int64_t d = 0; d < s.channels; ++d) m.gradient[d] *= outer;
  }
  gradient_factors(s, m, a, alpha, trace);
  gradient.alpha = s.dense ? T(0) : T(alpha);
  if (s.small_rows) {
    constexpr int64_t kColumns = kPanel<T> * kStripPanels;
    team.each((s.length + kColumns - 1) / kColumns, gradient, gradient_small_rows<T>);
  } else {
    team.each((s.length + kTileRows - 1) / kTileRows, gradient, gradient_small_columns<T>);
  }
  return team.status();
}

}  // namespace CCDN_ISA
}  // namespace ccdn
