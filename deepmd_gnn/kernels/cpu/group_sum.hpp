// Sums over groups of rows, as a C function that AOTInductor's code calls; see file_operators.py for why.
#include <cstdint>

namespace {

// A row at a time, so that the members' order is that of the sum.
template <class X>
void sum(const X* values, int64_t row, int64_t column, const int64_t* begin, int64_t nrow, int64_t width, X* out) {
  const int64_t* member = begin + nrow + 1;
  for (int64_t i = 0; i < nrow; ++i, out += width) {
    for (int64_t k = 0; k < width; ++k) out[k] = 0;
    for (int64_t p = begin[i]; p < begin[i + 1]; ++p) {
      const X* x = values + member[p] * row;
      for (int64_t k = 0; k < width; ++k) out[k] += x[k * column];
    }
  }
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_sum_groups(AtenTensorHandle values, AtenTensorHandle groups, int64_t nrow,
                                                    AtenTensorHandle* ret0) {
  int64_t width = 0, row = 0, column = 0;
  aoti_torch_get_size(values, 1, &width);
  aoti_torch_get_stride(values, 0, &row);
  aoti_torch_get_stride(values, 1, &column);
  const int64_t sizes[2] = {nrow, width}, strides[2] = {width, 1};
  int32_t dtype = 0;
  aoti_torch_get_dtype(values, &dtype);
  *ret0 = nullptr;
  aoti_torch_empty_strided(2, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, ret0);
  if (!*ret0) return 3;  // out of memory
  const int64_t* begin = pointer<int64_t>(groups);
  if (dtype == aoti_torch_dtype_float64())
    sum(pointer<double>(values), row, column, begin, nrow, width, pointer<double>(*ret0));
  else
    sum(pointer<float>(values), row, column, begin, nrow, width, pointer<float>(*ret0));
  return 0;
}
