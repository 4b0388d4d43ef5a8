// What the tests ask of the emulation itself; tests/ops/cuda_emulation/__init__.py compiles it.
#include <cuda_runtime.h>

#include <cuda/instructions.cuh>

#include "cuda/cluster_launch.cuh"
#include "cuda/dual_squeeze_workspace.h"
#include "cuda/multi_excite_plan.h"
#include "cuda/recurrence.cuh"
#include "cuda/symmetric_plan.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void emulated_settings(unsigned thread_order, unsigned largest_grid, int64_t stream) {
  emulation::thread_order = thread_order;
  emulation::largest_grid = largest_grid;
  emulation::expected_stream = reinterpret_cast<cudaStream_t>(stream);
}

// Whether launches are listed instead of run, from now on; the list begins anew.
EXPORTED void emulated_rehearsal(int rehearsing) {
  emulation::rehearsing = rehearsing != 0;
  if (rehearsing) emulation::launched.clear();
}

// How many launches are listed. Of number i: the kernel's address less that of emulated_rehearsal,
// then what the launch asks for.
EXPORTED int64_t emulated_launched(int64_t i, int64_t* found) {
  const int64_t count = int64_t(emulation::launched.size());
  if (i < count) {
    const emulation::Launched& one = emulation::launched[size_t(i)];
    const auto here = reinterpret_cast<const char*>(&emulated_rehearsal);
    for (int64_t value : {int64_t(static_cast<const char*>(one.kernel) - here), one.blocks,
                          one.threads, one.cluster, one.bytes, one.overlaps}) {
      *found++ = value;
    }
  }
  return count;
}

EXPORTED void emulated_last_of_samples(int64_t samples) { emulation::last_of_samples = samples; }

// The blocks of a launch to come: the next one without such a list.
EXPORTED void emulated_only_blocks(int count, const unsigned* blocks) {
  emulation::only_blocks.emplace_back(blocks, blocks + count);
}

// The device's architecture, and the one that the kernels were compiled for, from now on.
EXPORTED void emulated_architectures(int device, int compiled_for) {
  emulation::device_architecture = device;
  emulation::compiled_for = compiled_for;
  ccdn::cuda::DriverAnswers::all().forget();
}

// The blocks of the largest cluster that the device has room for, from now on.
EXPORTED void emulated_room(unsigned blocks) {
  emulation::room_for_blocks = blocks;
  ccdn::cuda::DriverAnswers::all().forget();
}

// The status of two launches of which the second overlaps the first, and waits for it or does not.
EXPORTED int emulated_overlap(int waits) {
  ccdn::cuda::Launcher launch(emulation::expected_stream, /*overlapping=*/true);
  const auto kernel = +[](int waits) {
    if (waits) ccdn::cuda::wait_for_last_launch();
  };
  for (int i = 0; i < 2; ++i) launch(kernel, 1, 32, waits);
  return static_cast<int>(launch.status());
}

// Launches so far of clusters of several blocks.
EXPORTED int64_t emulated_clusters() { return emulation::launches_of_clusters; }

EXPORTED int64_t emulated_launches() { return emulation::launches; }

// Answers of the driver from now on; returns how often it was asked so far.
EXPORTED int64_t emulated_driver(int error, int version) {
  emulation::driver_error = static_cast<cudaError_t>(error);
  emulation::driver_version = version;
  return emulation::driver_questions;
}

EXPORTED int emulated_max_terms() { return ccdn::cuda::kMaxTerms; }

// Parts of the gram matrix's sum, and the length of each but the last.
EXPORTED void emulated_gram_parts(int64_t batch, int64_t side, int64_t free, int64_t* found) {
  const auto parts = ccdn::cuda::GramParts::plan(batch, side, free);
  found[0] = parts.count;
  found[1] = parts.length;
}

EXPORTED int64_t emulated_quotient(int64_t a, int64_t b) { return ccdn::cuda::quotient(a, b); }

// map, plane(b, p), gate(b, p), then of the backward pass of packs of v: tiles, bands, chunks.
EXPORTED void emulated_excite_plan(int64_t batch, int64_t excitations, int64_t channels,
                                   int64_t positions, int channels_last, int v, int64_t b,
                                   int64_t p, int64_t* found) {
  const ccdn::MultiExciteShape shape{ccdn::Dtype::f32,
                                     ccdn::Dtype::f32,
                                     batch,
                                     excitations,
                                     channels,
                                     positions,
                                     channels_last != 0,
                                     channels * positions,
                                     channels_last ? channels : positions};
  const ccdn::cuda::MultiExciteExtents e(shape);
  const ccdn::cuda::MultiExciteBlocks blocks(e, shape.channels_last, v, 4);
  for (int64_t value : {e.map(), e.plane(b, p), e.gate(b, p), blocks.tiles, blocks.bands,
                        blocks.chunks, blocks.columns, blocks.rows}) {
    *found++ = value;
  }
}

// 1: products of TF32 have the first of their three terms alone.
EXPORTED void emulated_tf32_terms(int terms) { emulation::tf32_terms = terms; }

EXPORTED float emulated_to_tf32(float value) { return ccdn::cuda::to_tf32(value); }

EXPORTED void emulated_triangle_tile(int64_t number, int64_t* found) {
  const ccdn::cuda::TriangleTile tile(number);
  found[0] = tile.row;
  found[1] = tile.column;
}

EXPORTED int64_t emulated_panel_place(int64_t i, int64_t j, int64_t n) {
  return ccdn::cuda::panel_place<float>(i, j, n);
}
