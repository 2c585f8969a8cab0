// Memory of a .pt2's large tensors, kept from one evaluation to the next.
//
// The C library returns large blocks to the system and gets them back page by page, which costs up to half of the time
// of a large system. The linker directs the calls of aoti_torch_empty_strided in the compiled model here (--wrap).
// Nothing from this pool leaves the model: its results are copied (aoti_torch_cpu_mace_result), so that the library can
// be unloaded together with its pool.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

extern "C" AOTITorchError __real_aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t,
                                                          int32_t, AtenTensorHandle*);
// From torch/csrc/stable/c/shim.h, which shows it only to code that gives up older versions of torch.
extern "C" AOTITorchError torch_from_blob(void*, int64_t, const int64_t*, const int64_t*, int64_t, int32_t, int32_t,
                                          int32_t, AtenTensorHandle*, int32_t, const uint8_t*, int64_t,
                                          void (*)(void*, void*), void*);

namespace {

constexpr int64_t SMALLEST = 1 << 18;  // bytes; malloc keeps smaller blocks by itself
constexpr uint64_t IDLE = 4096;        // requests after which an unused block is returned: some tens of evaluations

struct Block {
  void* data;
  int64_t bytes;
  uint64_t used;
};

class Pool {
 public:
  ~Pool() {
    for (Block* block : free_) destroy(block);
  }
  // The smallest free block that is large enough and not much too large, or a new one.
  Block* take(int64_t bytes) {
    bytes = pages(bytes);
    const std::lock_guard<std::mutex> lock(mutex_);
    ++now_;
    size_t best = free_.size();
    for (size_t i = 0; i < free_.size(); ++i)
      if (free_[i]->bytes >= bytes && free_[i]->bytes <= bytes + bytes / 2 &&
          (best == free_.size() || free_[i]->bytes < free_[best]->bytes))
        best = i;
    // The number of edges varies, and with it the size of large blocks.
    if (best == free_.size()) return create(bytes < SMALLEST ? bytes : pages(bytes + bytes / 16));
    Block* block = free_[best];
    free_[best] = free_.back();
    free_.pop_back();
    return block;
  }
  void give(Block* block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    block->used = now_;
    free_.push_back(block);
  }

 private:
  static int64_t pages(int64_t bytes) { return (bytes + 4095) / 4096 * 4096; }
  static void destroy(Block* block) {
    std::free(block->data);
    delete block;
  }
  Block* create(int64_t bytes) {
    size_t kept = 0;
    for (Block* block : free_)
      if (now_ - block->used > IDLE) destroy(block);
      else free_[kept++] = block;
    free_.resize(kept);
    void* data = std::aligned_alloc(64, bytes);
    if (!data) throw std::bad_alloc();
    return new Block{data, bytes, now_};
  }
  std::mutex mutex_;
  std::vector<Block*> free_;
  uint64_t now_ = 0;
};

Pool pool;

void give(void*, void* block) { pool.give(static_cast<Block*>(block)); }

}  // namespace

// For the kernels' own scratch memory.
extern "C" void* mace_take(long bytes, void** block) {
  Block* taken = pool.take(bytes);
  *block = taken;
  return taken->data;
}
extern "C" void mace_give(void* block) { pool.give(static_cast<Block*>(block)); }

extern "C" AOTITorchError __wrap_aoti_torch_empty_strided(int64_t ndim, const int64_t* sizes, const int64_t* strides,
                                                          int32_t dtype, int32_t device_type, int32_t device_index,
                                                          AtenTensorHandle* result) {
  int64_t last = 0, count = 1;
  for (int64_t i = 0; i < ndim; ++i) {
    last += (sizes[i] - 1) * strides[i];
    count *= sizes[i];
  }
  const int64_t bytes = count > 0 ? (last + 1) * static_cast<int64_t>(aoti_torch_dtype_element_size(dtype)) : 0;
  if (device_type != aoti_torch_device_type_cpu() || bytes < SMALLEST)
    return __real_aoti_torch_empty_strided(ndim, sizes, strides, dtype, device_type, device_index, result);
  try {
    Block* block = pool.take(bytes);
    const AOTITorchError error =
        torch_from_blob(block->data, ndim, sizes, strides, 0, dtype, device_type, -1, result,
                        aoti_torch_layout_strided(), nullptr, 0, give, block);
    if (error) pool.give(block);
    return error;
  } catch (const std::bad_alloc&) {
    return 3;
  }
}

// A contiguous copy that belongs to torch alone.
extern "C" AOTITorchError aoti_torch_cpu_mace_result(AtenTensorHandle value, AtenTensorHandle* result) {
  int64_t ndim = 0, count = 0;
  int64_t *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0, device_type = 0, device_index = 0;
  void *source = nullptr, *target = nullptr;
  aoti_torch_get_dim(value, &ndim);
  aoti_torch_get_numel(value, &count);
  aoti_torch_get_sizes(value, &sizes);
  aoti_torch_get_strides(value, &strides);
  aoti_torch_get_dtype(value, &dtype);
  aoti_torch_get_device_type(value, &device_type);
  aoti_torch_get_device_index(value, &device_index);
  const AOTITorchError error =
      __real_aoti_torch_empty_strided(ndim, sizes, strides, dtype, device_type, device_index, result);
  if (error || count == 0) return error;
  aoti_torch_get_data_ptr(value, &source);
  aoti_torch_get_data_ptr(*result, &target);
  std::memcpy(target, source, count * aoti_torch_dtype_element_size(dtype));
  return 0;
}
