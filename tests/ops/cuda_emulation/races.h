// What the emulation tells races.cpp, which watches every read and write of a kernel's threads
// where the emulation is built with `races`; else all of this is nothing.
#pragma once

namespace emulation::races {

#ifdef CCDN_RACES
void launch_begins();
void block_begins(unsigned block);
void all_have_met();  // at a barrier of the block
void thread_runs(unsigned thread, const char* stack, const char* stack_end);
// Whether what runs is a kernel's own code. Returns what was said before.
bool watching(bool on);
// 16 bytes that a copy may write at any time from here on, until it is waited for.
void copy_begins(const void* to, const void* from, bool inside);
void copy_ends(const void* to);
#else
inline void launch_begins() {}
inline void block_begins(unsigned) {}
inline void all_have_met() {}
inline void thread_runs(unsigned, const char*, const char*) {}
inline bool watching(bool) { return false; }
inline void copy_begins(const void*, const void*, bool) {}
inline void copy_ends(const void*) {}
#endif

// The emulation's own code, within a kernel's.
struct Unwatched {
  const bool before = watching(false);
  Unwatched() = default;
  Unwatched(const Unwatched&) = delete;
  ~Unwatched() { watching(before); }
};

}  // namespace emulation::races
