// The Newton-Schulz iteration and its derivative, in symmetric products of all samples at once
// (common/newton_schulz_steps.h).
//
// The gradient of <G, f(A)> for a function f of a symmetric matrix is the derivative of f at A in
// the direction of G, because that map is its own adjoint. So the backward pass runs the steps
// forward with their derivatives: d(M N) = dM N + M dN is symmetric too, half of a product of twice
// the depth.
#pragma once

#include <type_traits>

#include "../common/newton_schulz_sqrt.h"
#include "../common/newton_schulz_steps.h"
#include "symmetric_launch.cuh"

namespace ccdn::cuda {

// No matrix is needed seven slots after its own, so that few suffice where none is kept.
constexpr int kLiveSlots = 7;
constexpr int kPoolMatrices = 7;

// Whether K and the precision of an iteration are ones that there are, and whether it saves all of
// its matrices or none.
inline bool valid_iteration(Dtype dtype, bool wide, int iterations, int slots, bool polynomial) {
  if (iterations < 1 || iterations > 10 || (wide && dtype != Dtype::f32)) return false;
  return !slots || (!wide && slots == NewtonSchulzSteps(iterations, polynomial).slots);
}

inline bool valid(const NewtonSchulzShape& s, bool polynomial) {
  return s.batch >= 0 && s.size >= 1 &&
         valid_iteration(s.dtype, s.wide, s.iterations, s.slots, polynomial);
}

// run(element, product): float64 and, `wide`, float32 are iterated in double.
template <typename Run>
Status for_product(Dtype dtype, bool wide, Run run) {
  return for_element(dtype, [&](auto element) {
    using T = decltype(element);
    using Double = std::integral_constant<int, kDouble>;
    if constexpr (sizeof(T) == 8) {
      return run(element, Double{});
    } else {
      if constexpr (sizeof(T) == 4) {
        if (wide) return run(element, Double{});
      }
      return run(element, std::integral_constant<int, kTf32x3>{});
    }
  });
}

template <int kProduct>
class NewtonSchulz {
 public:
  using Acc = ProductAcc<kProduct>;
  const NewtonSchulzSteps steps;

  // `saved` has all slots of every sample, or is null: then the arena has as many as are needed.
  NewtonSchulz(int64_t batch, int64_t n, int iterations, bool polynomial, Acc* saved, bool backward,
               DeviceArena& arena)
      : steps(iterations, polynomial),
        batch_(batch),
        n_(n),
        polynomial_(polynomial),
        count_(saved || backward || steps.slots < kLiveSlots ? steps.slots : kLiveSlots),
        slots_(saved ? saved : arena.take<Acc>(batch * count_ * size())),
        pool_(arena.take<Acc>(backward ? batch * kPoolMatrices * size() : 0)),
        sums_(arena.take<double>(backward ? 2 * batch : 0)) {}

  Matrix<Acc> slot(int k) const { return {slots_ + k % count_ * size(), count_ * size()}; }
  Matrix<Acc> result() const { return slot(steps.result); }

  Matrix<Acc> take() {
    int i = 0;
    while (used_ >> i & 1) ++i;
    used_ |= 1 << i;
    return {pool_ + i * batch_ * size(), size()};
  }

  // Fills the slots from slot 0 on.
  void iterate(Launcher& launch) {
    for (int k = 0; k < steps.count; ++k) {
      const NewtonSchulzStep& s = steps.step[k];
      const Matrix<Acc> w = slot(s.w), out = slot(s.y_out);
      const Matrix<Acc> y = s.y < 0 ? Matrix<Acc>{} : slot(s.y);
      if (!s.two) {
        if (s.y < 0) {
          launch_scale(launch, batch_, n_, w, {}, -0.5, out);
        } else {
          product(launch, y, w, -0.5, {1.5, y}, {-0.5 * s.z, polynomial_ ? w : none()}, out);
        }
        break;  // a single step is the last one
      }
      const Matrix<Acc> e = slot(s.e), x = slot(s.x);
      product(launch, w, w, 1, {-4.5, w}, {}, e);
      product(launch, e, e, 1.0 / 16, {6.75 / 16, e}, {-8.625 / 16, w}, x);
      if (s.v >= 0) product(launch, w, x, 1, {2.25, w}, {}, slot(s.v));
      if (s.y_out != s.x && s.y_out != s.v) {
        product(launch, y, x, 1, {2.25, y}, {s.z, polynomial_ ? x : none()}, out);
      }
      if (s.w_out >= 0) product(launch, slot(s.v), x, 1, {2.25, slot(s.v)}, {}, slot(s.w_out));
    }
    launch_chain(launch);
  }

