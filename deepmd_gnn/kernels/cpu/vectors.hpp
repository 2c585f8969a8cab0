// Common part of the generated kernels: vectors of channels, scratch memory.
// The generator puts before it: the type T, VECTOR_BYTES (width of the CPU's vectors).
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

namespace mace {

constexpr int LANES = VECTOR_BYTES / sizeof(T);
constexpr int DLANES = VECTOR_BYTES / sizeof(double);
typedef T V __attribute__((vector_size(VECTOR_BYTES)));
typedef T U __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
typedef double D __attribute__((vector_size(VECTOR_BYTES)));

static inline V load(const T* p) { return *reinterpret_cast<const U*>(p); }
static inline void store(T* p, V v) { *reinterpret_cast<U*>(p) = v; }
static inline V zero() { return V{}; }

// The last block of channels may be shorter than a vector.
static inline V load_part(const T* p, long count) {
  if (count >= LANES) return load(p);
  V v{};
  for (long i = 0; i < count; ++i) v[i] = p[i];
  return v;
}
static inline void store_part(T* p, V v, long count) {
  if (count >= LANES) { store(p, v); return; }
  for (long i = 0; i < count; ++i) p[i] = v[i];
}

// Sums of the lanes of four vectors at once.
typedef T Q __attribute__((vector_size(4 * sizeof(T)), may_alias));
typedef decltype(Q{} < Q{}) QIndex;
static inline Q fold(V v) {
  constexpr int N = LANES / 4 > 0 ? LANES / 4 : 1;
  union { V v; Q q[N]; } parts;
  parts.v = v;
  Q sum = parts.q[0];
  for (int i = 1; i < N; ++i) sum += parts.q[i];
  return sum;
}
static inline void add_sums(T* target, V a, V b, V c, V d) {
#if VECTOR_BYTES >= 32 && !defined(__clang__)  // clang has no __builtin_shuffle
  const Q A = fold(a), B = fold(b), C = fold(c), E = fold(d);
  const QIndex even{0, 4, 1, 5}, odd{2, 6, 3, 7}, low{0, 1, 4, 5}, high{2, 3, 6, 7};
  const Q x = __builtin_shuffle(A, B, even) + __builtin_shuffle(A, B, odd);
  const Q y = __builtin_shuffle(C, E, even) + __builtin_shuffle(C, E, odd);
  const Q sum = __builtin_shuffle(x, y, low) + __builtin_shuffle(x, y, high);
  for (int i = 0; i < 4; ++i) target[i] += sum[i];
#else
  for (int i = 0; i < LANES; ++i) { target[0] += a[i]; target[1] += b[i]; target[2] += c[i]; target[3] += d[i]; }
#endif
}

// In a .pt2 scratch memory is kept between evaluations (memory.hpp).
extern "C" void* mace_take(long bytes, void** block) __attribute__((weak));
extern "C" void mace_give(void* block) __attribute__((weak));

// Memory aligned for vectors.
struct Scratch {
  T* data;
  void* block = nullptr;
  explicit Scratch(long count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64 + 64;
    const bool large = bytes >= 4096;  // malloc finds smaller ones faster
    data = static_cast<T*>(mace_take && large ? mace_take(bytes, &block) : std::aligned_alloc(64, bytes));
    if (!data) throw std::bad_alloc();
  }
  ~Scratch() {
    if (block) mace_give(block);
    else std::free(data);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace mace
