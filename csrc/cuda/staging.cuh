// How the operands of a product reach shared memory, a slice of their depth at a time.
//
// Matrices come by cp.async, straight from device memory. Features go through registers, where they
// are centred and converted: a thread asks for all of its numbers of the next slice, 16 bytes at a
// time where the layout allows it, before the tensor cores work on this one, and uses them after.
// So many loads are in flight that one trip to memory serves a slice. Addresses outside of the
// operand are replaced by its first one instead of being skipped: a branch around a load would make
// the next load wait for it.
//
// Not by sm_90's bulk copies: a bulk copy without a tensor map lays its rows end to end, 128 bytes
// apart, where the eight rows of a fragment meet in four banks; one for each row would take 64
// instructions where cp.async takes four a thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <cuda/instructions.cuh>
#include <type_traits>

#include "element.cuh"
#include "pack.cuh"
#include "symmetric_plan.h"
#include "tile_product.cuh"

namespace ccdn::cuda {

constexpr int kSlice = 32;           // of the depth, staged at a time
constexpr int kTensorThreads = 128;  // of a block whose tile tensor cores multiply

// A slice of 64 rows in shared memory, whose rows are apart so that the 8 x 4 lanes of a fragment
// meet in no bank.
template <typename Word>
inline constexpr int kSliceStride = kSlice + 16 / int(sizeof(Word));
template <typename Word>
using Slice = Word[kTile][kSliceStride<Word>];

// Where a thread's packs of `kWidth` numbers are in a slice: neighbours in depth or, turned, in
// rows; the first one at (row, depth), each of the others so much further on one of the two axes.
// Neighbouring threads touch neighbouring memory. Turned packs go to shared memory row by row,
// eight depths side by side, where few lanes meet in a bank.
template <int kWidth>
struct PackPlaces {
  static constexpr int kCount = kTile * kSlice / kTensorThreads / kWidth;
  static constexpr int kRowStep = kTensorThreads / (kSlice / kWidth);
  static constexpr int kDepthStep = kTensorThreads / (kTile / kWidth);
  int row, depth, row_step, depth_step;

  explicit __device__ PackPlaces(bool along_depth) {
    const int at = int(threadIdx.x);
    // Lanes of a turned pack: `side` of them along the depth.
    constexpr int side = kWidth == 1 ? 1 : 8, packs = kTile / kWidth;
    static_assert(side * packs <= kTensorThreads, "the threads reach every row");
    row = along_depth ? at / (kSlice / kWidth) : at / side % packs * kWidth;
    depth = along_depth ? at % (kSlice / kWidth) * kWidth : at / (side * packs) * side + at % side;
    row_step = along_depth ? kRowStep : 0;
    depth_step = along_depth ? 0 : kDepthStep;
  }
};

// Operands, seen as rows x depth --------------------------------------------------------------

// One symmetric matrix or two, the second one's columns behind the first one's, in panels
// (symmetric_plan.h). Its rows have the padding of the panels, which is 0, as its depth.
template <typename Acc>
struct PanelOperand {
  const Acc *first, *second;  // of a sample; second is null where there is one
  int64_t n;

  __device__ int64_t panels() const { return panel_count<Acc>(n); }
  __device__ int64_t depth() const {
    return panels() * kPanelColumns<Acc> * (second != nullptr ? 2 : 1);
  }
  __device__ bool along_depth() const { return true; }
  // Row `row` of 128 bytes of a panel: of the columns from `k` on, a multiple of its width.
  __device__ const Acc* line(int64_t row, int64_t k) const {
    const int64_t panel = k / kPanelColumns<Acc>;
    const bool behind = panel >= panels();
    return (behind ? second : first) +
           ((behind ? panel - panels() : panel) * n + row) * kPanelColumns<Acc>;
  }
  __device__ Acc operator()(int64_t row, int64_t k) const {
    return line(row, k)[k % kPanelColumns<Acc>];
  }

