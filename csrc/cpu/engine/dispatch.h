// Which of the instruction sets that the kernels were compiled for (isa.h) this machine runs.
#pragma once

namespace ccdn {

enum class Isa { base, x86_64_v3, x86_64_v4 };

// The best one; CCDN_CPU_ISA=x86-64-v3 or base lowers the choice, for tests and comparisons.
// Constant in a process.
Isa isa() noexcept;

// Products of two pairs of bfloat16 (pair.h): where the processor has the instruction, unless
// CCDN_CPU_ISA names another instruction set. CCDN_CPU_ISA=avx512-bf16 emulates it elsewhere, in
// two products of floats.
enum class Pairs { off, emulated, instruction };

Pairs bf16_pairs() noexcept;

// setup.py defines CCDN_X86_CLONES where it compiles levels 3 and 4.
#ifdef CCDN_X86_CLONES
// Declares `const Table& name()` in the namespace of every instruction set.
#define CCDN_DECLARE_KERNELS(Table, name) \
  namespace isa_base {                    \
  const Table& name();                    \
  }                                       \
  namespace isa_x86_64_v3 {               \
  const Table& name();                    \
  }                                       \
  namespace isa_x86_64_v4 {               \
  const Table& name();                    \
  }
#define CCDN_KERNELS(name)                           \
  (isa() == Isa::x86_64_v4   ? isa_x86_64_v4::name() \
   : isa() == Isa::x86_64_v3 ? isa_x86_64_v3::name() \
                             : isa_base::name())
#else
#define CCDN_DECLARE_KERNELS(Table, name) \
  namespace isa_base {                    \
  const Table& name();                    \
  }
#define CCDN_KERNELS(name) isa_base::name()
#endif

}  // namespace ccdn
