// dual_squeeze for the compiler's baseline: SSE2, NEON, or what the platform has.
#define CCDN_ISA isa_base
#define CCDN_TARGET
#define CCDN_VECTOR_BYTES 16

#include "cpu/dual_squeeze_kernels.h"

const ccdn::Kernels& ccdn::dual_squeeze_kernels_base() { return isa_base::dual_squeeze_kernels(); }
