// Product of two matrices in double precision, as a C function that AOTInductor's code calls; see file_operators.py for why.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cstdint>

namespace {

struct Matrix {
  AtenTensorHandle handle;
  int64_t rows = 0, columns = 0, row = 0, column = 0;  // sizes and steps

  explicit Matrix(AtenTensorHandle tensor) : handle(tensor) {
    aoti_torch_get_size(tensor, 0, &rows);
    aoti_torch_get_size(tensor, 1, &columns);
    aoti_torch_get_stride(tensor, 0, &row);
    aoti_torch_get_stride(tensor, 1, &column);
  }

  double* data() const {
    void* found = nullptr;
    aoti_torch_get_data_ptr(handle, &found);
    return static_cast<double*>(found);
  }

  // Two matrices of some rows each, `step` apart.
  AtenTensorHandle pair(int64_t number, int64_t step) const {
    const int64_t sizes[3] = {2, number, columns}, strides[3] = {step, row, column};
    AtenTensorHandle result = nullptr;
    aoti_torch__reinterpret_tensor(handle, 3, sizes, strides, 0, &result);
    return result;
  }
};

AOTITorchError both_halves(const Matrix& left, const Matrix& right, const Matrix& result, int64_t half) {
  AtenTensorHandle parts[3] = {result.pair(half, half * result.row), left.pair(half, half * left.row),
                               right.pair(right.rows, 0)};
  const AOTITorchError error =
      parts[0] && parts[1] && parts[2] ? aoti_torch_cpu_bmm_out(parts[0], parts[1], parts[2]) : 3;
  for (AtenTensorHandle part : parts) {
    if (part) aoti_torch_delete_tensor_object(part);
  }
  return error;
}

// The last of an odd number of rows.
void last_row(const Matrix& left, const Matrix& right, const Matrix& result) {
  const double* a = left.data() + (left.rows - 1) * left.row;
  const double* b = right.data();
  double* c = result.data() + (left.rows - 1) * result.row;
  for (int64_t j = 0; j < right.columns; ++j) c[j] = 0.0;
  for (int64_t k = 0; k < right.rows; ++k) {
    const double factor = a[k * left.column];
    for (int64_t j = 0; j < right.columns; ++j) c[j] += factor * b[k * right.row + j * right.column];
  }
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_mace_product(AtenTensorHandle first, AtenTensorHandle second,
                                                      AtenTensorHandle* ret0) {
  const Matrix left(first), right(second);
  const int64_t sizes[2] = {left.rows, right.columns}, strides[2] = {right.columns, 1};
  int32_t dtype = 0;
  aoti_torch_get_dtype(first, &dtype);
  *ret0 = nullptr;
  aoti_torch_empty_strided(2, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, ret0);
  if (!*ret0) return 3;  // out of memory
  if (left.rows == 0 || right.columns == 0) return 0;
  const Matrix result(*ret0);
  const int64_t half = left.rows / 2;
  const AOTITorchError error = half ? both_halves(left, right, result, half) : 0;
  if (!error && left.rows % 2) last_row(left, right, result);
  return error;
}
