// One sample's forward pass.
#pragma once

#include <cmath>

#include "cpu/gram.h"

namespace ccdn {
namespace CCDN_ISA {

// S holds the features, T computes, and Saved is what the backward pass will read.
template <class S, class T, class Saved = T>
CCDN_TARGET Status forward(const Job& job, int64_t sample, char* memory, int threads) {
  const DualSqueezeShape& shape = *job.shape;
  const Sizes s(shape, sizeof(T));
  Carver carver(memory);
  const ForwardMemory<T> m(carver, s);
  const Workers<T> workers(memory + carver.used(), s);
  const Features<S, T> x = features_of<S, T>(shape, s, job.x, sample, m.mean, m.rest);

  // The mean, in double; where that is no wider than the features, what the rounding of a long sum
  // has left of it comes from a second pass. Without it a constant would show a deviation.
  SumsWork<S, T, 1> sums{&x, false, s.channel_rows, {nullptr}, {m.sums}, workers};
  Status status = spread(sums, threads, sums_phase<S, T, 1>);
  if (status != Status::ok) return status;
  for (int64_t d = 0; d < s.channels; ++d) {
    const double exact = m.sums[d] / double(s.positions);
    m.mean[d] = T(exact);
    m.rest[d] = T(exact - double(m.mean[d]));
  }
  if constexpr (sizeof(T) == sizeof(double)) {
    sums.centre = true;
    status = spread(sums, threads, sums_phase<S, T, 1>);
    if (status != Status::ok) return status;
    for (int64_t d = 0; d < s.channels; ++d) {
      const double before = m.mean[d], missing = m.sums[d] / double(s.positions);
      m.mean[d] = before + missing;
      m.rest[d] = (before - m.mean[d]) + missing;
    }
  }
  Saved* mean = static_cast<Saved*>(job.mean) + sample * s.channels;
  S* first = static_cast<S*>(job.first) + sample * s.channels;
  double mean_squares = 0;
  for (int64_t d = 0; d < s.channels; ++d) {
    mean[d] = Saved(m.mean[d]);
    narrow(mean[d], first[d]);
    mean_squares += double(mean[d]) * double(mean[d]);
  }

  // S, its trace, and whether there is any variance but rounding.
  for (int64_t i = 0; i < s.chunk; ++i) m.ones[i] = 1;
  GramWork<S, T> gram{&s,     x,       m.panels, m.matrix, s.by_channels ? nullptr : m.start,
                      m.ones, workers, 0,        0,        1.0 / double(s.positions)};
  status = gram_matrix(gram, threads);
  if (status != Status::ok) return status;
  if (shape.saves_gram) {
    matrix_to_rows(s, m.matrix, static_cast<Saved*>(job.gram) + sample * s.small * s.small);
  }
  double trace = 0;
  for (int64_t i = 0; i < s.small; ++i) {
    const int64_t j = i / s.panel;
    trace += double(m.matrix[(j * s.padded + i) * s.panel + i % s.panel]);
  }
  const double rounding = 16 * (sizeof(Saved) == 4 ? 0x1p-23 : 0x1p-52);
  const bool constant =
      std::isfinite(trace) && trace <= rounding * rounding * (trace + mean_squares);
  static_cast<Saved*>(job.trace)[sample] = constant ? Saved(0) : Saved(trace);
  S* second = static_cast<S*>(job.second) + sample * s.channels;
  if (constant) {
    for (int64_t d = 0; d < s.channels; ++d) narrow(Saved(0), second[d]);
    return Status::ok;
  }
  trace = double(Saved(trace));  // what the backward pass will see

  // sum = h_K(A) 1, h_K(t) = t q_K(t), or q_K(G) Xc^T 1.
  if (s.by_channels) {
    for (int64_t i = 0; i < s.padded; ++i) m.start[i] = i < s.small;
  }
  const double* c = shape.coefficients;
  for (int64_t i = 0; i < s.padded; ++i) m.sum[i] = c[0] * m.start[i];
  const double *current = m.start, *previous = m.start;
  double* free[3] = {m.previous, m.current, m.next};
  const int64_t first_single = first_single_term(shape);
  const double unit = single_unit(m.start, s.padded, trace);
  for (int64_t j = 1; j < s.terms; ++j) {
    double* next = free[j % 3];
    chebyshev_step<T, 1>(s, m.matrix, (j > 1 ? 4 : 2) / trace, j > 1 ? 2 : 1, &current,
                         j > 1 ? &previous : nullptr, &next, &unit,
                         j >= first_single ? &m.single : nullptr);
    for (int64_t i = 0; i < s.padded; ++i) m.sum[i] += c[j] * next[i];
    previous = current;
    current = next;
  }

  // kappa = sqrt(tr) / D times the sum, or times Xc sum / (N tr).
  double factor = std::sqrt(trace) / double(s.channels);
  double* kappa = m.sum;
  if (!s.by_channels) {
    factor /= trace * double(s.positions);
    for (int64_t i = s.padded; i < s.line; ++i) m.line[i] = 0;
    kappa = m.line;
    SumsWork<S, T, 1> squeeze{&x, true, !s.small_rows, {m.sum}, {kappa}, workers};
    status = spread(squeeze, threads, sums_phase<S, T, 1>);
    if (status != Status::ok) return status;
  }
  for (int64_t d = 0; d < s.channels; ++d) narrow(Saved(factor * kappa[d]), second[d]);
  return Status::ok;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
