// Stands in for csrc/cuda/instructions.cuh: what the PTX ISA says of its instructions, in C++.
//
// Products are as tensor cores make them: the products of one instruction and what they are added
// to are summed as if exactly, then rounded towards zero. Copies are made when they are waited for.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstring>

namespace emulation {

// 1: what TF32 rounds off is lost, as if products had one term instead of three.
inline int tf32_terms = 3;

inline float of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float towards_zero(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, 8);
  bits &= ~((uint64_t(1) << 29) - 1);
  double cut;
  std::memcpy(&cut, &bits, 8);
  return float(cut);
}

// What the lanes of a warp give to an instruction: one is filled while the last one is still read.
struct Operands {
  uint32_t a[32][8][4], b[32][8][2];
};
inline Operands& operands(unsigned warp, bool odd) {
  static Operands all[kMostThreads / 32][2];
  return all[warp][odd];
}

// The entry of a or b at a place, by the tables of the PTX ISA: `groupID` is the row of a (the
// column of b) modulo 8, `threadID_in_group` counts along the depth.
inline float entry_tf32(const uint32_t (&fragment)[32][8][4], int tile, int row, int k) {
  return of_bits(fragment[row % 8 * 4 + k % 4][tile][(row >= 8) + 2 * (k >= 4)]);
}
inline float entry_tf32(const uint32_t (&fragment)[32][8][2], int tile, int k, int column) {
  return of_bits(fragment[column * 4 + k % 4][tile][k >= 4]);
}
inline float half_of(uint32_t pair, int k) {
  return of_bits(k % 2 ? pair & 0xFFFF0000u : pair << 16);
}
inline float entry_bf16(const uint32_t (&fragment)[32][8][4], int tile, int row, int k) {
  return half_of(fragment[row % 8 * 4 + k % 8 / 2][tile][(row >= 8) + 2 * (k >= 8)], k);
}
inline float entry_bf16(const uint32_t (&fragment)[32][8][2], int tile, int k, int column) {
  return half_of(fragment[column * 4 + k % 8 / 2][tile][k >= 8], k);
}

template <int kDepth, int kRows, int kColumns, typename A, typename B>
void multiply(float (&sum)[kRows][kColumns][4], const uint32_t (&a)[kRows][4],
              const uint32_t (&b)[kColumns][2], A entry_of_a, B entry_of_b) {
  const races::Unwatched meanwhile;
  const unsigned lane = threadIdx.x % 32, warp = thread_of_cluster() / 32;
  Operands& all = operands(warp, turn_of_warp() % 2);
  std::memcpy(all.a[lane], a, sizeof(a));
  std::memcpy(all.b[lane], b, sizeof(b));
  sync_warp();
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int row = int(lane) / 4 + (e >= 2 ? 8 : 0), column = int(lane) % 4 * 2 + e % 2;
        double total = sum[i][j][e];
        for (int k = 0; k < kDepth; ++k) {
          total += double(entry_of_a(all.a, i, row, k)) * double(entry_of_b(all.b, j, k, column));
        }
        sum[i][j][e] = towards_zero(total);
      }
    }
  }
}

// Matrices of 8 x 8 numbers of 16 bits: four, whose rows the lanes name. A lane reads its row.
struct MatrixRows {
  uint16_t row[32][8];
};
inline void load_matrices(uint32_t (&to)[4], const void* row, bool turned) {
  static MatrixRows all[kMostThreads / 32][2];
  using Number __attribute__((may_alias)) = uint16_t;  // they may be halves of float32
  const auto* numbers = static_cast<const Number*>(row);
  uint16_t mine[8];
  for (int e = 0; e < 8; ++e) mine[e] = numbers[e];  // watched, as a kernel's own read
  const races::Unwatched meanwhile;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) __builtin_trap();
  const unsigned lane = threadIdx.x % 32, warp = thread_of_cluster() / 32;
  MatrixRows& rows = all[warp][turn_of_warp() % 2];
  std::memcpy(rows.row[lane], mine, sizeof(mine));
  sync_warp();
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned r = lane / 4, c = lane % 4 * 2;
    const uint32_t first = turned ? rows.row[8 * i + c][r] : rows.row[8 * i + r][c];
    const uint32_t second = turned ? rows.row[8 * i + c + 1][r] : rows.row[8 * i + r][c + 1];
    to[i] = first | second << 16;
  }
}

struct Copy {
  void* to;
  const void* from;
  bool inside;
};
inline std::vector<std::vector<Copy>>& copies_of_thread() {
  static std::vector<std::vector<Copy>> groups[kMostThreads];
  return groups[thread_of_cluster()];
}

}  // namespace emulation

namespace ccdn::cuda {

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float bits_float(uint32_t bits) { return emulation::of_bits(bits); }

inline float to_tf32(float value) {
  if (!std::isfinite(value)) return value;
  return emulation::of_bits((float_bits(value) + (1u << 12)) & 0xFFFFE000u);
}

inline float tf32_part(float value) {
  return emulation::of_bits((float_bits(value) + 0x1000u) & 0xFFFFE000u);
}

inline float tf32_rest(float value, float part) {
  const emulation::races::Unwatched meanwhile;
  if (emulation::tf32_terms == 1) return 0.f;
  return emulation::of_bits(float_bits(value - part) & 0xFFFFE000u);
}

template <int kRows, int kColumns>
void multiply_tf32(float (&sum)[kRows][kColumns][4], const uint32_t (&a)[kRows][4],
                   const uint32_t (&b)[kColumns][2]) {
  emulation::multiply<8>(
      sum, a, b,
      [](const auto& f, int t, int r, int k) { return emulation::entry_tf32(f, t, r, k); },
      [](const auto& f, int t, int k, int c) { return emulation::entry_tf32(f, t, k, c); });
}

template <int kRows, int kColumns>
void multiply_bf16(float (&sum)[kRows][kColumns][4], const uint32_t (&a)[kRows][4],
                   const uint32_t (&b)[kColumns][2]) {
  emulation::multiply<16>(
      sum, a, b,
      [](const auto& f, int t, int r, int k) { return emulation::entry_bf16(f, t, r, k); },
      [](const auto& f, int t, int k, int c) { return emulation::entry_bf16(f, t, k, c); });
}

inline void load_matrices(uint32_t (&to)[4], const void* row) {
  emulation::load_matrices(to, row, false);
}

inline void load_matrices_turned(uint32_t (&to)[4], const void* row) {
  emulation::load_matrices(to, row, true);
}

inline uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  uint32_t pair = 0;
  for (int k = 0; k < 2; ++k) {
    const float difference = emulation::half_of(a, k) - emulation::half_of(b, k);
    pair |= uint32_t(__float2bfloat16(difference).bits) << 16 * k;
  }
  return pair;
}

