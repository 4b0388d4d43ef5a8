// The kernels of excitation_gates.cu: products of small tiles, all networks in one launch.
//
// Network n = p O + o has the weights reduce[n] (R, D) and expand[n] (D, R). A launch has pieces of
// several kinds, one kind behind the other.
#pragma once

#include <cstdint>
#include <cuda/instructions.cuh>

#include "element.cuh"
#include "line_sum.cuh"
#include "pack.cuh"
#include "tile_product.cuh"

namespace ccdn::cuda {

static_assert(kLineThreads == kTileThreads, "kernels here take both sums and products");

template <typename Acc>
struct GatesArguments {
  int64_t batch, excitations, orders, channels, units;
  const Acc *first, *second;  // (B, D)
  const Acc *reduce, *reduce_bias, *expand, *expand_bias;
  Acc* gates;   // (B, P, D)
  Acc* hidden;  // (B, P, O, R); read backward, as scales
  Acc* scales;  // (B, P, O, D)
  // Backward.
  const Acc* grad_gates;
  Acc* grad_hidden;  // (B, P, O, R), the workspace
  Acc *grad_first, *grad_second;
  Acc *grad_reduce, *grad_reduce_bias, *grad_expand, *grad_expand_bias;

  __host__ __device__ int64_t networks() const { return excitations * orders; }
  __host__ __device__ int64_t hidden_at(int64_t b, int64_t n) const {
    return (b * networks() + n) * units;
  }
  __host__ __device__ int64_t scales_at(int64_t b, int64_t n) const {
    return (b * networks() + n) * channels;
  }
  __device__ const Acc* squeeze(int64_t order) const { return order ? second : first; }
  // The gradient with respect to what goes into the sigmoid.
  __device__ Acc grad_logit(int64_t b, int64_t n, int64_t d) const {
    const Acc scale = scales[scales_at(b, n) + d];
    return grad_gates[(b * excitations + n / orders) * channels + d] * scale * (1 - scale);
  }
};

// A grid of small tiles for each of `count` products of rows x columns.
struct TileGrid {
  int64_t count, down, across;

