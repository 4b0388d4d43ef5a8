// Products of matrices in column panels, the symmetric ones by half of their blocks.
//
// Panel j of a matrix holds the columns j * kPanel ... of all its rows, contiguous: 128 bytes a
// row, columns past the last one zero. So any panel is both a left and a right factor of the
// register-blocked product (tile.h) without packing: block (i, j) of the product is the sum over k
// of (panel i)[k]^T (panel j)[k]. For symmetric factors that commute, and for sums like A B + B A,
// the product is symmetric: the blocks on and above the diagonal are computed, the others mirrored.
#pragma once

#include <cmath>
#include <cstring>

#include "cpu/engine/elements.h"
#include "cpu/engine/samples.h"

namespace ccdn {
namespace CCDN_ISA {

template <class T>
struct Panels {
  T* data;
  int64_t stride;  // elements from one panel to the next
};

inline int64_t panels_of(int64_t columns, int64_t width) { return (columns + width - 1) / width; }

// Elements of an n x n matrix in panels.
template <class T>
inline int64_t matrix_size(int64_t n) {
  return panels_of(n, kPanel<T>) * n * kPanel<T>;
}

// The sum of up to two products left^T right of elements E: numbers, or pairs (pair.h).
template <class E>
struct Product {
  int64_t rows, columns, depth;
  int count;
  Panels<const E> left[2], right[2];
};

// What of a panel stays in the L1 cache while it is multiplied: with that of the other factor, two
// thirds of 48 KiB.
constexpr int64_t kBlockDepth = 128;

// Block (i, j) of the product into kPanel x kPanel numbers; past its rows and columns they are zero
// or finite. Of a block on the diagonal of a symmetric product the lower left quarter is missing.
template <class T, class E>
CCDN_TARGET void block_product(const Product<E>& p, int64_t i, int64_t j, bool triangle, T* block) {
  constexpr int64_t width = kPanel<T>;
  const int64_t rows = p.rows - i * width < width ? p.rows - i * width : width;
  const int64_t columns = p.columns - j * width < width ? p.columns - j * width : width;
  if (rows < width || columns < width) {
    for (int64_t e = 0; e < width * width; e += Simd<T>::lanes) {
      store(block + e, typename Simd<T>::Vector{});
    }
  }
  bool add = false;
  for (int q = 0; q < p.count; ++q) {
    const E *left = p.left[q].data + i * p.left[q].stride,
            *right = p.right[q].data + j * p.right[q].stride;
    for (int64_t k = 0; k < p.depth; k += kBlockDepth) {
      const int64_t depth = p.depth - k < kBlockDepth ? p.depth - k : kBlockDepth;
      for (int64_t r = 0; r < rows; r += kTileRows) {
        const int64_t skip = triangle && r >= width / 2 ? width / 2 : 0;
        tile_product<T, Left::by_column>(depth, left + k * width + r, width,
                                         right + k * width + skip, width, block + r * width + skip,
                                         width, add, skip > 0 || columns <= width / 2);
      }
      add = true;
    }
  }
}

// The transpose of a whole block.
template <class T>
CCDN_INLINE void transpose_block(const T* in, T* out) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < width; r += lanes) {
    for (int64_t c = 0; c < width; c += lanes) {
      transpose<T>(in + r * width + c, width, out + c * width + r, width);
    }
  }
}

// Makes a block on the diagonal symmetric: what lies below the diagonal comes from above.
template <class T>
CCDN_TARGET void mirror_diagonal(T* block) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  T turned[width * width];
  transpose_block(block, turned);
  T index[lanes];
  for (int i = 0; i < lanes; ++i) index[i] = T(i);
  const auto lane = load(index);
  for (int64_t r = 0; r < width; ++r) {
    for (int64_t c = 0; c < width; c += lanes) {
      const auto below = lane < T(r - c);
      store(block + r * width + c,
            below ? load(turned + r * width + c) : load(block + r * width + c));
    }
  }
}

// The block pair of a task: i <= j.
CCDN_INLINE void upper_pair(int64_t task, int64_t& i, int64_t& j) {
  j = int64_t((std::sqrt(8.0 * double(task) + 1) - 1) / 2);
  while (j * (j + 1) / 2 > task) --j;
  while ((j + 1) * (j + 2) / 2 <= task) ++j;
  i = task - j * (j + 1) / 2;
}

