// The sizes of one sample of dual_squeeze, and its scratch memory.
//
// Names: the features of a sample are a matrix; `small` is the side of the recurrence (n of its
// lines), `length` the other. In memory the features are `rows` of contiguous `columns`: channels
// by positions, or positions by channels when the channels are contiguous (channels_last).
#pragma once

#include "common/dual_squeeze.h"
#include "cpu/engine/engine.h"

namespace ccdn {
namespace CCDN_ISA {

constexpr int64_t kStripPanels = 4;  // read and written together: whole pages and cache lines

struct Sizes {
  bool channel_rows, small_rows, by_channels;
  int64_t channels, positions, small, length;
  int64_t panel;   // columns of a panel
  int64_t padded;  // small, rounded up to panels
  int64_t line;    // room for length or small numbers, rounded up to panels
  int64_t terms, rank;
  int64_t thin;  // columns of the thin factors
  bool dense;

  Sizes(const DualSqueezeShape& s, int64_t width) {
    channel_rows = has_channel_rows(s);
    by_channels = s.side == Side::channels;
    small_rows = by_channels == channel_rows;
    channels = s.channels;
    positions = s.positions;
    small = by_channels ? channels : positions;
    length = by_channels ? positions : channels;
    panel = width;
    padded = round_up(small, panel);
    line = round_up(length > small ? length : small, panel);
    terms = s.terms;
    rank = s.rank;
    thin = 2 * rank;
    dense = s.dense_gradient;
  }
};

// Scratch of one sample's forward pass.
template <class T>
struct ForwardMemory {
  T *room, *matrix, *mean, *rest, *single;
  double *sums, *start, *previous, *current, *next, *sum, *line;

  ForwardMemory(Arena& arena, const Sizes& s) {
    room = arena.take<T>(strip_size<T>(s.small, s.length));
    matrix = arena.take<T>(matrix_size<T>(s.small));
    mean = arena.take<T>(round_up(s.channels, s.panel));
    rest = arena.take<T>(round_up(s.channels, s.panel));
    single = arena.take<T>(s.padded);
    sums = arena.take<double>(s.line);
    start = arena.take<double>(s.padded);
    previous = arena.take<double>(s.padded);
    current = arena.take<double>(s.padded);
    next = arena.take<double>(s.padded);
    sum = arena.take<double>(s.padded);
    line = arena.take<double>(s.line);
  }
};

// Scratch of one sample's backward pass. The vectors of the recurrence are rows of `t` and `s`,
// their combinations rows of `from_t` and `from_s`; left and right are the thin factors, whose last
// rows carry what else has rank one.
template <class T>
struct BackwardMemory {
  T *room, *matrix, *rest, *single, *left, *right, *left_panel;
  double *t, *s, *from_t, *from_s, *gradient, *bias;

  BackwardMemory(Arena& arena, const Sizes& s, bool saves_gram) {
    room = arena.take<T>(saves_gram ? 0 : strip_size<T>(s.small, s.length));
    // Q is written by whole tiles, the last of which may run over.
    matrix = arena.take<T>(matrix_size<T>(s.small) + kTileRows * s.panel);
    rest = arena.take<T>(round_up(s.channels, s.panel));
    single = arena.take<T>(2 * s.padded);
    left = arena.take<T>((round_up(s.thin, kTileRows) + 2) * s.padded);
    right = arena.take<T>((s.thin + 2) * s.padded);
    left_panel = arena.take<T>(s.padded * round_up(s.thin, s.panel));
    t = arena.take<double>(s.terms * s.padded);
    this->s = arena.take<double>(s.terms * s.padded);
    from_t = arena.take<double>((2 + s.rank) * s.padded);
    from_s = arena.take<double>((1 + s.rank) * s.padded);
    gradient = arena.take<double>(s.line);
    bias = arena.take<double>(s.line);
  }
};

// Scratch of one worker: a strip of features and its products with the thin factors.
template <class T>
struct WorkerMemory {
  T *strip, *thin;

  WorkerMemory(Arena& arena, const Sizes& s) {
    if (s.small_rows) {
      strip = arena.take<T>(s.padded * s.panel * kStripPanels);
      thin = arena.take<T>((round_up(s.thin, kTileRows) + 2) * s.panel * kStripPanels);
    } else {
      strip = arena.take<T>(s.padded * kTileRows);
      thin = arena.take<T>((round_up(s.thin, s.panel) + 2) * kTileRows);
    }
  }
};

// The scratch of all workers, one behind the other.
template <class T>
struct Workers {
  char* base;
  const Sizes* sizes;
  int64_t bytes;

  Workers(void* start, const Sizes& s) : base(static_cast<char*>(start)), sizes(&s) {
    Arena arena(nullptr);
    WorkerMemory<T>(arena, s);
    bytes = arena.used();
  }

  WorkerMemory<T> operator[](int worker) const {
    Arena arena(base + worker * bytes);
    return WorkerMemory<T>(arena, *sizes);
  }
};

}  // namespace CCDN_ISA
}  // namespace ccdn