inline void copy_async(void* to, const void* from, bool inside) {
  const emulation::races::Unwatched meanwhile;
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0) {
    __builtin_trap();
  }
  emulation::races::copy_begins(to, from, inside);
  auto& groups = emulation::copies_of_thread();
  if (groups.empty()) groups.emplace_back();
  groups.back().push_back({to, from, inside});
}

inline void commit_copies() {
  const emulation::races::Unwatched meanwhile;
  emulation::copies_of_thread().emplace_back();
}

template <int kGroups>
void wait_for_copies() {
  const emulation::races::Unwatched meanwhile;
  // The last list is not committed yet.
  auto& groups = emulation::copies_of_thread();
  while (groups.size() > kGroups + 1) {
    for (const emulation::Copy& copy : groups.front()) {
      if (copy.inside) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
      emulation::races::copy_ends(copy.to);
    }
    groups.erase(groups.begin());
  }
}

inline double from_lane(double value, int mask) {
  const emulation::races::Unwatched meanwhile;
  using namespace emulation;
  static double values[kMostThreads / 32][2][32];
  const unsigned lane = threadIdx.x % 32, warp = thread_of_cluster() / 32;
  auto& all = values[warp][turn_of_warp() % 2];
  all[lane] = value;
  sync_warp();
  return all[lane ^ unsigned(mask)];
}

inline void wait_for_last_launch() {
  const emulation::races::Unwatched meanwhile;
  ++emulation::threads_that_waited;
}

inline int made_here(int value) { return value; }

constexpr bool has_clusters(int blocks) { return blocks >= 1; }

// In the library's own memory, where shared memory is.
inline unsigned char (&memory_of_blocks()) [emulation::kMostBlocks][emulation::kBytesOfBlock] {
  alignas(16) static unsigned char all[emulation::kMostBlocks][emulation::kBytesOfBlock];
  return all;
}

template <typename Memory>
Memory& block_memory() {
  static_assert(sizeof(Memory) <= emulation::kBytesOfBlock);
  const emulation::races::Unwatched meanwhile;
  return *reinterpret_cast<Memory*>(memory_of_blocks()[blockIdx.x - emulation::first_block]);
}

template <int kBlocks>
int cluster_rank() {
  const emulation::races::Unwatched meanwhile;
  if (kBlocks != emulation::cluster_blocks) __builtin_trap();
  return int(blockIdx.x % kBlocks);
}

template <int kBlocks>
void cluster_barrier() {
  const emulation::races::Unwatched meanwhile;
  if (kBlocks != emulation::cluster_blocks) __builtin_trap();
  emulation::wait_at(emulation::Block::State::at_block);
}

template <int kBlocks, typename Number>
Number* of_block(Number* mine, int rank) {
  const emulation::races::Unwatched meanwhile;
  auto& all = memory_of_blocks();
  const auto distance = reinterpret_cast<unsigned char*>(mine) - &all[0][0];
  if (rank < 0 || rank >= int(emulation::cluster_blocks) || distance < 0) __builtin_trap();
  return reinterpret_cast<Number*>(all[rank] + distance % emulation::kBytesOfBlock);
}

// What mbarrier counts: bytes that are expected and have not arrived, and the phases so far. All
// threads of the cluster wait for every phase, so that waiting is a barrier here.
struct Arrivals {
  int32_t missing, phases;
};
static_assert(sizeof(Arrivals) == sizeof(uint64_t));

inline void begin_arrivals(uint64_t* arrivals) {
  const emulation::races::Unwatched meanwhile;
  *reinterpret_cast<Arrivals*>(arrivals) = {0, 0};
}

inline void expect_arrivals(uint64_t* arrivals, int bytes) {
  const emulation::races::Unwatched meanwhile;
  auto& own = *reinterpret_cast<Arrivals*>(arrivals);
  own.missing += bytes;
  ++own.phases;
}

inline void wait_for_arrivals(uint64_t* arrivals, int parity) {
  const emulation::races::Unwatched meanwhile;
  emulation::wait_at(emulation::Block::State::at_block);
  const auto& own = *reinterpret_cast<Arrivals*>(arrivals);
  if (own.missing != 0 || (own.phases - 1) % 2 != parity) __builtin_trap();
}

template <typename Number>
void send(Number* mine, Number value, uint64_t* arrivals, int rank) {
  Number* to = of_block<0>(mine, rank);
  {
    const emulation::races::Unwatched meanwhile;
    auto& theirs = *reinterpret_cast<Arrivals*>(of_block<0>(arrivals, rank));
    theirs.missing -= int32_t(sizeof(Number));
  }
  *to = value;
}

}  // namespace ccdn::cuda
