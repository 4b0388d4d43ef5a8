// The covariance or Gram matrix of bfloat16 features as they are, in products of pairs (pair.h).
//
// A panel of pairs is a panel of floats (symmetric.h) with half the rows: a pair has what follows
// one another over what is summed. The mean is subtracted from the matrix, which cancels: samples
// whose mean is far above their deviations are left to the centred features in float. For
// engine_kernels.cpp only.
#pragma once

#include "cpu/engine/packing.h"

namespace ccdn {
namespace CCDN_ISA {

// The sum of the squared means may be this many times the variance. The matrix then has at most
// 1 + kMeanBound times the relative error that features of mean 0 would give it.
// Up to 64 hard features did not show it beside the rounding of the results to bfloat16; after ten
// iterations their errors reached what is allowed between 1024 and 4096.
constexpr double kMeanBound = 16;

// A channel's variance, as a share of its squared mean, below which nothing is left of it: that of
// a constant channel is exactly 0.
constexpr double kSmallestVariance = 0x1p-14;

// Far from numbers that the instruction takes for zero, or whose sum overflows.
constexpr double kSmallest = 0x1p-60, kLargest = 0x1p60;

// Elements `from` to `from + depth` of all columns, in pairs; after an odd number a zero.
struct PairWork {
  const Features<float>* x;
  int64_t columns, from, depth;
  float* out;

  int64_t pairs() const { return (depth + 1) / 2; }
  int64_t stride() const { return padded_depth<float>(pairs()) * kPanel<float>; }
  const BFloat16* at(int64_t row, int64_t column) const {
    return static_cast<const BFloat16*>(x->data) + row * x->row_stride + column;
  }
};

// The panels' columns are contiguous in memory.
CCDN_TARGET void pair_columns(const PairWork& w, int64_t task, int) {
  constexpr int64_t width = kPanel<float>;
  constexpr int lanes = Simd<float>::lanes;
  const int64_t column = task * width, count = w.columns - column;
  float* out = w.out + task * w.stride();
  for (int64_t k = 0; k < w.depth; k += 2, out += width) {
    for (int64_t c = 0; c < width; c += lanes) {
      Words half[2] = {};
      for (int64_t i = 0; i < 2 && k + i < w.depth && c < count; ++i) {
        const BFloat16* in = w.at(w.from + k + i, column + c);
        half[i] = (Words)(count - c < lanes ? load_wide_first<float>(in, count - c)
                                            : load_wide<float>(in));
      }
      store(out + c, (Simd<float>::Vector)(half[0] >> 16 | half[1]));
    }
  }
}

// The panels' columns are rows in memory, where pairs lie as they should.
CCDN_TARGET void pair_rows(const PairWork& w, int64_t task, int) {
  constexpr int64_t width = kPanel<float>;
  constexpr int lanes = Simd<float>::lanes;
  float* out = w.out + task * w.stride();
  const int64_t left = w.columns - task * width, lines = left < width ? left : width;
  float block[width * kPackRows];
  if (lines < width)
    std::memset(block + lines * kPackRows, 0, sizeof(block) / width * (width - lines));
  for (int64_t k = 0; k < w.pairs(); k += kPackRows) {
    const int64_t some = w.pairs() - k < kPackRows ? w.pairs() - k : kPackRows;
    const int64_t elements = w.depth - 2 * k < 2 * some ? w.depth - 2 * k : 2 * some;
    for (int64_t r = 0; r < lines; ++r) {
      block[r * kPackRows + some - 1] = 0;
      std::memcpy(block + r * kPackRows, w.at(task * width + r, w.from + 2 * k),
                  size_t(elements) * sizeof(BFloat16));
    }
    for (int64_t c = 0; c < padded_depth<float>(some); c += lanes) {
      for (int64_t i = 0; i < width; i += lanes) {
        transpose<float>(block + i * kPackRows + c, kPackRows, out + (k + c) * width + i, width);
      }
    }
  }
}

// out += or = scale * product, less mean mean^T; mean may be null.
template <class E>
struct PairGram {
  Product<E> product;
  float scale;
  bool add;
  const float* mean;
  float* out;
};

template <class E>
CCDN_TARGET void pair_gram_block(const PairGram<E>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<float>;
  constexpr int lanes = Simd<float>::lanes;
  const int64_t n = w.product.rows;
  int64_t i, j;
  upper_pair(task, i, j);
  float block[width * width], mean[width] = {};
  block_product(w.product, i, j, i == j, block);
  const int64_t rows = n - i * width < width ? n - i * width : width;
  const int64_t columns = n - j * width < width ? n - j * width : width;
  if (w.mean) std::memcpy(mean, w.mean + j * width, size_t(columns) * sizeof(float));
  const float* before = w.out + j * n * width + i * width * width;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < width; c += lanes) {
      auto value = w.scale * load(block + r * width + c);
      if (w.add) value += load(before + r * width + c);
      if (w.mean) value -= w.mean[i * width + r] * load(mean + c);
      store(block + r * width + c, value);
    }
  }
  if (i == j) mirror_diagonal(block);
  put_symmetric(block, n, i, j, w.out);
}

