// Memory of a tensor behind its handle; in front of the sources of operators, see compiler.py.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <cstring>

namespace {

template <class X>
X* pointer(AtenTensorHandle tensor) {
  void* data = nullptr;
  aoti_torch_get_data_ptr(tensor, &data);
  return static_cast<X*>(data);
}

// Rows of zeros, float64; one axis only if they have one number. Null if there is no memory.
[[maybe_unused]] AtenTensorHandle zeros(int64_t rows, int64_t width) {
  const int64_t sizes[2] = {rows, width}, strides[2] = {width, 1};
  AtenTensorHandle result = nullptr;
  aoti_torch_empty_strided(width > 1 ? 2 : 1, sizes, strides, aoti_torch_dtype_float64(), aoti_torch_device_type_cpu(), 0,
                           &result);
  if (result && rows) std::memset(pointer<double>(result), 0, rows * width * sizeof(double));
  return result;
}

}  // namespace
