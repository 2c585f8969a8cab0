// Memory of a tensor behind its handle; in front of the sources of operators, see compiler.py.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

namespace {

template <class X>
X* pointer(AtenTensorHandle tensor) {
  void* data = nullptr;
  aoti_torch_get_data_ptr(tensor, &data);
  return static_cast<X*>(data);
}

}  // namespace
