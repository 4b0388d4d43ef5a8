// The kernels of dual_squeeze for one instruction set.
#include "cpu/dual_squeeze_backward.h"
#include "cpu/isa.h"

namespace ccdn {
namespace CCDN_ISA {

const DualSqueezeKernels& dual_squeeze_kernels() {
  static const DualSqueezeKernels kernels{
      {forward<float, float>, forward<double, double>, forward<BFloat16, float>,
       forward<Half, float>},
      {backward<float, float>, backward<double, double>, backward<BFloat16, float>,
       backward<Half, float>},
      forward<float, double, float>,
  };
  return kernels;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
