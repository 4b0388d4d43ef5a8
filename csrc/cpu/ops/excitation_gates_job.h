// What excitation_gates' schedule and its kernels (one set for each instruction set) agree on.
//
// A network is one excitation and one order; g = p * orders + o counts them.
#pragma once

#include <array>

#include "common/excitation_gates.h"
#include "cpu/engine/dispatch.h"

namespace ccdn {

constexpr int64_t kGateRows = 32;  // rows of a weight that a unit of work takes

struct ExcitationGatesJob {
  const ExcitationGatesShape* shape;
  const void* squeezes[2];  // (B, D), in shape->dtype
  ExcitationGatesWeights weights;
  void *gates, *hidden, *scales;
  const void* grad_gates;
  ExcitationGatesGrads grads;
  // The squeezes widened (O, B, D), where they have 16 bits and products read them; else null.
  void* squeezes_wide;
  // Forward: samples in the lanes of vectors, for which they are transposed and padded, or (with
  // `dot`) channels and hidden units in the lanes. Few samples fill no vector.
  bool dot;
  int64_t padded;         // samples
  void* squeezes_turned;  // (O, D, padded)
  void* hidden_turned;    // (P, O, R, padded)
  // Backward.
  void* grad_logits;  // (B, P, O, D), before the sigmoid
  void* grad_hidden;  // (B, P, O, R), before the ReLU
};

// One unit of a phase. Forward: squeezes (o, block of D), which turns or widens them; hidden (g,
// block of R); gates (p, block of D). Backward: logits (g, block of D); hidden (g, block of R);
// squeezes (o, block of D).
using ExcitationGatesPhase = void (*)(const ExcitationGatesJob& job, int64_t outer, int64_t block);

struct ExcitationGatesKernels {
  using Phases = std::array<ExcitationGatesPhase, 3>;

  int64_t lanes[2];                // of float and of double
  Phases forward[4], backward[4];  // by Dtype
};

CCDN_DECLARE_KERNELS(ExcitationGatesKernels, excitation_gates_kernels)

}  // namespace ccdn
