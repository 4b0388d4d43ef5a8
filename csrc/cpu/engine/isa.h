// One instruction set's share of the CPU kernels.
//
// setup.py compiles every csrc/cpu/ops/*_kernels.cpp once for each instruction set, with
// CCDN_ISA_LEVEL 0 (the compiler's baseline: SSE2, NEON, or what the platform has), 3 (x86-64-v3:
// AVX2, FMA) or 4 (x86-64-v4: AVX-512). Such a file includes this one first and puts everything
// into the namespace CCDN_ISA; cpu/engine/dispatch.h picks one at run time. target_clones would be
// simpler, but GCC lowers vector arithmetic before it inlines.
#pragma once

#ifndef CCDN_ISA_LEVEL
#error "compile csrc/cpu/ops/*_kernels.cpp with -DCCDN_ISA_LEVEL=0, 3 or 4"
#endif

#if CCDN_ISA_LEVEL == 4
#define CCDN_ISA isa_x86_64_v4
#define CCDN_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2")))
#define CCDN_VECTOR_BYTES 64
#elif CCDN_ISA_LEVEL == 3
#define CCDN_ISA isa_x86_64_v3
#define CCDN_TARGET __attribute__((target("avx2,fma,f16c,bmi,bmi2")))
#define CCDN_VECTOR_BYTES 32
#else
#define CCDN_ISA isa_base
#define CCDN_TARGET
#define CCDN_VECTOR_BYTES 16
#endif
