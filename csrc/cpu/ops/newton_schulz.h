// The Newton-Schulz iteration and its derivative, in symmetric products (cpu/symmetric.h).
//
// The gradient of <G, f(A)> for a function f of a symmetric matrix is the derivative of f at A in
// the direction of G, because that map is its own adjoint. So the backward pass runs the steps
// forward with their derivatives: d(M N) = dM N + M dN is symmetric too, one half product of twice
// the depth.
#pragma once

#include "common/newton_schulz_steps.h"
#include "cpu/engine/symmetric.h"

namespace ccdn {
namespace CCDN_ISA {

// Where the matrices of an iteration are: all of them kept, or the last few.
template <class T>
struct Slots {
  T* data;
  int64_t size;
  int count;

  CCDN_INLINE T* operator[](int slot) const { return data + slot % count * size; }
};

// No matrix is needed seven slots after its own, so that few suffice where none is kept.
inline int live(const NewtonSchulzSteps& steps) { return steps.slots < 7 ? steps.slots : 7; }

// Those of a sample: kept in `iterates` if `saved`, else `count` of them in scratch.
template <class T>
CCDN_INLINE Slots<T> slots_of(void* iterates, int saved, int64_t sample, T* scratch, int64_t size,
                              int count) {
  if (!saved) return {scratch, size, count};
  return {static_cast<T*>(iterates) + sample * saved * size, size, saved};
}

template <class T>
CCDN_INLINE Panels<const T> matrix_panels(const T* data, int64_t n) {
  return {data, n * kPanel<T>};
}

// out = scale * (l r) + a u + b v.
template <class T>
CCDN_TARGET void multiply(Team& team, int64_t n, const T* l, const T* r, T scale, T a, const T* u,
                          T b, const T* v, T* out) {
  const SymmetricWork<T> work{
      {n, n, n, 1, {matrix_panels(l, n), {}}, {matrix_panels(r, n), {}}}, scale, a, b, u, v, out};
  symmetric_product(team, work);
}

// out = scale * (dl r + l dr) + a u + b v.
template <class T>
CCDN_TARGET void multiply_derivative(Team& team, int64_t n, const T* dl, const T* r, const T* l,
                                     const T* dr, T scale, T a, const T* u, T b, const T* v,
                                     T* out) {
  const SymmetricWork<T> work{{n,
                               n,
                               n,
                               2,
                               {matrix_panels(dl, n), matrix_panels(l, n)},
                               {matrix_panels(r, n), matrix_panels(dr, n)}},
                              scale,
                              a,
                              b,
                              u,
                              v,
                              out};
  symmetric_product(team, work);
}

// out = a * in.
template <class T>
CCDN_TARGET inline void scaled(int64_t n, const T* in, T a, T* out) {
  const int64_t size = matrix_size<T>(n);
  for (int64_t e = 0; e < size; ++e) out[e] = a * in[e];
}

// Fills the slots from slot 0 on.
template <class T>
CCDN_TARGET void newton_schulz(Team& team, int64_t n, const NewtonSchulzSteps& steps,
                               const Slots<T>& m) {
  const T none = 0;
  for (int k = 0; k < steps.count; ++k) {
    const NewtonSchulzStep& s = steps.step[k];
    const T *w = m[s.w], *y = s.y < 0 ? nullptr : m[s.y];
    const bool polynomial = steps.step[0].y < 0;
    const T z = T(s.z);
    T* y_out = m[s.y_out];
    if (!s.two) {
      if (!y) {
        scaled(n, w, T(-0.5), y_out);
      } else {
        multiply(team, n, y, w, T(-0.5), T(1.5), y, T(-0.5) * z, polynomial ? w : nullptr, y_out);
      }
      continue;
    }
    T *e = m[s.e], *x = m[s.x];
    multiply(team, n, w, w, T(1), T(-4.5), w, none, static_cast<const T*>(nullptr), e);
    multiply(team, n, e, e, T(0.0625), T(6.75 / 16), e, T(-8.625 / 16), w, x);
    if (s.v >= 0) {
      multiply(team, n, w, x, T(1), T(2.25), w, none, static_cast<const T*>(nullptr), m[s.v]);
    }
    if (s.y_out != s.x && s.y_out != s.v) {
      multiply(team, n, y, x, T(1), T(2.25), y, z, polynomial ? x : nullptr, y_out);
    }
    if (s.w_out >= 0) {
      const T* v = m[s.v];
      multiply(team, n, v, x, T(1), T(2.25), v, none, static_cast<const T*>(nullptr), m[s.w_out]);
    }
  }
}

// Matrices for the derivative, taken and given back.
template <class T>
class Pool {
 public:
  static constexpr int kCount = 7;

