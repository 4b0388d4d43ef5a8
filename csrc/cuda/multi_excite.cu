// multi_excite on CUDA: out[b, p] = gates[b, p] * x[b], and its gradient.
//
// On a napkin, for e bytes an element and maps of M = D N elements:
//
//   forward    e M (1 + P) bytes a sample, P M multiplications: x once in, P maps out
//   backward   e M (2 + P) bytes, 4 P M operations: x and P gradients in, one out; the sums over
//              positions add at most 2 P M / 2048 numbers where a map takes several blocks
//
// Device memory bounds both by far: at 5 bytes an operation an H200 (4.8 TB/s, 67 TFLOP/s) is 70
// times faster at the operations. (64, 256, 32 x 32) float32, P = 4, forward: 336 MB, 70 us at the
// full rate. So all that matters is that every byte moves once, 16 of them an instruction, enough
// of them in flight. Forward that is one pack a thread: 56 registers leave 1024 threads on a
// multiprocessor of an H200, 16 KB of x on its way, and x is one of the P + 1 maps: its share of
// the full rate takes 6 KB. Backward, several packs a thread.
// Nothing is shared but the gates, so that bulk copies through shared memory have nothing to offer
// here.
//
// Deterministic: no atomics; a gate's gradient is a fixed tree of sums.
#include "cluster_launch.cuh"
#include "launch.cuh"
#include "multi_excite_kernels.cuh"

namespace ccdn {
namespace {

using namespace ccdn::cuda;  // NOLINT: this file is their other half

bool valid(const MultiExciteShape& shape) {
  const Dtype wide = shape.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  return shape.gates_dtype == wide && shape.batch >= 0 && shape.excitations >= 1 &&
         shape.channels >= 1 && shape.positions >= 1;
}

// channels_last reads the gates of a pack at once, so there no pack may cross lines.
template <typename T>
bool packs_forward(const MultiExciteShape& shape) {
  return MultiExciteExtents(shape).packs(kPack<T>, !shape.channels_last);
}

template <typename T>
bool packs_backward(const MultiExciteShape& shape) {
  return MultiExciteExtents(shape).packs(kPack<T>, false);
}

template <typename T, int V, bool kChannelsLast>
Status forward(const MultiExciteShape& shape, const void* x, const void* gates, void* out,
               void* stream) {
  const MultiExciteExtents e(shape);
  Launcher launch(stream);
  launch(excite<T, V, kChannelsLast>, e.batch * round_up_quotient(e.map(), kExciteThreads * V),
         kExciteThreads, e, static_cast<const T*>(x), static_cast<const Accumulator<T>*>(gates),
         static_cast<T*>(out));
  return launch.status();
}

template <typename T, int V, bool kChannelsLast>
Status backward(const MultiExciteShape& shape, const void* grad_out, const void* x,
                const void* gates, void* grad_x, void* grad_gates, void* workspace, void* stream) {
  using Acc = Accumulator<T>;
  const MultiExciteExtents e(shape);
  const MultiExciteBlocks blocks(e, kChannelsLast, V, sizeof(Acc));
  Acc* sums = static_cast<Acc*>(blocks.chunks == 1 ? grad_gates : workspace);
  Launcher launch(stream, overlaps(excite_backward<T, V, kChannelsLast>));
  launch(excite_backward<T, V, kChannelsLast>, e.batch * blocks.tiles * blocks.bands,
         kExciteThreads, e, blocks, static_cast<const T*>(grad_out), static_cast<const T*>(x),
         static_cast<const Acc*>(gates), static_cast<T*>(grad_x), sums);
  if (blocks.chunks > 1) {
    const int64_t entries = e.excitations * e.channels;
    launch(add_chunks<Acc>, round_up_quotient(e.batch * entries, kExciteThreads), kExciteThreads,
           e.batch, blocks.chunks, entries, static_cast<const Acc*>(sums),
           static_cast<Acc*>(grad_gates));
  }
  return launch.status();
}

}  // namespace

int64_t multi_excite_workspace_cuda(const MultiExciteShape& shape) {
  const MultiExciteExtents e(shape);
  const int accumulator = shape.dtype == Dtype::f64 ? 8 : 4;
  // Whether packs can be moved depends on addresses as well: the larger of both.
  int64_t chunks = 1;
  for (int v : {1, 2, 4, 8}) {
    const int64_t found = MultiExciteBlocks(e, shape.channels_last, v, accumulator).chunks;
    chunks = found > chunks ? found : chunks;
  }
  return chunks == 1 ? 0 : e.batch * chunks * e.excitations * e.channels * accumulator;
}

Status multi_excite_forward_cuda(const MultiExciteShape& shape, const void* x, const void* gates,
                                 void* out, void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  if (shape.batch == 0) return Status::ok;
  return for_element(shape.dtype, [&](auto element) {
    using T = decltype(element);
    const bool packs = packs_forward<T>(shape) && aligned(x) && aligned(gates) && aligned(out);
    const auto run =
        packs ? (shape.channels_last ? forward<T, kPack<T>, true> : forward<T, kPack<T>, false>)
              : (shape.channels_last ? forward<T, 1, true> : forward<T, 1, false>);
    return run(shape, x, gates, out, stream);
  });
}

Status multi_excite_backward_cuda(const MultiExciteShape& shape, const void* grad_out,
                                  const void* x, const void* gates, void* grad_x, void* grad_gates,
                                  void* workspace, void* stream) noexcept {
  if (!valid(shape)) return Status::bad_argument;
  if (shape.batch == 0) return Status::ok;
  return for_element(shape.dtype, [&](auto element) {
    using T = decltype(element);
    const bool packs = packs_backward<T>(shape) && aligned(grad_out) && aligned(x) &&
                       aligned(gates) && aligned(grad_x);
    const auto run =
        packs ? (shape.channels_last ? backward<T, kPack<T>, true> : backward<T, kPack<T>, false>)
              : (shape.channels_last ? backward<T, 1, true> : backward<T, 1, false>);
    return run(shape, grad_out, x, gates, grad_x, grad_gates, workspace, stream);
  });
}

}  // namespace ccdn
