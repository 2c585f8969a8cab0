// Calls one function of a model's kernels: FUNCTION INPUT OUTPUT. Runs on another processor, in an emulator.
//
// INPUT has for each argument eight bytes that count those of an array, and the array; or -1 and a number. OUTPUT has all
// arrays again, after the call. The exit status is what the function returns.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

extern "C" {
int mace_convolve(long);
int mace_convolve_backward(long);
int mace_contract(long);
int mace_contract_backward(long);
int mace_mix(long);
}

// What an operator of a .pt2 asks torch for.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

struct AtenTensorOpaque {
  void* data;
  int64_t sizes[2], strides[2];
  int32_t dtype;
};

extern "C" {
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle t, void** out) { return *out = t->data, 0; }
AOTITorchError aoti_torch_get_size(AtenTensorHandle t, int64_t d, int64_t* out) { return *out = t->sizes[d], 0; }
AOTITorchError aoti_torch_get_stride(AtenTensorHandle t, int64_t d, int64_t* out) { return *out = t->strides[d], 0; }
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle t, int32_t* out) { return *out = t->dtype, 0; }
int32_t aoti_torch_dtype_float64() { return 8; }
int32_t aoti_torch_device_type_cpu() { return 0; }
AOTITorchError aoti_torch_empty_strided(int64_t, const int64_t* sizes, const int64_t* strides, int32_t dtype, int32_t,
                                        int32_t, AtenTensorHandle* out) {
  void* data = std::calloc(sizes[0] * sizes[1] + 1, 8);
  *out = new AtenTensorOpaque{data, {sizes[0], sizes[1]}, {strides[0], strides[1]}, dtype};
  return 0;
}
AOTITorchError aoti_torch_cpu_sum_groups(AtenTensorHandle, AtenTensorHandle, int64_t, AtenTensorHandle*);
}

// values (rows, width), with any strides; the sums go to out
static int sum_groups(void* values, long row, long column, void* groups, long nrow, long width, long bytes, void* out) {
  AtenTensorOpaque rows{values, {0, width}, {row, column}, int32_t(bytes)}, lists{groups, {0, 0}, {1, 1}, 4};
  AtenTensorHandle result = nullptr;
  const int error = aoti_torch_cpu_sum_groups(&rows, &lists, nrow, &result);
  if (!error) std::memcpy(out, result->data, nrow * width * bytes);
  return error;
}

static void* function(const std::string& name) {
  if (name == "mace_convolve") return reinterpret_cast<void*>(mace_convolve);
  if (name == "mace_convolve_backward") return reinterpret_cast<void*>(mace_convolve_backward);
  if (name == "mace_contract") return reinterpret_cast<void*>(mace_contract);
  if (name == "mace_contract_backward") return reinterpret_cast<void*>(mace_contract_backward);
  if (name == "mace_mix") return reinterpret_cast<void*>(mace_mix);
  if (name == "sum_groups") return reinterpret_cast<void*>(sum_groups);
  std::fprintf(stderr, "no function %s\n", name.c_str());
  std::exit(90);
}

int main(int, char** argv) {
  constexpr int MOST = 32;  // more than any function has: those left over are not read
  long a[MOST] = {};
  std::vector<std::vector<char>> arrays;
  std::FILE* input = std::fopen(argv[2], "rb");
  int64_t bytes = 0;
  for (int i = 0; i < MOST && std::fread(&bytes, 8, 1, input) == 1; ++i) {
    if (bytes < 0) {
      if (std::fread(&a[i], 8, 1, input) != 1) return 91;
      continue;
    }
    arrays.emplace_back(bytes + 8);
    if (std::fread(arrays.back().data(), 1, bytes, input) != size_t(bytes)) return 92;
    arrays.back().resize(bytes);
    a[i] = bytes ? reinterpret_cast<long>(arrays.back().data()) : 0;
  }
  typedef int (*Function)(long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long,
                          long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long);
  const int status = reinterpret_cast<Function>(function(argv[1]))(
      a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15], a[16], a[17],
      a[18], a[19], a[20], a[21], a[22], a[23], a[24], a[25], a[26], a[27], a[28], a[29], a[30], a[31]);
  std::FILE* output = std::fopen(argv[3], "wb");
  for (const auto& array : arrays) std::fwrite(array.data(), 1, array.size(), output);
  std::fclose(output);
  return status;
}
