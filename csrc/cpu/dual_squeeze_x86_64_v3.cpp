// dual_squeeze for x86-64-v3: AVX2 and FMA.
#include "cpu/dual_squeeze_job.h"

#ifdef CCDN_X86_CLONES

#define CCDN_ISA isa_x86_64_v3
#define CCDN_TARGET __attribute__((target("avx2,fma,f16c,bmi,bmi2")))
#define CCDN_VECTOR_BYTES 32

#include "cpu/dual_squeeze_kernels.h"

const ccdn::Kernels& ccdn::dual_squeeze_kernels_x86_64_v3() {
  return isa_x86_64_v3::dual_squeeze_kernels();
}

#endif
