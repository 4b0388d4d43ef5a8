// The matrix of the recurrence, Xc Xc^T / N or Xc^T Xc / N, in column panels: panel J holds the
// columns J * kPanel ... of all padded rows, contiguous, so that later passes stream it.
#pragma once

#include "cpu/recurrence.h"

namespace ccdn {
namespace CCDN_ISA {

// Calls phase(work, begin, step, worker) so that together the indices begin, begin + step, ... of
// all workers cover everything once.
template <class Work>
Status spread(Work& work, int workers,
              void (*phase)(Work& work, int64_t begin, int64_t step, int worker)) {
  if (workers == 1) {
    phase(work, 0, 1, 0);
    return Status::ok;
  }
  struct Call {
    Work* work;
    int workers;
    void (*phase)(Work&, int64_t, int64_t, int);
  } call{&work, workers, phase};
  const auto body = [](int64_t worker, void* context) noexcept {
    const Call& c = *static_cast<Call*>(context);
    c.phase(*c.work, worker, c.workers, static_cast<int>(worker));
  };
  return parallel_for(workers, body, &call);
}

template <class S, class T>
struct GramWork {
  const Sizes* sizes;
  Features<S, T> x;
  T *panels, *matrix;
  double* start;       // sums of the centred features over `length`, or null
  const double* ones;  // a chunk of them
  Workers<T> workers;
  int64_t from, depth;  // the chunk of `length` at hand
  double scale;
};

// Packs panels of the chunk: panel[k][i] = Xc of small line i at length index from + k.
template <class S, class T>
CCDN_TARGET void pack_chunk(GramWork<S, T>& w, int64_t begin, int64_t step, int worker) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  T* line = w.workers[worker].line;
  const Sizes& s = *w.sizes;
  for (int64_t j = begin; j * width < s.padded; j += step) {
    T* panel = w.panels + j * width * s.chunk;
    const int64_t lines = s.small - j * width < width ? s.small - j * width : width;
    if (s.small_rows) {
      constexpr int64_t kBlock = kPackBlock;
      if (lines < width) {
        for (int64_t i = lines * kBlock; i < width * kBlock; ++i) line[i] = 0;
      }
      for (int64_t k = 0; k < w.depth; k += kBlock) {
        const int64_t count = w.depth - k < kBlock ? w.depth - k : kBlock;
        for (int64_t i = 0; i < lines; ++i) {
          w.x.panels(true, j * width + i, w.from + k, count, line + i * kBlock);
        }
        // The chunk's room is a multiple of the block, so the last rows may run over.
        for (int64_t c = 0; c < round_up(count, lanes); c += lanes) {
          for (int64_t i = 0; i < width; i += lanes) {
            transpose<T>(line + i * kBlock + c, kBlock, panel + (k + c) * width + i, width);
          }
        }
      }
    } else {
      for (int64_t k = 0; k < w.depth; ++k) {
        w.x.panels(true, w.from + k, j * width, lines, panel + k * width);
      }
    }
    if (w.start) {
      double* out = w.start + j * width;
      panel_sums<T, 1>(w.depth, panel, &w.ones, &out, w.from > 0);
    }
  }
}

// Adds the chunk's product to the tiles on and above the diagonal.
template <class S, class T>
CCDN_TARGET void multiply_chunk(GramWork<S, T>& w, int64_t begin, int64_t step, int) {
  constexpr int64_t width = kPanel<T>;
  const Sizes& s = *w.sizes;
  for (int64_t j = begin; j * width < s.padded; j += step) {
    const T* right = w.panels + j * width * s.chunk;
    const bool narrow = s.small - j * width <= width / 2;
    const int64_t last = (j + 1) * width < s.small ? (j + 1) * width : s.small;
    for (int64_t i = 0; i < last; i += kTileRows) {
      const T* left = w.panels + i / width * width * s.chunk + i % width;
      // Of the block on the diagonal, the lower left quarter is mirrored too.
      const int64_t skip = i >= j * width + width / 2 ? width / 2 : 0;
      tile_product<T, Left::by_column>(w.depth, left, width, right + skip, width,
                                       w.matrix + (j * s.padded + i) * width + skip, width,
                                       w.from > 0, narrow || skip > 0);
    }
  }
}

// Scales the upper tiles; zeroes what no product reached.
template <class S, class T>
CCDN_TARGET void scale_panels(GramWork<S, T>& w, int64_t begin, int64_t step, int) {
  constexpr int64_t width = kPanel<T>;
  const Sizes& s = *w.sizes;
  const T scale = T(w.scale);
  for (int64_t j = begin; j * width < s.padded; j += step) {
    T* panel = w.matrix + j * s.padded * width;
    const int64_t columns = s.small - j * width < width ? s.small - j * width : width;
    const int64_t last = (j + 1) * width < s.small ? (j + 1) * width : s.small;
    if (columns == width) {
      for (int64_t i = 0; i < last * width; ++i) panel[i] *= scale;
    } else {
      for (int64_t i = 0; i < last; ++i) {
        for (int64_t c = 0; c < columns; ++c) panel[i * width + c] *= scale;
        for (int64_t c = columns; c < width; ++c) panel[i * width + c] = 0;
      }
    }
    for (int64_t i = last * width; i < (j + 1) * width * width; ++i) panel[i] = 0;
    T* corner = panel + j * width * width;
    for (int64_t i = width / 2; i < width; ++i) {
      for (int64_t c = 0; c < width / 2; ++c) corner[i * width + c] = corner[c * width + i];
    }
  }
}

// Fills the tiles below the diagonal from those above.
template <class S, class T>
CCDN_TARGET void mirror_panels(GramWork<S, T>& w, int64_t begin, int64_t step, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  const Sizes& s = *w.sizes;
  for (int64_t j = begin; j * width < s.padded; j += step) {
    for (int64_t i = j + 1; i * width < s.padded; ++i) {
      const T* from = w.matrix + (i * s.padded + j * width) * width;
      T* to = w.matrix + (j * s.padded + i * width) * width;
      for (int64_t r = 0; r < width; r += lanes) {
        for (int64_t c = 0; c < width; c += lanes) {
          transpose<T>(from + r * width + c, width, to + c * width + r, width);
        }
      }
    }
  }
}

template <class S, class T>
Status gram_matrix(GramWork<S, T>& w, int workers) {
  Status status = Status::ok;
  const Sizes& s = *w.sizes;
  for (w.from = 0; w.from < s.length && status == Status::ok; w.from += s.chunk) {
    w.depth = s.length - w.from < s.chunk ? s.length - w.from : s.chunk;
    status = spread(w, workers, pack_chunk<S, T>);
    if (status == Status::ok) status = spread(w, workers, multiply_chunk<S, T>);
  }
  if (status == Status::ok) status = spread(w, workers, scale_panels<S, T>);
  if (status == Status::ok) status = spread(w, workers, mirror_panels<S, T>);
  return status;
}

template <class T, class Out>
CCDN_TARGET void matrix_to_rows(const Sizes& s, const T* matrix, Out* rows) {
  for (int64_t j = 0; j < s.small; j += kPanel<T>) {
    const int64_t count = s.small - j < kPanel<T> ? s.small - j : kPanel<T>;
    for (int64_t i = 0; i < s.small; ++i) {
      const T* in = matrix + j * s.padded + i * kPanel<T>;
      for (int64_t c = 0; c < count; ++c) rows[i * s.small + j + c] = Out(in[c]);
    }
  }
}

template <class T>
CCDN_TARGET void matrix_from_rows(const Sizes& s, const T* rows, T* matrix) {
  for (int64_t j = 0; j < s.padded; j += kPanel<T>) {
    const int64_t count = s.small - j < kPanel<T> ? s.small - j : kPanel<T>;
    for (int64_t i = 0; i < s.small; ++i) {
      T* out = matrix + j * s.padded + i * kPanel<T>;
      std::memcpy(out, rows + i * s.small + j, count * sizeof(T));
      for (int64_t c = count; c < kPanel<T>; ++c) out[c] = 0;
    }
  }
}

}  // namespace CCDN_ISA
}  // namespace ccdn
