// Forces and virials of atoms from the gradient of the edges, as a C function that AOTInductor's code calls; see edge_forces.py.
#include <cstdint>

namespace {

// One edge after the other, so that sums have one order. Row 0, the guard's, is left out.
void distribute(const double* gradient, const double* vectors, const int64_t* neighbor, const int64_t* center,
                int64_t nedge, double* force, double* virial) {
  for (int64_t e = 0; e < nedge; ++e) {
    const double *g = gradient + 3 * e, *r = vectors + 3 * e;
    if (center[e] > 0)
      for (int64_t k = 0; k < 3; ++k) force[3 * (center[e] - 1) + k] += g[k];
    if (neighbor[e] == 0) continue;
    double *f = force + 3 * (neighbor[e] - 1), *w = virial + 9 * (neighbor[e] - 1);
    for (int64_t k = 0; k < 3; ++k) {
      f[k] -= g[k];
      for (int64_t l = 0; l < 3; ++l) w[3 * k + l] -= g[k] * r[l];
    }
  }
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_edge_forces(AtenTensorHandle gradient, AtenTensorHandle vectors,
                                                     AtenTensorHandle edge_atoms, int64_t natom,
                                                     AtenTensorHandle* ret0, AtenTensorHandle* ret1) {
  *ret0 = zeros(natom, 3);
  *ret1 = zeros(natom, 9);
  if (!*ret0 || !*ret1) return 3;  // out of memory
  int64_t nedge = 0;
  aoti_torch_get_size(gradient, 0, &nedge);
  const int64_t* rows = pointer<int64_t>(edge_atoms);
  distribute(pointer<double>(gradient), pointer<double>(vectors), rows, rows + nedge, nedge, pointer<double>(*ret0),
             pointer<double>(*ret1));
  return 0;
}
