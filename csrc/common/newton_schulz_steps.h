// The steps of the Newton-Schulz iteration and where their matrices are kept.
//
// With W = Z Y one coupled step is Y <- Y P, Z <- Z P, W <- W P^2, P = (3 - W) / 2. Two steps
// become one with P P' = 9/4 + X, a polynomial in W that takes two products:
//
//   E = W^2 - 9/2 W,  X = (E^2 + 27/4 E - 69/8 W) / 16,
//   V = W (9/4 + X),  Y <- Y (9/4 + X),  Z <- Z (9/4 + X),  W <- V (9/4 + X)
//
// so that K = 5 takes 10 products, where the coupled steps need 12. The result for a matrix A is
// either Y_K = A q_K(A) ("root") or Z_K = q_K(A) ("polynomial"). The latter is kept as z 1 + R:
// without the large multiple of 1, the rounding of R stays small.
#pragma once

namespace ccdn {

// One step, or two at once; the numbers are slots of matrices, -1 for none.
struct NewtonSchulzStep {
  bool two;
  int w, e, x, v;  // e, x, v of two steps; v where it is needed
  int y, y_out;    // Y or R before and after; y is w where Y = W and -1 where R = 0
  int w_out;       // where a step follows
  double z;        // polynomial: Z = z 1 + R before
};

struct NewtonSchulzSteps {
  NewtonSchulzStep step[5];
  int count;
  int slots;  // matrices in all: slot 0 is A, the last one the result
  int result;
  double z;  // polynomial: the result is R of Z = z 1 + R

  NewtonSchulzSteps(int iterations, bool polynomial) {
    int next = 1, w = 0, y = polynomial ? -1 : 0;
    z = 1;
    count = 0;
    for (int k = 0; k < iterations;) {
      NewtonSchulzStep s{};
      s.w = w;
      s.y = y;
      s.z = z;
      s.two = k + 1 < iterations;
      s.e = s.x = s.v = s.w_out = -1;
      if (!s.two) {
        s.y_out = next++;
        z *= 1.5;
        k += 1;
      } else {
        const bool last = k + 2 == iterations, first = k == 0;
        s.e = next++;
        s.x = next++;
        if (!last || (first && !polynomial)) s.v = next++;
        s.y_out = !first ? next++ : polynomial ? s.x : s.v;
        if (!last) s.w_out = next++;
        z *= 2.25;
        k += 2;
      }
      w = s.w_out;
      y = s.y_out;
      step[count++] = s;
    }
    slots = next;
    result = y;
  }
};

}  // namespace ccdn