  // Rows row0 .. row0 + 63 from k0 on are on their way to the slice; zeros outside.
  struct Pending {
    template <typename Word>
    __device__ __forceinline__ void load(const PanelOperand& x, int64_t row0, int64_t rows,
                                         int64_t k0, Slice<Word>& to) {
      static_assert(sizeof(Word) == 4 && kPanelColumns<float> == kSlice, "a slice is a panel");
      const PackPlaces<4> places(true);
#pragma unroll
      for (int e = 0; e < places.kCount; ++e) {
        const int row = places.row + e * places.kRowStep;
        const bool inside = row0 + row < rows;
        // What is not inside is not read, but its address is formed.
        copy_async(&to[row][places.depth], x.line(inside ? row0 + row : 0, k0) + places.depth,
                   inside);
      }
    }
    template <typename Word>
    __device__ __forceinline__ void store(const PanelOperand&, int64_t, int64_t, int64_t,
                                          Slice<Word>&) {}
  };
};

enum class MeanOf { nothing, row, depth };

// Features of a sample in any layout, centred as they are read.
template <typename T>
struct FeatureOperand {
  const T* data;
  int64_t row_stride, depth_stride;
  int64_t length;  // of the depth
  const Accumulator<T>*mean, *rest;
  MeanOf mean_of;

  __device__ int64_t depth() const { return length; }
  __device__ bool along_depth() const { return depth_stride <= row_stride; }
  __device__ Accumulator<T> operator()(int64_t row, int64_t k) const {
    const Accumulator<T> value = Element<T>::load(data[row * row_stride + k * depth_stride]);
    if (mean_of == MeanOf::nothing) return value;
    const int64_t c = mean_of == MeanOf::row ? row : k;
    return (value - mean[c]) - rest[c];
  }
  // The same numbers, rows and depth exchanged.
  __device__ FeatureOperand turned(int64_t rows) const {
    const MeanOf other = mean_of == MeanOf::row     ? MeanOf::depth
                         : mean_of == MeanOf::depth ? MeanOf::row
                                                    : MeanOf::nothing;
    return {data, depth_stride, row_stride, rows, mean, rest, other};
  }
  // Whether its lines are made of whole packs of 16 bytes, at addresses that fit.
  __device__ bool in_packs(int64_t rows) const {
    const bool along = along_depth();
    const int64_t inner = along ? depth_stride : row_stride;
    const int64_t lines = along ? row_stride : depth_stride, line = along ? length : rows;
    const int64_t rest_of_pack = (lines | line) & (kPack<T> - 1);
    return inner == 1 && rest_of_pack == 0 && (reinterpret_cast<uintptr_t>(data) & 15) == 0;
  }

  // What a thread holds of a slice between asking for it and writing it to shared memory.
  struct Pending {
    static constexpr int kNumbers = kTile * kSlice / kTensorThreads;
    Pack<T, kNumbers> raw;

    template <typename Word>
    __device__ __forceinline__ void load(const FeatureOperand& x, int64_t row0, int64_t rows,
                                         int64_t k0, Slice<Word>&) {
      if (x.in_packs(rows)) {
        gather<kPack<T>>(x, row0, rows, k0);
      } else {
        gather<1>(x, row0, rows, k0);
      }
    }
    template <typename Word>
    __device__ __forceinline__ void store(const FeatureOperand& x, int64_t row0, int64_t rows,
                                          int64_t k0, Slice<Word>& to) {
      if (x.in_packs(rows)) {
        scatter<kPack<T>>(x, row0, rows, k0, to);
      } else {
        scatter<1>(x, row0, rows, k0, to);
      }
    }

   private:
    // Of the slice, how many rows and how much of the depth are inside of the operand.
    struct Extent {
      int rows, depth;
      __device__ Extent(const FeatureOperand& x, int64_t row0, int64_t rows, int64_t k0)
          : rows(rows - row0 < kTile ? int(rows - row0) : kTile),
            depth(x.length - k0 < kSlice ? int(x.length - k0) : kSlice) {}
    };

    template <int kWidth>
    __device__ __forceinline__ void gather(const FeatureOperand& x, int64_t row0, int64_t rows,
                                           int64_t k0) {
      const PackPlaces<kWidth> places(x.along_depth());
      const Extent extent(x, row0, rows, k0);
      const T* from =
          x.data + (row0 + places.row) * x.row_stride + (k0 + places.depth) * x.depth_stride;
      const int64_t step = places.row_step * x.row_stride + places.depth_step * x.depth_stride;
#pragma unroll
      for (int e = 0; e < places.kCount; ++e) {
        const bool inside = places.row + e * places.row_step < extent.rows &&
                            places.depth + e * places.depth_step < extent.depth;
        const auto pack = *reinterpret_cast<const Pack<T, kWidth>*>(inside ? from : x.data);
        from += step;
#pragma unroll
        for (int v = 0; v < kWidth; ++v) raw.value[e * kWidth + v] = pack.value[v];
      }
    }

