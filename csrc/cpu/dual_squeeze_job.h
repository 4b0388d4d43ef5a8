// What dual_squeeze's dispatcher and its kernels (one set for each instruction set) agree on.
//
// Names: the features of a sample are a matrix; `small` is the side of the recurrence (n of its
// lines), `length` the other. In memory the features are `rows` of contiguous `columns`: channels
// by positions, or positions by channels when the channels are contiguous (channels_last).
#pragma once

#include <cstdint>

#include "common/dual_squeeze.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"

namespace ccdn {

constexpr int64_t kPanelBytes = 128;
constexpr int64_t kChunkBytes = 512;  // of a packed panel's depth: it stays in the L1 cache
constexpr int64_t kTile = 8;
constexpr int64_t kStripPanels = 4;  // read and written together: whole pages and cache lines
constexpr int64_t kPackBlock = 128;  // columns transposed together

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

struct Sizes {
  bool channel_rows, small_rows, by_channels;
  int64_t channels, positions, small, length;
  int64_t panel, chunk;  // columns of a panel and depth of a packed chunk, in elements
  int64_t padded;        // small, rounded up to panels
  int64_t line;          // room for length or small numbers, rounded up to panels
  int64_t terms, rank;
  int64_t thin;  // columns of the thin factors
  bool dense;

  Sizes(const DualSqueezeShape& s, int64_t element) {
    channel_rows = s.stride_n == 1 || s.positions == 1 || s.stride_d != 1;
    by_channels = s.side == Side::channels;
    small_rows = by_channels == channel_rows;
    channels = s.channels;
    positions = s.positions;
    small = by_channels ? channels : positions;
    length = by_channels ? positions : channels;
    panel = kPanelBytes / element;
    chunk = kChunkBytes / element;
    padded = round_up(small, panel);
    line = round_up(length > small ? length : small, panel);
    terms = s.terms;
    rank = s.rank;
    thin = 2 * rank;
    dense = s.dense_gradient;
  }
};

// Hands out pieces of a block of memory, each on its own cache lines. From a null base it only
// counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 64);
    return piece;
  }

  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// Scratch of one sample's forward pass.
template <class T>
struct ForwardMemory {
  T *panels, *matrix, *mean, *rest, *single;
  double *sums, *start, *ones, *previous, *current, *next, *sum, *line;

  ForwardMemory(Carver& carver, const Sizes& s) {
    panels = carver.take<T>(s.padded * s.chunk);
    matrix = carver.take<T>(s.padded * s.padded);
    mean = carver.take<T>(round_up(s.channels, s.panel));
    rest = carver.take<T>(round_up(s.channels, s.panel));
    single = carver.take<T>(s.padded);
    sums = carver.take<double>(s.line);
    start = carver.take<double>(s.padded);
    ones = carver.take<double>(s.chunk);
    previous = carver.take<double>(s.padded);
    current = carver.take<double>(s.padded);
    next = carver.take<double>(s.padded);
    sum = carver.take<double>(s.padded);
    line = carver.take<double>(s.line);
  }
};

// Scratch of one sample's backward pass. The vectors of the recurrence are rows of `t` and `s`,
// their combinations rows of `from_t` and `from_s`; left and right are the thin factors, whose last
// rows carry what else has rank one.
template <class T>
struct BackwardMemory {
  T *panels, *matrix, *rest, *single, *left, *right, *left_panel;
  double *t, *s, *from_t, *from_s, *gradient, *bias;

  BackwardMemory(Carver& carver, const Sizes& s, bool saves_gram) {
    panels = carver.take<T>(saves_gram ? 0 : s.padded * s.chunk);
    matrix = carver.take<T>(s.padded * s.padded);
    rest = carver.take<T>(round_up(s.channels, s.panel));
    single = carver.take<T>(2 * s.padded);
    left = carver.take<T>((round_up(s.thin, kTile) + 2) * s.padded);
    right = carver.take<T>((s.thin + 2) * s.padded);
    left_panel = carver.take<T>(s.padded * round_up(s.thin, s.panel));
    t = carver.take<double>(s.terms * s.padded);
    this->s = carver.take<double>(s.terms * s.padded);
    from_t = carver.take<double>((2 + s.rank) * s.padded);
    from_s = carver.take<double>((1 + s.rank) * s.padded);
    gradient = carver.take<double>(s.line);
    bias = carver.take<double>(s.line);
  }
};

// Scratch of one worker: a strip of features, its products with the thin factors, a few lines.
template <class T>
struct WorkerMemory {
  T *strip, *thin, *line;

  WorkerMemory(Carver& carver, const Sizes& s) {
    if (s.small_rows) {
      strip = carver.take<T>(s.padded * s.panel * kStripPanels);
      thin = carver.take<T>((round_up(s.thin, kTile) + 2) * s.panel * kStripPanels);
    } else {
      strip = carver.take<T>(s.padded * kTile);
      thin = carver.take<T>((round_up(s.thin, s.panel) + 2) * kTile);
    }
    line = carver.take<T>(s.panel * kPackBlock);
  }
};

// The scratch of all workers, one behind the other.
template <class T>
struct Workers {
  char* base;
  const Sizes* sizes;
  int64_t bytes;

  Workers(void* start, const Sizes& s) : base(static_cast<char*>(start)), sizes(&s) {
    Carver carver(nullptr);
    WorkerMemory<T>(carver, s);
    bytes = carver.used();
  }

  WorkerMemory<T> operator[](int worker) const {
    Carver carver(base + worker * bytes);
    return WorkerMemory<T>(carver, *sizes);
  }
};

struct Job {
  const DualSqueezeShape* shape;
  const void *x, *grad_first, *grad_second;
  void *first, *second, *grad_x;
  void *mean, *trace, *gram;  // written by the forward pass, read by the backward pass
};

// One sample, on `workers` threads of the pool, or on this thread when that is 1. The memory holds
// one sample's scratch and behind it that of each worker.
using SampleKernel = Status (*)(const Job& job, int64_t sample, char* memory, int workers);

// The forward pass of float features computes in double up to this small side. A matrix of so few
// lines costs nothing, and it has no many lines whose rounding would average out.
constexpr int64_t kWideSide = 16;

struct DualSqueezeKernels {
  SampleKernel forward[4], backward[4];  // by Dtype
  SampleKernel wide_forward;             // of float in double
};

CCDN_DECLARE_KERNELS(DualSqueezeKernels, dual_squeeze_kernels)

}  // namespace ccdn
