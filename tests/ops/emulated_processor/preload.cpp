// Loaded before BochsCPU's module: a processor with AVX-512 and AVX512-BF16 instead of its own
// choice, and two functions of glibc 2.38 that it asks for, where glibc is older. BOCHS_MODULE is that module's path.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace {

void* sapphire_rapids(void* cpu) {
  using Create = void* (*)(void*);
  static const Create create = [] {
    void* module = dlopen(BOCHS_MODULE, RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Create>(dlsym(module, "_Z28create_sapphire_rapids_cpuidP8BX_CPU_C"));
  }();
  return create(cpu);
}

}  // namespace

extern "C" {

void* _Z23create_corei3_cnl_cpuidP8BX_CPU_C(void* cpu) { return sapphire_rapids(cpu); }

#if !__GLIBC_PREREQ(2, 38)
unsigned long long __isoc23_strtoull(const char* text, char** end, int base) {
  return std::strtoull(text, end, base);
}

int __isoc23_sscanf(const char* text, const char* format, ...) {
  va_list values;
  va_start(values, format);
  const int found = std::vsscanf(text, format, values);
  va_end(values);
  return found;
}
#endif
}
