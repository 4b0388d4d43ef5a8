// The engine of the CPU kernels, and when to use which piece:
//
//   threads     parallel_for (parallel.h)   work on torch's threads; the next two are made of it
//               for_samples (samples.h)     a batch: a sample a thread, or all threads together on
//                                           each sample where there are few (SampleSchedule)
//               Team::each (samples.h)      the tasks of one sample, on the threads it was given
//   memory      Arena (samples.h)           a sample's scratch memory, cut into pieces
//   processor   CCDN_ISA (isa.h)            kernels are compiled once for each instruction set,
//               CCDN_KERNELS (dispatch.h)   and chosen at run time
//               load, store, ... (simd.h)   vectors; transpose
//               widen, narrow (convert.h)   elements of 16 bits, one or a vector of them
//   elements    Codec (elements.h)          blocks of any type read as float or double, or written
//   products    tile_product (tile.h)       8 x kPanel of any product, in registers
//               symmetric_product           matrices in panels, by half where symmetric;
//               (symmetric.h)               symmetrize and write_rows: from and to (n, n) rows
//   features    Features (features.h)       one sample in either memory order, centred;
//                                           feature_sums, find_means: over positions or channels
//               gram_panels (packing.h)     their covariance or Gram matrix, pack: their panels,
//                                           feature_product: a gradient with their strides
//               pair_gram (pair_gram.h)     gram_panels of bfloat16 features, with AVX512-BF16
//
// An operator on covariances takes this file; one that passes over memory (multi_excite,
// excitation_gates, cocs_loss) takes parallel.h, convert.h and tile.h. A kernel file includes isa.h
// first. Everything in CCDN_ISA stands under CCDN_TARGET or CCDN_INLINE, and is a template of the
// arithmetic's type, float or double, not of the features' type: that is a Codec's, at run time.
#pragma once

#include "cpu/engine/dispatch.h"
#include "cpu/engine/packing.h"

namespace ccdn {
namespace CCDN_ISA {

// What engine_kernels.cpp holds for all operators, so that it is compiled once: X is `extern
// template` or, there, `template`.
#define CCDN_ENGINE(X, T)                                                             \
  X void symmetric_product(Team&, const SymmetricWork<T>&);                           \
  X void symmetrize(Team&, const Codec<T>&, const void*, Rows, int64_t, T*);          \
  X void put_rows(const Codec<T>&, const T*, int64_t, int64_t, int64_t, Rows, void*); \
  X void write_rows(Team&, const Codec<T>&, const T*, T, int64_t, Rows, void*);       \
  X void block_product(const Product<T>&, int64_t, int64_t, bool, T*);                \
  X void mirror_diagonal(T*);                                                         \
  X double inner_product(const T*, const T*, int64_t);                                \
  X void scale_and_shift(T*, int64_t, T, T);                                          \
  X void feature_sums(Team&, const SumsWork<T, 1>&);                                  \
  X void feature_sums(Team&, const SumsWork<T, 2>&);                                  \
  X double find_means(Team&, const Features<T>&, T*, T*, double*);                    \
  X Panels<const T> pack_all(Team&, const Features<T>&, bool, T*);                    \
  X void gram_panels(Team&, const Features<T>&, bool, T*, T*, double*);               \
  X void feature_product(Team&, const FeatureWork<T>&);                               \
  X void multiply_features(Team&, const Features<T>&, const T*, T*, void*);           \
  X void fill_features(Team&, const Features<T>&, const double*, void*);

#define CCDN_ELEMENTS(X, S, T)                                                                  \
  X void read_elements<S, T>(const void*, int64_t, int64_t, int64_t, int64_t, const Centre<T>&, \
                             T*, int64_t);                                                      \
  X void write_elements<S, T>(const T*, int64_t, int64_t, int64_t, void*, int64_t, int64_t);

#define CCDN_WHOLE_ENGINE(X)        \
  CCDN_ENGINE(X, float)             \
  CCDN_ENGINE(X, double)            \
  CCDN_ELEMENTS(X, float, float)    \
  CCDN_ELEMENTS(X, BFloat16, float) \
  CCDN_ELEMENTS(X, Half, float)     \
  CCDN_ELEMENTS(X, double, double)  \
  CCDN_ELEMENTS(X, float, double)

CCDN_WHOLE_ENGINE(extern template)

}  // namespace CCDN_ISA
}  // namespace ccdn
