// Finds races of a kernel's threads, whatever the order in which they run: GCC calls a function for
// every read and write of what is compiled with -fsanitize=thread, and these are here instead of in
// its library. All bytes remember who has touched them last.
//
// Two accesses to a byte, one of them a write, are a race when they come from two threads of a
// block with no __syncthreads() between, or from two blocks of one launch. So is any access to
// bytes that an asynchronous copy has not been waited for. A read of shared memory that the block
// has not written is an error as well. That mma.sync brings the lanes of a warp together orders no
// memory.
#include "races.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

// Of the linker: this library's first byte, and its variables, among which shared memory is.
extern "C" __attribute__((visibility("hidden"))) const char __ehdr_start[], __bss_start[], _end[];

namespace emulation::races {
namespace {

constexpr unsigned kSeveral = ~0u;

struct Access {
  unsigned launch = 0, block = 0, interval = 0, thread = 0, place = 0;  // place: of the code
};

// Two bytes: no type of the kernels is smaller.
constexpr uintptr_t kBytes = 2, kPageBytes = 4096;
struct Cell {
  Access write, read;
  unsigned copied_by = 0;  // the thread whose copy is under way, plus one
};
struct Page {
  Cell cells[kPageBytes / kBytes];
};

bool on = false;
Access now;
const char *stack_begin = nullptr, *stack_end = nullptr;
std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
uintptr_t last_number = 0;
Page* last_page = nullptr;
std::set<std::tuple<std::string, unsigned, unsigned>> reported;
std::string report;

Cell& cell_at(uintptr_t address) {
  const uintptr_t number = address / kPageBytes;
  if (last_page == nullptr || number != last_number) {
    std::unique_ptr<Page>& page = pages[number];
    if (!page) page = std::make_unique<Page>();
    last_number = number;
    last_page = page.get();
  }
  return last_page->cells[address % kPageBytes / kBytes];
}

void say(const char* what, const Access& first) {
  if (reported.size() >= 50 || !reported.insert({what, first.place, now.place}).second) return;
  char line[200];
  std::snprintf(line, sizeof(line), "%s: @%x of thread %d of block %d, then @%x of %u of %u\n",
                what, first.place, int(first.thread), int(first.block), now.place, now.thread,
                now.block);
  report += line;
}

// What every block has of its own; threadIdx and its like are the emulation's.
bool is_shared(const char* address) {
  for (const dim3* own : {&threadIdx, &blockIdx, &blockDim, &gridDim}) {
    const char* begin = reinterpret_cast<const char*>(own);
    if (address >= begin && address < begin + sizeof(dim3)) return false;
  }
  return address >= __bss_start && address < _end;
}

bool in_this_block(const Access& other) {
  return other.launch == now.launch && other.block == now.block;
}

// Whether an access of this launch is not ordered before the current one.
bool unordered(const Access& other, bool shared) {
  if (other.launch != now.launch) return false;
  if (other.block != now.block) return !shared;
  return other.interval == now.interval && other.thread != now.thread;
}

void touch_cell(uintptr_t address, bool write) {
  Cell& cell = cell_at(address);
  const bool shared = is_shared(reinterpret_cast<const char*>(address));
  if (cell.copied_by != 0 && in_this_block(cell.write)) {
    say(write ? "a write into a copy under way" : "a read of a copy under way", cell.write);
  }
  if (unordered(cell.write, shared)) say(write ? "write, write" : "write, read", cell.write);
  if (write) {
    if (unordered(cell.read, shared)) say("read, write", cell.read);
    cell.write = now;
    cell.copied_by = 0;
    return;
  }
  if (shared && !in_this_block(cell.write)) say("a read of what was not written", now);
  // Of several readers the record says so, because a write must be behind all of them.
  Access reader = now;
  const Access& before = cell.read;
  if (before.launch == now.launch && !shared && before.block != now.block) {
    reader.block = kSeveral;
  } else if (in_this_block(before) && before.interval == now.interval &&
             before.thread != now.thread) {
    reader.thread = kSeveral;
  }
  cell.read = reader;
}

void touch_from(const void* place, const volatile void* address, size_t size, bool write) {
  const char* begin = const_cast<const char*>(static_cast<const volatile char*>(address));
  if (!on || (begin >= stack_begin && begin < stack_end)) return;
  now.place = unsigned(static_cast<const char*>(place) - 1 - __ehdr_start);
  const auto first = reinterpret_cast<uintptr_t>(begin) / kBytes;
  const auto last = (reinterpret_cast<uintptr_t>(begin) + size - 1) / kBytes;
  for (uintptr_t at = first; at <= last; ++at) touch_cell(at * kBytes, write);
}

}  // namespace

void launch_begins() { ++now.launch; }

void block_begins(unsigned block) {
  now.block = block;
  now.interval = 0;
}

void all_have_met() { ++now.interval; }

void thread_runs(unsigned thread, const char* stack, const char* end) {
  now.thread = thread;
  stack_begin = stack;
  stack_end = end;
}

bool watching(bool value) { return std::exchange(on, value); }

void copy_begins(const void* to, const void* from, bool inside) {
  const void* place = __builtin_return_address(0);
  on = true;
  if (inside) touch_from(place, from, 16, false);
  touch_from(place, to, 16, true);
  on = false;
  const auto begin = reinterpret_cast<uintptr_t>(to);
  for (uintptr_t at = begin; at < begin + 16; at += kBytes) cell_at(at).copied_by = now.thread + 1;
}

void copy_ends(const void* to) {
  const auto begin = reinterpret_cast<uintptr_t>(to);
  for (uintptr_t at = begin; at < begin + 16; at += kBytes) {
    Cell& cell = cell_at(at);
    if (cell.copied_by != now.thread + 1 || !in_this_block(cell.write)) continue;
    const unsigned place = cell.write.place;
    cell.write = now;
    cell.write.place = place;
    cell.copied_by = 0;
  }
}

}  // namespace emulation::races

// What was found since the last call.
extern "C" __attribute__((visibility("default"))) const char* emulated_races() {
  using namespace emulation::races;
  static std::string text;
  text = std::exchange(report, "");
  reported.clear();
  pages.clear();
  last_page = nullptr;
  return text.c_str();
}

// What GCC calls ----------------------------------------------------------------------------------

#define CCDN_TOUCH(name, size, write)                                                \
  extern "C" void name(void* address) {                                              \
    emulation::races::touch_from(__builtin_return_address(0), address, size, write); \
  }
#define CCDN_TOUCHES(size)                             \
  CCDN_TOUCH(__tsan_read##size, size, false)           \
  CCDN_TOUCH(__tsan_write##size, size, true)           \
  CCDN_TOUCH(__tsan_unaligned_read##size, size, false) \
  CCDN_TOUCH(__tsan_unaligned_write##size, size, true)

CCDN_TOUCHES(1)
CCDN_TOUCHES(2)
CCDN_TOUCHES(4)
CCDN_TOUCHES(8)
CCDN_TOUCHES(16)

extern "C" void __tsan_read_range(void* address, size_t size) {
  emulation::races::touch_from(__builtin_return_address(0), address, size, false);
}
extern "C" void __tsan_write_range(void* address, size_t size) {
  emulation::races::touch_from(__builtin_return_address(0), address, size, true);
}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
extern "C" void __tsan_init() {}
// Of static variables, whether they are made already.
extern "C" unsigned char __tsan_atomic8_load(const volatile unsigned char* from, int) {
  return *from;
}