// Writes block (i, j) of a symmetric n x n matrix in panels of n rows, and its mirror image.
template <class T>
CCDN_TARGET inline void put_symmetric(const T* block, int64_t n, int64_t i, int64_t j, T* out) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  const int64_t stride = n * width;
  const int64_t rows = n - i * width < width ? n - i * width : width;
  T* place = out + j * stride + i * width * width;
  for (int64_t e = 0; e < rows * width; e += lanes) store(place + e, load(block + e));
  if (i == j) return;
  const int64_t below = n - j * width < width ? n - j * width : width;
  T* mirror = out + i * stride + j * width * width;
  if (below == width) {
    transpose_block(block, mirror);
  } else {
    T turned[width * width];
    transpose_block(block, turned);
    for (int64_t e = 0; e < below * width; e += lanes) store(mirror + e, load(turned + e));
  }
}

// out = scale * product + a * u + b * v, all symmetric n x n in panels; u and v may be null. out is
// none of the factors, but may be u.
template <class T>
struct SymmetricWork {
  Product<T> product;
  T scale, a, b;
  const T *u, *v;
  T* out;
};

template <class T>
CCDN_TARGET void symmetric_block(const SymmetricWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  const int64_t n = w.product.rows;
  int64_t i, j;
  upper_pair(task, i, j);
  T block[width * width];
  block_product(w.product, i, j, i == j, block);
  const int64_t rows = n - i * width < width ? n - i * width : width;
  const int64_t place = j * n * width + i * width * width;
  for (int64_t e = 0; e < rows * width; e += lanes) {
    auto value = w.scale * load(block + e);
    if (w.u) value += w.a * load(w.u + place + e);
    if (w.v) value += w.b * load(w.v + place + e);
    store(block + e, value);
  }
  if (i == j) mirror_diagonal(block);
  put_symmetric(block, n, i, j, w.out);
}

template <class T>
CCDN_TARGET void symmetric_product(Team& team, const SymmetricWork<T>& work) {
  const int64_t panels = panels_of(work.product.rows, kPanel<T>);
  team.each(panels * (panels + 1) / 2, work, symmetric_block<T>);
}

// Symmetric matrices that are no panels: (n, n) rows, or the upper triangle row by row.
enum class Rows { full, triangle };

CCDN_INLINE int64_t row_start(Rows kind, int64_t n, int64_t row) {
  // Of a triangle, where column 0 of the row would be.
  return kind == Rows::full ? row * n : row * (2 * n - row - 1) / 2;
}

inline int64_t rows_size(Rows kind, int64_t n) {
  return kind == Rows::full ? n * n : n * (n + 1) / 2;
}

// out = (rows + rows^T) / 2 in panels, where what a triangle lacks is zero.
template <class T>
struct SymmetrizeWork {
  const Codec<T>* codec;
  const void* rows;
  Rows kind;
  int64_t n;
  T* out;
};

template <class T>
CCDN_TARGET void read_block(const SymmetrizeWork<T>& w, int64_t i, int64_t j, T* block) {
  constexpr int64_t width = kPanel<T>;
  const int64_t rows = w.n - i * width < width ? w.n - i * width : width;
  const int64_t columns = w.n - j * width < width ? w.n - j * width : width;
  const bool whole = rows == width && columns == width && (w.kind == Rows::full || i < j);
  if (!whole) {
    for (int64_t e = 0; e < width * width; e += Simd<T>::lanes) {
      store(block + e, typename Simd<T>::Vector{});
    }
  }
  if (w.kind == Rows::full) {
    w.codec->read(w.codec->at(w.rows, i * width * w.n + j * width), w.n, 1, rows, columns, {},
                  block, width);
    return;
  }
  if (i > j) return;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = i == j ? r : 0;
    const int64_t start = row_start(w.kind, w.n, i * width + r) + j * width + first;
    w.codec->read(w.codec->at(w.rows, start), 0, 1, 1, columns - first, {},
                  block + r * width + first, 0);
  }
}

template <class T>
CCDN_TARGET void symmetrize_block(const SymmetrizeWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  int64_t i, j;
  upper_pair(task, i, j);
  T block[width * width], other[width * width], turned[width * width];
  read_block(w, i, j, block);
  if (i == j) {
    transpose_block(block, turned);
  } else {
    read_block(w, j, i, other);
    transpose_block(other, turned);
  }
  for (int64_t e = 0; e < width * width; e += lanes) {
    store(block + e, T(0.5) * (load(block + e) + load(turned + e)));
  }
  put_symmetric(block, w.n, i, j, w.out);
}