  // The derivative of the result in a direction, which comes and goes in matrices of the pool.
  Matrix<Acc> derivative(Launcher& launch, Matrix<Acc> direction) {
    Matrix<Acc> dw = direction, dy = polynomial_ ? none() : direction;
    for (int k = 0; k < steps.count; ++k) {
      const NewtonSchulzStep& s = steps.step[k];
      const Matrix<Acc> w = slot(s.w), y = s.y < 0 ? none() : slot(s.y);
      if (!s.two) {
        const Matrix<Acc> out = take();
        if (s.y < 0) {
          launch_scale(launch, batch_, n_, dw, {}, -0.5, out);
        } else {
          products(launch, dy, w, y, dw, -0.5, {1.5, dy}, {-0.5 * s.z, polynomial_ ? dw : none()},
                   out);
        }
        launch_chain(launch);
        return out;
      }
      const Matrix<Acc> e = slot(s.e), x = slot(s.x), de = take(), dx = take();
      products(launch, dw, w, w, dw, 1, {-4.5, dw}, {}, de);
      products(launch, de, e, e, de, 1.0 / 16, {6.75 / 16, de}, {-8.625 / 16, dw}, dx);
      release(de);
      Matrix<Acc> dv = none(), dw_out = none();
      if (s.v >= 0) {
        dv = take();
        products(launch, dw, x, w, dx, 1, {2.25, dw}, {}, dv);
      }
      const Matrix<Acc> dy_out = s.y_out == s.x ? dx : s.y_out == s.v ? dv : take();
      if (s.y_out != s.x && s.y_out != s.v) {
        products(launch, dy, x, y, dx, 1, {2.25, dy}, {s.z, polynomial_ ? dx : none()}, dy_out);
      }
      if (s.w_out >= 0) {
        dw_out = take();
        products(launch, dv, x, slot(s.v), dx, 1, {2.25, dv}, {}, dw_out);
      }
      if (dy.data && dy.data != dw.data) release(dy);
      release(dw);
      if (dx.data != dy_out.data) release(dx);
      if (dv.data && dv.data != dy_out.data) release(dv);
      dw = dw_out;
      dy = dy_out;
    }
    launch_chain(launch);
    return dy;
  }

  // The gradient of <G, sqrt(tr) Y_K(S / tr)>, tr = tr S, with respect to S, times `by`. G is in a
  // matrix of the pool, and so is the result.
  template <typename Trace>
  Matrix<Acc> root_gradient(Launcher& launch, Matrix<Acc> direction, const Trace* traces, double by,
                            double* factors) {
    launch_inner_product(launch, batch_, n_, direction, result(), 0, inner());
    const Matrix<Acc> found = derivative(launch, direction);
    launch_inner_product(launch, batch_, n_, found, slot(0), 0, other());
    const Factors scale = factors_of(launch, batch_, traces, FactorOf::root_gradient, by, 0,
                                     factors, inner(), other());
    launch_scale(launch, batch_, n_, found, scale, 0, found);
    return found;
  }

  double* inner() const { return sums_; }
  double* other() const { return sums_ + batch_; }

  struct Term {
    double by = 0;
    Matrix<Acc> matrix = {};
  };

  void product(Launcher& launch, Matrix<Acc> left, Matrix<Acc> right, double scale, Term u, Term v,
               Matrix<Acc> out) {
    products(launch, left, right, none(), none(), scale, u, v, out);
  }

  // out = scale (left right + left2 right2) + u + v: launched, or put to the chain.
  void products(Launcher& launch, Matrix<Acc> left, Matrix<Acc> right, Matrix<Acc> left2,
                Matrix<Acc> right2, double scale, Term u, Term v, Matrix<Acc> out) {
    const SymmetricArguments<Acc> p{batch_,
                                    n_,
                                    read_only(left),
                                    read_only(right),
                                    read_only(left2),
                                    read_only(right2),
                                    read_only(u.matrix),
                                    read_only(v.matrix),
                                    Acc(scale),
                                    Acc(u.by),
                                    Acc(v.by),
                                    out};
    const int64_t half = TriangleTile::count(tiles(n_));
    if (half > 1) {
      launch(symmetric_product<kProduct>, batch_ * half, kProductThreads<kProduct>, p);
      return;
    }
    if (chain_.count == chain_.kMost) launch_chain(launch);
    chain_.product[chain_.count++] = p;
  }

  void launch_chain(Launcher& launch) {
    if (chain_.count == 0) return;
    launch(symmetric_chain<kProduct>, batch_, kProductThreads<kProduct>, chain_);
    chain_.count = 0;
  }

 private:
  static Matrix<Acc> none() { return {}; }
  int64_t size() const { return panel_size<Acc>(n_); }
  void release(Matrix<Acc> m) { used_ &= ~(1 << ((m.data - pool_) / (batch_ * size()))); }

  int64_t batch_, n_;
  bool polynomial_;
  int count_;
  Acc *slots_, *pool_;
  double* sums_;
  int used_ = 0;
  SymmetricChain<Acc> chain_ = {};
};

}  // namespace ccdn::cuda
