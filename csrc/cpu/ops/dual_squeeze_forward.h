// One sample's forward pass.
#pragma once

#include <cmath>

#include "cpu/ops/dual_squeeze_job.h"
#include "cpu/ops/recurrence.h"

namespace ccdn {
namespace CCDN_ISA {

template <class T>
CCDN_TARGET Status forward(const DualSqueezeJob& job, int64_t sample, char* memory, int threads,
                           const Codec<T>& codec) {
  const DualSqueezeShape& shape = *job.shape;
  const Sizes s(shape, kPanel<T>);
  const Saved saved{shape.dtype != Dtype::f64};
  Arena arena(memory);
  const ForwardMemory<T> m(arena, s);
  Team team(threads);
  const auto x = features_of<T>(shape, codec, job.x, sample, m.mean, m.rest);
  const double mean_squares = find_means(team, x, m.mean, m.rest, m.sums);
  const Codec<T>& saves = saved.codec<T>();
  saves.write(m.mean, 0, 1, s.channels, saves.at(job.mean, sample * s.channels), 0, 1);
  codec.write(m.mean, 0, 1, s.channels, codec.at(job.first, sample * s.channels), 0, 1);

  // S, its trace, and whether there is any variance but rounding.
  gram_panels(team, x, s.by_channels, m.room, m.matrix, s.by_channels ? nullptr : m.start);
  if (shape.saves_gram) {
    void* gram = saves.at(job.gram, sample * s.small * s.small);
    write_rows(team, saves, m.matrix, T(1), s.small, Rows::full, gram);
  }
  double trace = trace_of(m.matrix, s.small);
  if (is_constant(saved.floats, trace, mean_squares)) trace = 0;
  trace = saved.put(job.trace, sample, trace);
  void* second = codec.at(job.second, sample * s.channels);
  if (trace == 0) {
    zero(codec, second, s.channels);
    return team.status();
  }

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
    feature_sums(team, SumsWork<T, 1>{&x, true, !s.small_rows, {m.sum}, {kappa}});
  }
  T* result = m.mean;  // no longer needed
  for (int64_t d = 0; d < s.channels; ++d) result[d] = T(factor * kappa[d]);
  codec.write(result, 0, 1, s.channels, second, 0, 1);
  return team.status();
}

}  // namespace CCDN_ISA
}  // namespace ccdn
