// The operators as C functions that AOTInductor's code calls: from tensor handles to the kernels' pointers.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>

typedef @T@ T;

extern "C" int mace_convolve(long, const double*, const T*, const T*, const double*, const int64_t*, const int64_t*, const int64_t*,
                             const int64_t*, long, long, long, long, long, const T*, const int64_t*, long, long,
                             long, long, long, T*);
extern "C" int mace_convolve_backward(long, const double*, const T*, const T*, const double*, const int64_t*, const int64_t*,
                                      const int64_t*, const int64_t*, long, long, long, long, long, const T*,
                                      const int64_t*, long, long, long, long, long, const T*, long, double*, T*);
extern "C" int mace_contract(long, const T*, const T*, const int64_t*, long, long, long, T*);
extern "C" int mace_contract_backward(long, const T*, const T*, const T*, const int64_t*, long, long, long, T*);
extern "C" int mace_mix(const T*, const T*, const int64_t*, const int64_t*, long, long, long, long, long, long, long,
                        long, T*);

namespace {

constexpr AOTITorchError OUT_OF_MEMORY = 3;  // not zero: the caller raises

template <class X>
X* pointer(AtenTensorHandle tensor) {
  int64_t count = 0;
  void* data = nullptr;
  aoti_torch_get_numel(tensor, &count);
  aoti_torch_get_data_ptr(tensor, &data);
  return count ? static_cast<X*>(data) : nullptr;
}

int64_t size(AtenTensorHandle tensor, int64_t axis) {
  int64_t value = 0;
  aoti_torch_get_size(tensor, axis, &value);
  return value;
}

AtenTensorHandle empty(int64_t a, int64_t b, int64_t c, int ndim, AtenTensorHandle like) {
  const int64_t sizes[3] = {a, b, c};
  const int64_t strides[3] = {ndim > 1 ? b * (ndim > 2 ? c : 1) : 1, ndim > 2 ? c : 1, 1};
  int32_t dtype = 0;
  aoti_torch_get_dtype(like, &dtype);
  AtenTensorHandle result = nullptr;
  aoti_torch_empty_strided(ndim, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &result);
  return result;
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_mace_convolve(
    AtenTensorHandle vectors, AtenTensorHandle sent, AtenTensorHandle table, AtenTensorHandle grid,
    AtenTensorHandle sender, AtenTensorHandle kind, AtenTensorHandle order, AtenTensorHandle begin, AtenTensorHandle matrices,
    AtenTensorHandle paths, AtenTensorHandle, AtenTensorHandle, int64_t layer, int64_t mixed, int64_t width,
    int64_t channels, AtenTensorHandle* ret0) {
  const int64_t nnode = size(begin, 0) - 1;
  *ret0 = empty(nnode, width, channels, 3, sent);
  if (!*ret0) return OUT_OF_MEMORY;
  return mace_convolve(layer, pointer<double>(vectors), pointer<T>(sent), pointer<T>(table), pointer<double>(grid), pointer<int64_t>(sender),
                       pointer<int64_t>(kind), pointer<int64_t>(order), pointer<int64_t>(begin), nnode, size(sent, 0),
                       size(sent, 2), size(table, 1), size(table, 2), pointer<T>(matrices),
                       pointer<int64_t>(paths), size(matrices, 1), size(matrices, 2), mixed ? size(paths, 0) : 0, width, channels,
                       pointer<T>(*ret0));
}

extern "C" AOTITorchError aoti_torch_cpu_mace_convolve_backward(
    AtenTensorHandle gradient, AtenTensorHandle vectors, AtenTensorHandle sent, AtenTensorHandle table,
    AtenTensorHandle grid, AtenTensorHandle sender, AtenTensorHandle kind, AtenTensorHandle order, AtenTensorHandle begin,
    AtenTensorHandle matrices, AtenTensorHandle paths, int64_t layer, int64_t mixed, int64_t senders,
    AtenTensorHandle* ret0, AtenTensorHandle* ret1) {
  *ret0 = empty(size(vectors, 0), 3, 0, 2, vectors);
  *ret1 = senders ? empty(size(sent, 0), size(sent, 1), size(sent, 2), 3, sent) : empty(0, 0, 0, 1, sent);
  if (!*ret0 || !*ret1) return OUT_OF_MEMORY;
  return mace_convolve_backward(layer, pointer<double>(vectors), pointer<T>(sent), pointer<T>(table),
                                pointer<double>(grid), pointer<int64_t>(sender), pointer<int64_t>(kind), pointer<int64_t>(order),
                                pointer<int64_t>(begin), size(begin, 0) - 1, size(sent, 0), size(sent, 2),
                                size(table, 1), size(table, 2), pointer<T>(matrices), pointer<int64_t>(paths),
                                size(matrices, 1), size(matrices, 2), mixed ? size(paths, 0) : 0, size(gradient, 1), size(gradient, 2),
                                pointer<T>(gradient), size(vectors, 0), pointer<double>(*ret0), pointer<T>(*ret1));
}

extern "C" AOTITorchError aoti_torch_cpu_mace_contract(AtenTensorHandle features, AtenTensorHandle coefficients,
                                                       AtenTensorHandle kind, int64_t layer, int64_t width,
                                                       AtenTensorHandle* ret0) {
  const int64_t nnode = size(features, 0);
  *ret0 = empty(nnode, width, size(features, 2), 3, features);
  if (!*ret0) return OUT_OF_MEMORY;
  return mace_contract(layer, pointer<T>(features), pointer<T>(coefficients), pointer<int64_t>(kind), nnode,
                       size(coefficients, 1), size(features, 2), pointer<T>(*ret0));
}

extern "C" AOTITorchError aoti_torch_cpu_mace_contract_backward(AtenTensorHandle gradient, AtenTensorHandle features,
                                                                AtenTensorHandle coefficients, AtenTensorHandle kind,
                                                                int64_t layer, AtenTensorHandle* ret0) {
  const int64_t nnode = size(features, 0);
  *ret0 = empty(nnode, size(features, 1), size(features, 2), 3, features);
  if (!*ret0) return OUT_OF_MEMORY;
  return mace_contract_backward(layer, pointer<T>(gradient), pointer<T>(features), pointer<T>(coefficients),
                                pointer<int64_t>(kind), nnode, size(coefficients, 1), size(features, 2),
                                pointer<T>(*ret0));
}

extern "C" AOTITorchError aoti_torch_cpu_mace_mix(AtenTensorHandle features, AtenTensorHandle matrices,
                                                  AtenTensorHandle paths, AtenTensorHandle, AtenTensorHandle,
                                                  AtenTensorHandle kind, int64_t width, int64_t channels,
                                                  AtenTensorHandle* ret0) {
  *ret0 = empty(size(features, 0), width, channels, 3, features);
  if (!*ret0) return OUT_OF_MEMORY;
  return mace_mix(pointer<T>(features), pointer<T>(matrices), pointer<int64_t>(paths), pointer<int64_t>(kind),
                  size(features, 0), size(features, 1), size(features, 2), size(matrices, 1), size(matrices, 2),
                  size(paths, 0), width, channels, pointer<T>(*ret0));
}