    template <int kWidth, typename Word>
    __device__ __forceinline__ void scatter(const FeatureOperand& x, int64_t row0, int64_t rows,
                                            int64_t k0, Slice<Word>& to) {
      const bool along = x.along_depth();
      const PackPlaces<kWidth> places(along);
      const Extent extent(x, row0, rows, k0);
      // Of the numbers that a thread holds, all packs have the same means, or all numbers of a
      // pack.
      const bool in_pack = (x.mean_of == MeanOf::depth) == along;
      constexpr int kMeans = kWidth > places.kCount ? kWidth : places.kCount;
      Accumulator<T> mean[kMeans] = {}, rest[kMeans] = {};
      if (x.mean_of != MeanOf::nothing) {
        const bool of_row = x.mean_of == MeanOf::row;
        const int64_t begin = of_row ? row0 : k0;
        const int first = of_row ? places.row : places.depth;
        const int last = (of_row ? extent.rows : extent.depth) - 1;
        const int step = in_pack ? 1 : of_row ? places.row_step : places.depth_step;
#pragma unroll
        for (int m = 0; m < kMeans; ++m) {
          const int c = first + m * step < last ? first + m * step : last;
          mean[m] = x.mean[begin + c];
          rest[m] = x.rest[begin + c];
        }
      }
#pragma unroll
      for (int e = 0; e < places.kCount; ++e) {
        const int row = places.row + e * places.row_step;
        const int depth = places.depth + e * places.depth_step;
        const bool inside = row < extent.rows && depth < extent.depth;
        Pack<Word, kWidth> words;
#pragma unroll
        for (int v = 0; v < kWidth; ++v) {
          const Accumulator<T> value = Element<T>::load(raw.value[e * kWidth + v]);
          const Accumulator<T> centred =
              (value - (in_pack ? mean[v] : mean[e])) - (in_pack ? rest[v] : rest[e]);
          words.value[v] = Element<Word>::store(inside ? float(centred) : 0.f);
        }
        if (along) {
          *reinterpret_cast<Pack<Word, kWidth>*>(&to[row][depth]) = words;
        } else {
#pragma unroll
          for (int v = 0; v < kWidth; ++v) to[row + v][depth] = words.value[v];
        }
      }
    }
  };
};

// The columns of X, then, behind the padding of a matrix in panels, those of Y: turned features.
template <typename T, typename Acc>
struct FeaturePair {
  FeatureOperand<T> x;
  FeatureOperand<Acc> y;
  int64_t padded;  // depth of x with the padding: whole slices

  __device__ int64_t depth() const { return padded + y.depth(); }
  __device__ bool along_depth() const { return x.along_depth(); }
  __device__ Acc operator()(int64_t row, int64_t k) const {
    if (k >= padded) return y(row, k - padded);
    return k < x.depth() ? Acc(x(row, k)) : Acc(0);
  }

  // A slice is all of X or all of Y: where their types are the same, one has the other's place.
  struct Pending {
    static constexpr bool kShared = std::is_same_v<T, Acc>;
    struct Nothing {};
    typename FeatureOperand<T>::Pending of_x;
    std::conditional_t<kShared, Nothing, typename FeatureOperand<Acc>::Pending> rest;

    __device__ __forceinline__ auto& of_y() {
      if constexpr (kShared) {
        return of_x;
      } else {
        return rest;
      }
    }

    template <typename Word>
    __device__ __forceinline__ void load(const FeaturePair& pair, int64_t row0, int64_t rows,
                                         int64_t k0, Slice<Word>& to) {
      if (k0 < pair.padded) {
        of_x.template load<Word>(pair.x, row0, rows, k0, to);
      } else {
        of_y().template load<Word>(pair.y, row0, rows, k0 - pair.padded, to);
      }
    }
    template <typename Word>
    __device__ __forceinline__ void store(const FeaturePair& pair, int64_t row0, int64_t rows,
                                          int64_t k0, Slice<Word>& to) {
      if (k0 < pair.padded) {
        of_x.template store<Word>(pair.x, row0, rows, k0, to);
      } else {
        of_y().template store<Word>(pair.y, row0, rows, k0 - pair.padded, to);
      }
    }
  };
};

}  // namespace ccdn::cuda
