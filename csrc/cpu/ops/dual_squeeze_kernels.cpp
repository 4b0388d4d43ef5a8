// The kernels of dual_squeeze for one instruction set.
#include "cpu/engine/isa.h"
//
#include "cpu/ops/dual_squeeze_backward.h"
#include "cpu/ops/dual_squeeze_forward.h"

namespace ccdn {
namespace CCDN_ISA {
namespace {

template <class T>
int64_t bytes(const DualSqueezeShape& shape, bool backward, int threads) {
  const Sizes sizes(shape, kPanel<T>);
  Arena arena(nullptr);
  if (!backward) {
    ForwardMemory<T>(arena, sizes);
    return arena.used();
  }
  BackwardMemory<T>(arena, sizes, shape.saves_gram);
  return arena.used() + threads * Workers<T>(nullptr, sizes).bytes;
}

}  // namespace

const DualSqueezeKernels& dual_squeeze_kernels() {
  static const DualSqueezeKernels kernels{
      CCDN_SAMPLE_TASKS(DualSqueezeJob, forward),
      CCDN_SAMPLE_TASKS(DualSqueezeJob, backward),
      {bytes<float>, bytes<double>},
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
