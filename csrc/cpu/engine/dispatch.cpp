#include "cpu/engine/dispatch.h"

#include <cstdlib>
#include <cstring>

#ifdef CCDN_X86_CLONES
#include <cpuid.h>
#endif

namespace ccdn {

#ifdef CCDN_X86_CLONES
namespace {

// Conversions of float16; not every compiler's __builtin_cpu_supports knows them.
bool has_f16c() noexcept {
  unsigned a, b, c = 0, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

bool has_avx512_bf16() noexcept {
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

}  // namespace
#endif

namespace {

bool wants(const char* name) noexcept {
  const char* limit = std::getenv("CCDN_CPU_ISA");
  return limit && std::strcmp(limit, name) == 0;
}

}  // namespace

Isa isa() noexcept {
#ifdef CCDN_X86_CLONES
  static const Isa best = [] {
    const bool no_v3 = wants("base"), no_v4 = no_v3 || wants("x86-64-v3");
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && has_f16c();
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    if (v4 && !no_v4) return Isa::x86_64_v4;
    if (v3 && !no_v3) return Isa::x86_64_v3;
    return Isa::base;
  }();
  return best;
#else
  return Isa::base;
#endif
}

Pairs bf16_pairs() noexcept {
  static const Pairs pairs = [] {
#ifdef CCDN_X86_CLONES
    const bool limited = wants("x86-64-v4") || isa() != Isa::x86_64_v4;
    if (!limited && has_avx512_bf16()) return Pairs::instruction;
#endif
    return wants("avx512-bf16") ? Pairs::emulated : Pairs::off;
  }();
  return pairs;
}

}  // namespace ccdn