// Centres a symmetric matrix from both sides, which centres the positions of a Gram matrix.
struct CentreWork {
  int64_t n;
  const float* shift;  // up to whole panels, with zeros: the means of the rows, less half of theirs
  float* out;
};

CCDN_TARGET void centre_panel(const CentreWork& w, int64_t task, int) {
  constexpr int64_t width = kPanel<float>;
  const int64_t left = w.n - task * width;
  float ones[width] = {};
  for (int64_t c = 0; c < width && c < left; ++c) ones[c] = 1;
  float* out = w.out + task * w.n * width;
  for (int64_t r = 0; r < w.n; ++r, out += width) {
    for (int64_t c = 0; c < width; c += Simd<float>::lanes) {
      store(out + c,
            load(out + c) - load(ones + c) * (w.shift[r] + load(w.shift + task * width + c)));
    }
  }
}

// room has room for 3 numbers a column.
CCDN_TARGET void centre_both(Team& team, int64_t n, float* room, float* out) {
  constexpr int64_t width = kPanel<float>;
  const int64_t panels = panels_of(n, width);
  double* sums = reinterpret_cast<double*>(room);
  double all = 0;
  for (int64_t p = 0; p < panels; ++p) {
    sum_packed(out + p * n * width, n, false, sums + p * width);
  }
  for (int64_t i = 0; i < n; ++i) all += sums[i];
  float* shift = room + 2 * panels * width;
  for (int64_t i = 0; i < panels * width; ++i) {
    shift[i] = i < n ? float((sums[i] - all / double(2 * n)) / double(n)) : 0;
  }
  team.each(panels, CentreWork{n, shift, out}, centre_panel);
}

template <class E>
CCDN_TARGET void multiply_pairs(Team& team, const Features<float>& x, bool by_channel, float* room,
                                float* out) {
  const int64_t n = by_channel ? x.channels : x.positions;
  const int64_t length = by_channel ? x.positions : x.channels;
  const int64_t panels = panels_of(n, kPanel<float>);
  const bool contiguous = by_channel != x.channel_rows;
  const int64_t strip = 2 * (contiguous && panels <= 4 ? kPackRows : kStrip);
  for (int64_t from = 0; from < length; from += strip) {
    const int64_t depth = length - from < strip ? length - from : strip;
    const PairWork work{&x, n, from, depth, room};
    team.each(panels, work, contiguous ? pair_columns : pair_rows);
    const Panels<const E> f{reinterpret_cast<const E*>(room), work.stride()};
    const bool last = from + depth == length;
    team.each(panels * (panels + 1) / 2,
              PairGram<E>{{n, n, work.pairs(), 1, {f, {}}, {f, {}}},
                          float(1 / double(x.positions)),
                          from > 0,
                          by_channel && last ? x.mean : nullptr,
                          out},
              pair_gram_block<E>);
  }
}

CCDN_TARGET bool pair_gram(Team& team, const Features<float>& x, bool by_channel, float* room,
                           float* out) {
  if (!x.codec->bfloat16 || x.column_stride != 1 || bf16_pairs() == Pairs::off) return false;
  if (kHasPairInstruction && bf16_pairs() == Pairs::instruction) {
    multiply_pairs<Pair<kHasPairInstruction>>(team, x, by_channel, room, out);
  } else {
    multiply_pairs<Pair<false>>(team, x, by_channel, room, out);
  }
  const int64_t n = by_channel ? x.channels : x.positions;
  double squares = 0;
  for (int64_t d = 0; d < x.channels; ++d) {
    const double square = double(x.mean[d]) * double(x.mean[d]);
    squares += square;
    if (by_channel && double(out[diagonal_index<float>(n, d)]) < kSmallestVariance * square)
      return false;
  }
  if (!by_channel) centre_both(team, n, room, out);
  const double trace = trace_of(out, n);
  return squares <= kMeanBound * trace && trace >= kSmallest && trace <= kLargest;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