  __host__ __device__ TileGrid(int64_t count, int64_t rows, int64_t columns)
      : count(count), down(tiles(rows, kSmallTile)), across(tiles(columns, kSmallTile)) {}
  __host__ __device__ int64_t pieces() const { return count * down * across; }
  __device__ int64_t product(int64_t piece) const { return quotient(piece, down * across); }
  __device__ int64_t row(int64_t piece) const {
    return quotient(piece, across) % down * kSmallTile;
  }
  __device__ int64_t column(int64_t piece) const { return piece % across * kSmallTile; }
};

// sums[i] = the sum over the batch of value(i, b), for the lines of one piece of 32.
template <typename Acc, typename Value>
__device__ void batch_sums(int64_t piece, int64_t count, int64_t batch, Acc* sums, Value value) {
  const int64_t line0 = piece * lines_of_block(false);
  const double sum = line_sum(line0, count, batch, false, value);
  const int64_t line = line0 + threadIdx.x;
  if (threadIdx.x < static_cast<unsigned>(lines_of_block(false)) && line < count) {
    sums[line] = Acc(sum);
  }
}

// Forward, first. Piece: a tile (samples, units) of a network's hidden.
template <typename Acc>
__global__ void __launch_bounds__(kTileThreads, 2) gates_reduce(GatesArguments<Acc> p) {
  wait_for_last_launch();
  const TileGrid grid(p.networks(), p.batch, p.units);
  for (int64_t piece = blockIdx.x; piece < grid.pieces(); piece += gridDim.x) {
    const int64_t n = grid.product(piece);
    const Acc* squeeze = p.squeeze(n % p.orders);
    const Acc* weight = p.reduce + n * p.units * p.channels;
    tile_product<Acc, kSmallTile>(
        grid.row(piece), p.batch, grid.column(piece), p.units, p.channels,
        TileOrder{true, true, false},
        [&](int64_t b, int64_t d) { return squeeze[b * p.channels + d]; },
        [&](int64_t d, int64_t r) { return weight[r * p.channels + d]; },
        [&](int64_t b, int64_t r, Acc sum) {
          const Acc value = sum + p.reduce_bias[n * p.units + r];
          p.hidden[p.hidden_at(b, n) + r] = value <= 0 ? Acc(0) : value;  // NaN stays
        });
  }
}

// Forward, second. Piece: a tile (samples, channels) of an excitation's gates.
template <typename Acc>
__global__ void __launch_bounds__(kTileThreads, 2) gates_expand(GatesArguments<Acc> p) {
  wait_for_last_launch();
  const TileGrid grid(p.excitations, p.batch, p.channels);
  for (int64_t piece = blockIdx.x; piece < grid.pieces(); piece += gridDim.x) {
    const int64_t excitation = grid.product(piece);
    for (int64_t order = 0; order < p.orders; ++order) {
      const int64_t n = excitation * p.orders + order;
      const Acc* weight = p.expand + n * p.channels * p.units;
      tile_product<Acc, kSmallTile>(
          grid.row(piece), p.batch, grid.column(piece), p.channels, p.units,
          TileOrder{true, true, false},
          [&](int64_t b, int64_t r) { return p.hidden[p.hidden_at(b, n) + r]; },
          [&](int64_t r, int64_t d) { return weight[d * p.units + r]; },
          [&](int64_t b, int64_t d, Acc sum) {
            const Acc logit = sum + p.expand_bias[n * p.channels + d];
            const Acc scale = Acc(1) / (Acc(1) + Acc(exp(-logit)));
            p.scales[p.scales_at(b, n) + d] = scale;
            // The same thread has written it for the order before.
            Acc* gate = p.gates + (b * p.excitations + excitation) * p.channels + d;
            *gate = order ? *gate + scale : scale;
          });
    }
  }
}

// Backward, first. Pieces: tiles of the gradient of hidden, then of expand, then of expand_bias.
template <typename Acc>
__global__ void __launch_bounds__(kTileThreads, 2) gates_expand_backward(GatesArguments<Acc> p) {
  wait_for_last_launch();
  const TileGrid hidden(p.networks(), p.batch, p.units);
  const TileGrid weights(p.networks(), p.channels, p.units);
  const int64_t biases = p.networks() * p.channels;
  const int64_t pieces =
      hidden.pieces() + weights.pieces() + round_up_quotient(biases, lines_of_block(false));
  for (int64_t at = blockIdx.x; at < pieces; at += gridDim.x) {
    int64_t piece = at;
    if (piece < hidden.pieces()) {
      const int64_t n = hidden.product(piece);
      const Acc* weight = p.expand + n * p.channels * p.units;
      tile_product<Acc, kSmallTile>(
          hidden.row(piece), p.batch, hidden.column(piece), p.units, p.channels,
          TileOrder{true, false, false},
          [&](int64_t b, int64_t d) { return p.grad_logit(b, n, d); },
          [&](int64_t d, int64_t r) { return weight[d * p.units + r]; },
          [&](int64_t b, int64_t r, Acc sum) {
            const int64_t place = p.hidden_at(b, n) + r;
            p.grad_hidden[place] = p.hidden[place] <= 0 ? Acc(0) : sum;
          });
      continue;
    }
    piece -= hidden.pieces();
    if (piece < weights.pieces()) {
      const int64_t n = weights.product(piece);
      Acc* gradient = p.grad_expand + n * p.channels * p.units;
      tile_product<Acc, kSmallTile>(
          weights.row(piece), p.channels, weights.column(piece), p.units, p.batch,
          TileOrder{false, false, false},
          [&](int64_t d, int64_t b) { return p.grad_logit(b, n, d); },
          [&](int64_t b, int64_t r) { return p.hidden[p.hidden_at(b, n) + r]; },
          [&](int64_t d, int64_t r, Acc sum) { gradient[d * p.units + r] = sum; });
      continue;
    }
    batch_sums(piece - weights.pieces(), biases, p.batch, p.grad_expand_bias,
               [&](int64_t line, int64_t b) {
                 const int64_t n = quotient(line, p.channels);
                 return double(p.grad_logit(b, n, line - n * p.channels));
               });
  }
}

// Backward, second. Pieces: tiles of the gradient of the squeezes, then of reduce, then of
// reduce_bias.
template <typename Acc>
__global__ void __launch_bounds__(kTileThreads, 2) gates_reduce_backward(GatesArguments<Acc> p) {
  wait_for_last_launch();
  const TileGrid squeezes(p.orders, p.batch, p.channels);
  const TileGrid weights(p.networks(), p.units, p.channels);
  const int64_t biases = p.networks() * p.units;
  const int64_t pieces =
      squeezes.pieces() + weights.pieces() + round_up_quotient(biases, lines_of_block(false));
  for (int64_t at = blockIdx.x; at < pieces; at += gridDim.x) {
    int64_t piece = at;
    if (piece < squeezes.pieces()) {
      const int64_t order = squeezes.product(piece);
      Acc* gradient = order ? p.grad_second : p.grad_first;
      // The sum over excitations and units: the units of network n = p O + order behind each other.
      const auto network = [&](int64_t k) { return quotient(k, p.units) * p.orders + order; };
      tile_product<Acc, kSmallTile>(
          squeezes.row(piece), p.batch, squeezes.column(piece), p.channels, p.excitations * p.units,
          TileOrder{true, false, false},
          [&](int64_t b, int64_t k) {
            return p.grad_hidden[p.hidden_at(b, network(k)) + k % p.units];
          },
          [&](int64_t k, int64_t d) {
            return p.reduce[(network(k) * p.units + k % p.units) * p.channels + d];
          },
          [&](int64_t b, int64_t d, Acc sum) { gradient[b * p.channels + d] = sum; });
      continue;
    }
    piece -= squeezes.pieces();
    if (piece < weights.pieces()) {
      const int64_t n = weights.product(piece);
      const Acc* squeeze = p.squeeze(n % p.orders);
      Acc* gradient = p.grad_reduce + n * p.units * p.channels;
      tile_product<Acc, kSmallTile>(
          weights.row(piece), p.units, weights.column(piece), p.channels, p.batch,
          TileOrder{false, false, false},
          [&](int64_t r, int64_t b) { return p.grad_hidden[p.hidden_at(b, n) + r]; },
          [&](int64_t b, int64_t d) { return squeeze[b * p.channels + d]; },
          [&](int64_t r, int64_t d, Acc sum) { gradient[r * p.channels + d] = sum; });
      continue;
    }
    batch_sums(piece - weights.pieces(), biases, p.batch, p.grad_reduce_bias,
               [&](int64_t line, int64_t b) { return double(p.grad_hidden[b * biases + line]); });
  }
}

}  // namespace ccdn::cuda
