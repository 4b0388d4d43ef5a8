// dual_squeeze for x86-64-v4: AVX-512.
#include "cpu/dual_squeeze_job.h"

#ifdef CCDN_X86_CLONES

#define CCDN_ISA isa_x86_64_v4
#define CCDN_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")))
#define CCDN_VECTOR_BYTES 64

#include "cpu/dual_squeeze_kernels.h"

const ccdn::Kernels& ccdn::dual_squeeze_kernels_x86_64_v4() {
  return isa_x86_64_v4::dual_squeeze_kernels();
}

#endif
