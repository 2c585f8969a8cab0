// The operators as C functions that AOTInductor's code calls.
#include <cstdint>

extern "C" int mace_check_input(const int64_t*, long, long, const int64_t*, const double*, const bool*, long,
                                const char*, long, const bool*, const bool*, long, long, double, double, int64_t*,
                                int64_t*, double*);
extern "C" int mace_check_values(const double*, long, long, const double*, const char*, double*);

namespace {

int64_t size(AtenTensorHandle tensor, int64_t axis) {
  int64_t value = 0;
  aoti_torch_get_size(tensor, axis, &value);
  return value;
}

AtenTensorHandle empty(int64_t ndim, const int64_t* sizes, AtenTensorHandle like) {
  const int64_t strides[2] = {ndim > 1 ? sizes[1] : 1, 1};
  int32_t dtype = 0;
  aoti_torch_get_dtype(like, &dtype);
  AtenTensorHandle result = nullptr;
  aoti_torch_empty_strided(ndim, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, &result);
  return result;
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_mace_checked_input(
    AtenTensorHandle types, AtenTensorHandle owned, AtenTensorHandle index, AtenTensorHandle vectors,
    AtenTensorHandle mask, AtenTensorHandle names, AtenTensorHandle allowed, AtenTensorHandle has_energy,
    AtenTensorHandle limits, int64_t ranks, AtenTensorHandle* ret0, AtenTensorHandle* ret1, AtenTensorHandle* ret2) {
  const int64_t natom = size(types, 0), nedge = size(mask, 0);
  const int64_t atoms[1] = {natom + 1}, edges[2] = {2, nedge + 1}, places[2] = {nedge + 1, 3};
  *ret0 = empty(1, atoms, types);
  *ret1 = empty(2, edges, index);
  *ret2 = empty(2, places, vectors);
  if (!*ret0 || !*ret1 || !*ret2) return 3;  // out of memory
  return mace_check_input(pointer<int64_t>(types), natom, ranks > 1 ? *pointer<int64_t>(owned) : natom,
                          pointer<int64_t>(index), pointer<double>(vectors), pointer<bool>(mask), nedge,
                          pointer<char>(names), size(names, 0), pointer<bool>(allowed), pointer<bool>(has_energy),
                          size(allowed, 0), ranks == 1 && size(owned, 0) == 1, pointer<double>(limits)[0],
                          pointer<double>(limits)[1], pointer<int64_t>(*ret0), pointer<int64_t>(*ret1),
                          pointer<double>(*ret2));
}

extern "C" AOTITorchError aoti_torch_cpu_mace_checked_values(AtenTensorHandle values, AtenTensorHandle rules,
                                                             AtenTensorHandle text, AtenTensorHandle* ret0) {
  const int64_t sizes[2] = {size(values, 0), size(values, 1)};
  *ret0 = empty(2, sizes, values);
  if (!*ret0) return 3;  // out of memory
  return mace_check_values(pointer<double>(values), size(values, 0), size(values, 1), pointer<double>(rules),
                           pointer<char>(text), pointer<double>(*ret0));
}
