// Repulsion of close atoms (ZBL) as C functions that AOTInductor's code calls; see repulsion.py.
#include <cmath>
#include <cstdint>

namespace {

struct CloseAtoms {
  const double* vectors;
  const int64_t *sender, *receiver, *kind;
  const double* pairs;  // (ntypes, ntypes, 3): reach, screening length, strength
  const double* shape;  // four factors, four decays, exponent of the envelope
  int64_t nedge, ntypes;

  CloseAtoms(AtenTensorHandle vectors_, AtenTensorHandle index, AtenTensorHandle kind_, AtenTensorHandle pairs_,
             AtenTensorHandle shape_)
      : vectors(pointer<double>(vectors_)), sender(pointer<int64_t>(index)), kind(pointer<int64_t>(kind_)),
        pairs(pointer<double>(pairs_)), shape(pointer<double>(shape_)) {
    aoti_torch_get_size(vectors_, 0, &nedge);
    aoti_torch_get_size(pairs_, 0, &ntypes);
    receiver = sender + nedge;
  }

  // Call for each edge within reach, or whose length is not a number, with its length and pair.
  template <class F>
  void for_close(F f) const {
    for (int64_t e = 0; e < nedge; ++e) {
      const double* v = vectors + 3 * e;
      const double* pair = pairs + 3 * (kind[sender[e]] * ntypes + kind[receiver[e]]);
      const double r2 = v[0] * v[0] + v[1] * v[1] + v[2] * v[2];
      if (r2 >= pair[0] * pair[0]) continue;
      f(e, std::sqrt(r2), pair);
    }
  }

  double exponent() const { return shape[8]; }
  double envelope(double x) const {
    const double p = exponent(), xp = std::pow(x, p);
    return 1.0 - 0.5 * (p + 1.0) * (p + 2.0) * xp + p * (p + 2.0) * xp * x - 0.5 * p * (p + 1.0) * xp * x * x;
  }
  // Energy of a pair, or its derivative by the distance.
  double energy(double r, const double* pair) const {
    double phi = 0.0;
    for (int k = 0; k < 4; ++k) phi += shape[k] * std::exp(-shape[4 + k] * r / pair[1]);
    return pair[2] / r * phi * envelope(r / pair[0]);
  }
  double slope(double r, const double* pair) const {
    double phi = 0.0, falls = 0.0;
    for (int k = 0; k < 4; ++k) {
      const double term = shape[k] * std::exp(-shape[4 + k] * r / pair[1]);
      phi += term;
      falls -= shape[4 + k] / pair[1] * term;
    }
    const double p = exponent(), x = r / pair[0];
    const double descent = -0.5 * p * (p + 1.0) * (p + 2.0) * std::pow(x, p - 1.0) * (1.0 - x) * (1.0 - x) / pair[0];
    return pair[2] / r * ((falls - phi / r) * envelope(x) + phi * descent);
  }
};

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_pair_repulsion(AtenTensorHandle vectors, AtenTensorHandle index,
                                                        AtenTensorHandle kind, AtenTensorHandle pairs,
                                                        AtenTensorHandle shape, int64_t nnode, AtenTensorHandle* ret0) {
  *ret0 = zeros(nnode, 1);
  if (!*ret0) return 3;  // out of memory
  const CloseAtoms atoms(vectors, index, kind, pairs, shape);
  double* energy = pointer<double>(*ret0);
  atoms.for_close([&](int64_t e, double r, const double* pair) { energy[atoms.receiver[e]] += atoms.energy(r, pair); });
  return 0;
}

extern "C" AOTITorchError aoti_torch_cpu_pair_repulsion_backward(AtenTensorHandle gradient, AtenTensorHandle vectors,
                                                                 AtenTensorHandle index, AtenTensorHandle kind,
                                                                 AtenTensorHandle pairs, AtenTensorHandle shape,
                                                                 AtenTensorHandle* ret0) {
  const CloseAtoms atoms(vectors, index, kind, pairs, shape);
  *ret0 = zeros(atoms.nedge, 3);
  if (!*ret0) return 3;  // out of memory
  const double* upstream = pointer<double>(gradient);
  double* result = pointer<double>(*ret0);
  atoms.for_close([&](int64_t e, double r, const double* pair) {
    const double along = atoms.slope(r, pair) / r * upstream[atoms.receiver[e]];
    for (int k = 0; k < 3; ++k) result[3 * e + k] = along * atoms.vectors[3 * e + k];
  });
  return 0;
}