template <class T>
CCDN_TARGET void symmetrize(Team& team, const Codec<T>& codec, const void* rows, Rows kind,
                            int64_t n, T* out) {
  const SymmetrizeWork<T> work{&codec, rows, kind, n, out};
  const int64_t panels = panels_of(n, kPanel<T>);
  team.each(panels * (panels + 1) / 2, work, symmetrize_block<T>);
}

// Writes block (i, j), what of it belongs to the rows, converted.
template <class T>
CCDN_TARGET void put_rows(const Codec<T>& codec, const T* block, int64_t n, int64_t i, int64_t j,
                          Rows kind, void* rows) {
  constexpr int64_t width = kPanel<T>;
  const int64_t below = n - i * width < width ? n - i * width : width;
  const int64_t right = n - j * width < width ? n - j * width : width;
  if (kind == Rows::full) {
    void* out = codec.at(rows, i * width * n + j * width);
    codec.write(block, width, below, right, out, n, 1);
    return;
  }
  for (int64_t r = 0; r < below; ++r) {
    const int64_t first = i == j ? r : 0;
    const int64_t start = row_start(kind, n, i * width + r) + j * width + first;
    codec.write(block + r * width + first, 0, 1, right - first, codec.at(rows, start), 0, 1);
  }
}

// rows = scale * panels, converted.
template <class T>
struct WriteWork {
  const Codec<T>* codec;
  const T* panels;
  T scale;
  int64_t n;
  Rows kind;
  void* rows;
};

template <class T>
CCDN_TARGET void write_block(const WriteWork<T>& w, int64_t task, int) {
  constexpr int64_t width = kPanel<T>;
  constexpr int lanes = Simd<T>::lanes;
  const int64_t across = panels_of(w.n, width);
  const int64_t i = task / across, j = task % across;
  if (w.kind == Rows::triangle && i > j) return;
  const T* in = w.panels + j * w.n * width + i * width * width;
  if (w.scale == 1) return put_rows(*w.codec, in, w.n, i, j, w.kind, w.rows);
  const int64_t rows = w.n - i * width < width ? w.n - i * width : width;
  T block[width * width];
  for (int64_t e = 0; e < rows * width; e += lanes) store(block + e, w.scale * load(in + e));
  put_rows(*w.codec, block, w.n, i, j, w.kind, w.rows);
}

template <class T>
CCDN_TARGET void write_rows(Team& team, const Codec<T>& codec, const T* panels, T scale, int64_t n,
                            Rows kind, void* rows) {
  const WriteWork<T> work{&codec, panels, scale, n, kind, rows};
  const int64_t across = panels_of(n, kPanel<T>);
  team.each(across * across, work, write_block<T>);
}

// The sum of the products of corresponding elements, and that of the diagonal; in double.
template <class T>
CCDN_TARGET double inner_product(const T* a, const T* b, int64_t n) {
  const int64_t size = matrix_size<T>(n);
  constexpr int vectors = kPanel<T> / kDoubles;  // of a row
  Doubles sums[2] = {};
  for (int64_t e = 0; e < size; e += kPanel<T>) {
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      sums[v % 2] += load_doubles(a + e + v * kDoubles) * load_doubles(b + e + v * kDoubles);
    }
  }
  return sum<double>(sums[0] + sums[1]);
}

template <class T>
CCDN_TARGET inline void fill_matrix(T* a, int64_t n, T value) {
  const int64_t size = matrix_size<T>(n);
  for (int64_t e = 0; e < size; ++e) a[e] = value;
}

template <class T>
CCDN_TARGET inline void zero(const Codec<T>& codec, void* out, int64_t count) {
  std::memset(out, 0, size_t(count * codec.bytes));  // zero in every type
}

template <class T>
CCDN_INLINE int64_t diagonal_index(int64_t n, int64_t i) {
  return i / kPanel<T> * n * kPanel<T> + i * kPanel<T> + i % kPanel<T>;
}

template <class T>
CCDN_TARGET inline double trace_of(const T* a, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += double(a[diagonal_index<T>(n, i)]);
  return total;
}

// a = scale * a + shift * 1.
template <class T>
CCDN_TARGET void scale_and_shift(T* a, int64_t n, T scale, T shift) {
  const int64_t size = matrix_size<T>(n);
  for (int64_t e = 0; e < size; ++e) a[e] *= scale;
  for (int64_t i = 0; i < n; ++i) a[diagonal_index<T>(n, i)] += shift;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
