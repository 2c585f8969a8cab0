// Entry points of the kernels of a model: choice of the layer, check of the CPU.
#include <cstdio>

// Visible, for Python to call, but never bound to the kernels of another model in the same process.
#define ENTRY extern "C" __attribute__((visibility("protected")))

static bool cpu_is_suitable() {
  static const bool suitable = @SUPPORTED@;
  if (!suitable)
    std::fprintf(stderr, "mace model: this .pt2 was frozen for CPUs with @FEATURES@, which this one lacks. "
                         "Freeze the model on this machine, or with --cpu generic, or use a .pth.\n");
  return suitable;
}

// The linear map that follows a convolution, the same for all nodes, or for those of a kind; without paths there is none.
static mace::Mixing linear_map(const T* matrices, const int64_t* paths, long nreceiver, long nmatrix, long npath,
                               long components, long channels, long width, long width_channels) {
  return {nullptr, matrices, paths, nullptr, 0, components, channels, nreceiver, nmatrix, npath, width, width_channels,
          nullptr};
}

ENTRY int mace_convolve(long layer, const double* vectors, const T* sent, const T* table, const double* grid,
                        const int64_t* sender, const int64_t* kind, const int64_t* order, const int64_t* begin, long nnode, long nsender,
                        long channels, long nkind, long ntable, const T* matrices,
                        const int64_t* paths, long nreceiver, long nmatrix, long npath, long width, long width_channels,
                        T* out) {
  if (!cpu_is_suitable()) return 2;
  const mace::Input in{vectors, sent, table, sender, kind, order, begin, nnode, nsender, channels, nkind, ntable,
                       static_cast<long>(grid[0]), grid[1], grid[2]};
  try {
    auto call = [&](auto* which) {
      using L = std::remove_pointer_t<decltype(which)>;
      const auto linear =
          linear_map(matrices, paths, nreceiver, nmatrix, npath, L::WIDTH, channels, width, width_channels);
      if constexpr (L::BY_KIND) mace::convolve_kinds<L>(in, linear, out);
      else mace::convolve<L>(in, npath ? &linear : nullptr, out);
    };
    @CONVOLVE@
  } catch (const std::bad_alloc&) { return 3; }
  return 0;
}

ENTRY int mace_convolve_backward(long layer, const double* vectors, const T* sent, const T* table,
                                 const double* grid, const int64_t* sender, const int64_t* kind, const int64_t* order,
                                 const int64_t* begin, long nnode, long nsender, long channels, long nkind,
                                 long ntable, const T* matrices, const int64_t* paths, long nreceiver, long nmatrix,
                                 long npath, long width, long width_channels, const T* gradient, long nedge,
                                 double* d_vectors, T* d_sent) {
  if (!cpu_is_suitable()) return 2;
  const mace::Input in{vectors, sent, table, sender, kind, order, begin, nnode, nsender, channels, nkind, ntable,
                       static_cast<long>(grid[0]), grid[1], grid[2]};
  try {
    auto call = [&](auto* which) {
      using L = std::remove_pointer_t<decltype(which)>;
      const auto linear =
          linear_map(matrices, paths, nreceiver, nmatrix, npath, width, width_channels, L::WIDTH, channels);
      if constexpr (L::BY_KIND) mace::convolve_kinds_backward<L>(in, linear, gradient, nedge, d_vectors);
      else mace::convolve_backward<L>(in, npath ? &linear : nullptr, gradient, nedge, d_vectors, d_sent);
    };
    @CONVOLVE_BACKWARD@
  } catch (const std::bad_alloc&) { return 3; }
  return 0;
}

ENTRY int mace_contract(long layer, const T* features, const T* coefficients, const int64_t* kind, long nnode,
                             long ntypes, long channels, T* out) {
  if (!cpu_is_suitable()) return 2;
  auto call = [&](auto* which) {
    mace::contract<std::remove_pointer_t<decltype(which)>>(features, coefficients, kind, nnode, ntypes, channels, out);
  };
  @CONTRACT@
  return 0;
}

ENTRY int mace_contract_backward(long layer, const T* gradient, const T* features, const T* coefficients,
                                      const int64_t* kind, long nnode, long ntypes, long channels, T* out) {
  if (!cpu_is_suitable()) return 2;
  auto call = [&](auto* which) {
    mace::contract_backward<std::remove_pointer_t<decltype(which)>>(gradient, features, coefficients, kind, nnode,
                                                                    ntypes, channels, out);
  };
  @CONTRACT_BACKWARD@
  return 0;
}

ENTRY int mace_mix(const T* features, const T* matrices, const int64_t* paths, const int64_t* kind, long nnode,
                   long components, long channels, long ntypes, long nmatrix, long npath, long width,
                   long width_channels, T* out) {
  if (!cpu_is_suitable()) return 2;
  try {
    mace::mix({features, matrices, paths, kind, nnode, components, channels, ntypes, nmatrix, npath, width,
               width_channels, out});
  } catch (const std::bad_alloc&) { return 3; }
  return 0;
}