  Pool(T* data, int64_t size) : data_(data), size_(size) {}

  T* take() {
    int i = 0;
    while (used_ >> i & 1) ++i;
    used_ |= 1 << i;
    return data_ + i * size_;
  }
  void release(const T* matrix) { used_ &= ~(1 << ((matrix - data_) / size_)); }

 private:
  T* data_;
  int64_t size_;
  int used_ = 0;
};

// The derivative of the result in a direction, which comes and goes in matrices of the pool.
template <class T>
CCDN_TARGET T* newton_schulz_derivative(Team& team, int64_t n, const NewtonSchulzSteps& steps,
                                        const Slots<T>& m, Pool<T>& pool, T* direction) {
  const bool polynomial = steps.step[0].y < 0;
  const T* const nothing = nullptr;
  T *dw = direction, *dy = polynomial ? nullptr : direction;
  for (int k = 0; k < steps.count; ++k) {
    const NewtonSchulzStep& s = steps.step[k];
    const T *w = m[s.w], *y = s.y < 0 ? nullptr : m[s.y];
    const T z = T(s.z);
    if (!s.two) {
      T* out = pool.take();
      if (!y) {
        scaled(n, dw, T(-0.5), out);
      } else {
        multiply_derivative(team, n, dy, w, y, dw, T(-0.5), T(1.5), dy, T(-0.5) * z,
                            polynomial ? dw : nothing, out);
      }
      return out;  // a single step is the last one
    }
    const T *e = m[s.e], *x = m[s.x];
    T *de = pool.take(), *dx = pool.take();
    multiply_derivative(team, n, dw, w, w, dw, T(1), T(-4.5), dw, T(0), nothing, de);
    multiply_derivative(team, n, de, e, e, de, T(0.0625), T(6.75 / 16), de, T(-8.625 / 16), dw, dx);
    pool.release(de);
    T *dv = nullptr, *dw_out = nullptr;
    if (s.v >= 0) {
      dv = pool.take();
      multiply_derivative(team, n, dw, x, w, dx, T(1), T(2.25), dw, T(0), nothing, dv);
    }
    T* dy_out = s.y_out == s.x ? dx : s.y_out == s.v ? dv : pool.take();
    if (dy_out != dx && dy_out != dv) {
      multiply_derivative(team, n, dy, x, y, dx, T(1), T(2.25), dy, z, polynomial ? dx : nothing,
                          dy_out);
    }
    if (s.w_out >= 0) {
      dw_out = pool.take();
      multiply_derivative(team, n, dv, x, m[s.v], dx, T(1), T(2.25), dv, T(0), nothing, dw_out);
    }
    if (dy && dy != dw) pool.release(dy);
    pool.release(dw);
    if (dx != dy_out) pool.release(dx);
    if (dv && dv != dy_out) pool.release(dv);
    dw = dw_out;
    dy = dy_out;
  }
  return dy;
}

// The gradient of <G, sqrt(tr) Y_K(S / tr)>, tr = tr S, with respect to S: G comes in `direction`,
// the gradient goes out, both of the pool.
template <class T>
CCDN_TARGET T* root_gradient(Team& team, int64_t n, const NewtonSchulzSteps& steps,
                             const Slots<T>& slots, Pool<T>& pool, T* direction, double trace) {
  const double inner = inner_product(direction, slots[steps.result], n);
  T* found = newton_schulz_derivative(team, n, steps, slots, pool, direction);
  const double root = std::sqrt(trace);
  const double shift = (inner / 2 - inner_product(found, slots[0], n)) / root;
  scale_and_shift(found, n, T(1 / root), T(shift));
  return found;
}

}  // namespace CCDN_ISA
}  // namespace ccdn
