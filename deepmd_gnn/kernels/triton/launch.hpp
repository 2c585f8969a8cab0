// The operators as C functions that AOTInductor's code for a GPU calls: they launch the machine code that Triton has made.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>

extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace {

constexpr AOTITorchError OK = 0, FAILED = 1;
constexpr int MOST_DEVICES = 64, EDGES_PER_PROGRAM = @EDGES@;

// --- The driver, found when a kernel is launched for the first time: no headers of CUDA are needed to compile this.

struct Driver {
  int (*load)(void**, const void*);
  int (*find)(void**, void*, const char*);
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
  int (*clear)(unsigned long long, unsigned char, size_t, void*);
  int (*allow)(void*, int, int);
  int (*text)(int, const char**);

  Driver() {
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    symbol(library, "cuModuleLoadData", load);
    symbol(library, "cuModuleGetFunction", find);
    symbol(library, "cuLaunchKernel", launch);
    symbol(library, "cuMemsetD8Async", clear);
    symbol(library, "cuFuncSetAttribute", allow);
    symbol(library, "cuGetErrorString", text);
  }

  template <class F>
  static void symbol(void* library, const char* name, F& function) {
    function = library ? reinterpret_cast<F>(dlsym(library, name)) : nullptr;
  }

  bool complete() const { return load && find && launch && clear && allow && text; }
};

Driver& driver() {
  static Driver found;
  return found;
}

AOTITorchError failed(const char* what, int code) {
  const char* reason = nullptr;
  if (driver().text) driver().text(code, &reason);
  std::fprintf(stderr, "Error: deepmd_gnn: %s: %s\n", what, reason ? reason : "no CUDA driver (libcuda.so.1)");
  return FAILED;
}

struct Program {
  const char* name;
  const unsigned char* image;
  unsigned shared, threads;
  void* functions[MOST_DEVICES];
};

// Dynamic shared memory that a kernel may have without asking, and the attribute that asks (CU_FUNC_ATTRIBUTE_...).
constexpr unsigned WITHOUT_ASKING = 48 * 1024;
constexpr int MOST_SHARED = 8;

// The function on the current device, whose context AOTInductor's code has made current.
AOTITorchError function_of(Program& program, int32_t device, void** function) {
  static std::mutex mutex;
  if (device < 0 || device >= MOST_DEVICES || !driver().complete()) return failed("cannot launch kernels", -1);
  std::lock_guard<std::mutex> lock(mutex);
  if (!program.functions[device]) {
    void *module = nullptr, *found = nullptr;
    int code = driver().load(&module, program.image);
    if (!code) code = driver().find(&found, module, program.name);
    if (!code && program.shared > WITHOUT_ASKING) code = driver().allow(found, MOST_SHARED, int(program.shared));
    if (code) {
      std::fprintf(stderr, "Error: deepmd_gnn: this .pt2 was frozen for a GPU of compute capability @CAPABILITY@\n");
      return failed("its kernels cannot be loaded", code);
    }
    program.functions[device] = found;
  }
  *function = program.functions[device];
  return OK;
}

struct Place {
  int32_t device = 0;
  void* stream = nullptr;

  explicit Place(AtenTensorHandle tensor) {
    aoti_torch_get_device_index(tensor, &device);
    aoti_torch_get_current_cuda_stream(device, &stream);
  }
};

// What TorchInductor's kernels read: they count in 32 bits.
bool countable(int64_t numbers) {
  if (numbers <= 2147483647) return true;
  std::fprintf(stderr, "Error: deepmd_gnn: too many atoms on one GPU for a .pt2; use more ranks and GPUs\n");
  return false;
}

// Launch with these arguments, followed by the two scratch spaces that Triton's kernels ask for and these do not use.
template <class... A>
AOTITorchError launch(Program& program, const Place& place, int64_t x, int64_t y, int64_t z, A... arguments) {
  if (x <= 0 || y <= 0 || z <= 0) return OK;
  if (!countable(x)) return FAILED;
  void* function = nullptr;
  if (function_of(program, place.device, &function)) return FAILED;
  unsigned long long none = 0;
  void* pointers[] = {static_cast<void*>(&arguments)..., &none, &none};
  const int code = driver().launch(function, unsigned(x), unsigned(y), unsigned(z), program.threads, 1, 1, program.shared,
                                   place.stream, pointers, nullptr);
  return code ? failed(program.name, code) : OK;
}

// --- Tensors

void* data(AtenTensorHandle tensor) {
  void* pointer = nullptr;
  aoti_torch_get_data_ptr(tensor, &pointer);
  return pointer;
}

int64_t size(AtenTensorHandle tensor, int64_t axis) {
  int64_t value = 0;
  aoti_torch_get_size(tensor, axis, &value);
  return value;
}

int64_t numel(AtenTensorHandle tensor) {
  int64_t value = 0;
  aoti_torch_get_numel(tensor, &value);
  return value;
}

int32_t dtype(AtenTensorHandle tensor) {
  int32_t value = 0;
  aoti_torch_get_dtype(tensor, &value);
  return value;
}

// The kernels read four numbers at a time.
bool aligned(AtenTensorHandle tensor) {
  if (reinterpret_cast<uintptr_t>(data(tensor)) % 16 == 0) return true;
  std::fprintf(stderr, "Error: deepmd_gnn: an array does not begin at a multiple of 16 bytes\n");
  return false;
}

AtenTensorHandle empty(int ndim, int64_t a, int64_t b, int64_t c, int32_t dtype, const Place& place) {
  const int64_t sizes[3] = {a, b, c};
  const int64_t strides[3] = {ndim > 1 ? b * (ndim > 2 ? c : 1) : 1, ndim > 2 ? c : 1, 1};
  AtenTensorHandle result = nullptr;
  aoti_torch_empty_strided(ndim, sizes, strides, dtype, aoti_torch_device_type_cuda(), place.device, &result);
  return result;
}

AOTITorchError clear(AtenTensorHandle tensor, const Place& place) {
  const size_t bytes = numel(tensor) * aoti_torch_dtype_element_size(dtype(tensor));
  if (!bytes) return OK;
  if (!driver().complete()) return failed("cannot launch kernels", -1);
  const int code = driver().clear(reinterpret_cast<unsigned long long>(data(tensor)), 0, bytes, place.stream);
  return code ? failed("cannot clear memory", code) : OK;
}

// --- What was compiled

struct Geometry {
  const char* code;
  int64_t row;
  Program geometry;
};
struct Convolution {
  const char* code;
  int64_t width, forward_blocks, backward_blocks, parts;
  Program forward, backward_none, backward_add, edge_gradient;
};
struct Contraction {
  const char* code;
  int64_t width, blocks, groups;
  Program* forward;
  Program* backward;
};
struct Map {
  int64_t inputs, outputs, types, rows, columns;
  Program mix;
};

@TABLES@

template <class M, size_t N>
M* find(M (&modules)[N], const char* code) {
  for (M& module : modules)
    if (std::strcmp(module.code, code) == 0) return &module;
  std::fprintf(stderr, "Error: deepmd_gnn: no kernel %s in this file\n", code);
  return nullptr;
}

Map* map_of(int64_t inputs, int64_t outputs, int64_t types) {
  for (Map& map : MAPS)
    if (map.inputs == inputs && map.outputs == outputs && map.types == types) return &map;
  std::fprintf(stderr, "Error: deepmd_gnn: no kernel for a map from %ld to %ld channels in this file\n", long(inputs),
               long(outputs));
  return nullptr;
}

AOTITorchError launch_map(Map& map, const Place& place, void* features, int64_t nnode, int64_t components,
                          AtenTensorHandle matrices, AtenTensorHandle begins, AtenTensorHandle paths, void* one_hot,
                          int64_t width, void* out) {
  return launch(map.mix, place, (nnode + map.rows - 1) / map.rows, width, (map.outputs + map.columns - 1) / map.columns,
                features, data(matrices), data(begins), data(paths), one_hot, out, nnode, int32_t(components),
                int32_t(size(matrices, 1)), int32_t(width), int32_t(size(begins, 0) - 1));
}

}  // namespace

// --- The operators, see operators.py and mixing.py

extern "C" AOTITorchError aoti_torch_cuda_triton_geometry(AtenTensorHandle vectors, AtenTensorHandle edge_index,
                                                          AtenTensorHandle types, AtenTensorHandle order,
                                                          const char* code, AtenTensorHandle* packed,
                                                          AtenTensorHandle* row, AtenTensorHandle* source) {
  Geometry* module = find(GEOMETRIES, code);
  if (!module) return FAILED;
  const Place place(vectors);
  const int64_t count = size(order, 0), nedge = size(vectors, 0);
  if (!countable(9 * nedge)) return FAILED;  // the terms of the virial
  *packed = empty(2, count, module->row, 1, @DTYPE@(), place);
  *row = empty(1, count, 1, 1, aoti_torch_dtype_int32(), place);
  *source = empty(1, count, 1, 1, aoti_torch_dtype_int32(), place);
  if (!*packed || !*row || !*source || !aligned(vectors)) return FAILED;
  return launch(module->geometry, place, count / EDGES_PER_PROGRAM + 1, 1, 1, data(vectors), data(edge_index),
                data(types), data(order), data(*packed), data(*row), data(*source), count, nedge);
}

extern "C" AOTITorchError aoti_torch_cuda_triton_convolve(AtenTensorHandle, AtenTensorHandle sent,
                                                          AtenTensorHandle packed, AtenTensorHandle row,
                                                          AtenTensorHandle source, AtenTensorHandle order,
                                                          AtenTensorHandle begin, AtenTensorHandle table,
                                                          const char* code, AtenTensorHandle* out) {
  Convolution* module = find(CONVOLUTIONS, code);
  if (!module) return FAILED;
  const Place place(sent);
  const int64_t nnode = size(begin, 0) - 1, count = size(order, 0);
  if (!countable(nnode * module->width * size(sent, 2)) || !countable(numel(sent))) return FAILED;
  *out = empty(3, nnode, module->width, size(sent, 2), dtype(sent), place);
  if (!*out || !aligned(sent) || !aligned(packed) || !aligned(table)) return FAILED;
  return launch(module->forward, place, nnode * module->forward_blocks, 1, 1, data(packed), data(row), data(source),
                data(begin), data(table), data(sent), data(*out), count, nnode);
}

extern "C" AOTITorchError aoti_torch_cuda_triton_convolve_backward(
    AtenTensorHandle gradient, AtenTensorHandle vectors, AtenTensorHandle sent, AtenTensorHandle packed,
    AtenTensorHandle row, AtenTensorHandle source, AtenTensorHandle order, AtenTensorHandle begin,
    AtenTensorHandle table, const char* code, int64_t senders, AtenTensorHandle* d_vectors, AtenTensorHandle* d_sent) {
  Convolution* module = find(CONVOLUTIONS, code);
  if (!module) return FAILED;
  const Place place(sent);
  const int64_t nnode = size(begin, 0) - 1, count = size(order, 0);
  *d_vectors = empty(2, size(vectors, 0), 3, 1, dtype(vectors), place);
  *d_sent = senders ? empty(3, size(sent, 0), size(sent, 1), size(sent, 2), dtype(sent), place)
                    : empty(1, 0, 1, 1, dtype(sent), place);
  AtenTensorHandle sums = empty(3, module->parts, 4, count, dtype(sent), place);
  if (!*d_vectors || !*d_sent || !sums || !aligned(gradient) || !aligned(vectors) || !aligned(sent)) return FAILED;
  // Edges in no list, as the guard's, have no gradient.
  AOTITorchError error = clear(*d_vectors, place);
  if (!error) error = clear(*d_sent, place);
  if (!error)
    error = launch(senders ? module->backward_add : module->backward_none, place, nnode * module->backward_blocks, 1, 1,
                   data(packed), data(row), data(source), data(begin), data(table), data(sent), data(gradient),
                   data(sums), data(*d_sent), count, nnode);
  if (!error)
    error = launch(module->edge_gradient, place, count / EDGES_PER_PROGRAM + 1, 1, 1, data(vectors), data(order),
                   data(begin), data(sums), data(*d_vectors), count, nnode);
  aoti_torch_delete_tensor_object(sums);
  return error;
}

extern "C" AOTITorchError aoti_torch_cuda_triton_contract(AtenTensorHandle features, AtenTensorHandle coefficients,
                                                          AtenTensorHandle kind, const char* code,
                                                          AtenTensorHandle* out) {
  Contraction* module = find(CONTRACTIONS, code);
  if (!module) return FAILED;
  const Place place(features);
  const int64_t nnode = size(features, 0);
  *out = empty(3, nnode, module->width, size(features, 2), dtype(features), place);
  if (!*out || !aligned(features) || !aligned(coefficients)) return FAILED;
  AOTITorchError error = OK;
  for (int64_t group = 0; group < module->groups && !error; ++group)
    error = launch(module->forward[group], place, nnode * module->blocks, 1, 1, data(features), data(coefficients),
                   data(kind), data(*out));
  return error;
}

extern "C" AOTITorchError aoti_torch_cuda_triton_contract_backward(AtenTensorHandle gradient,
                                                                   AtenTensorHandle features,
                                                                   AtenTensorHandle coefficients,
                                                                   AtenTensorHandle kind, const char* code,
                                                                   AtenTensorHandle* out) {
  Contraction* module = find(CONTRACTIONS, code);
  if (!module) return FAILED;
  const Place place(features);
  const int64_t nnode = size(features, 0);
  *out = empty(3, nnode, size(features, 1), size(features, 2), dtype(features), place);
  if (!*out || !aligned(gradient) || !aligned(features) || !aligned(coefficients)) return FAILED;
  AOTITorchError error = OK;
  for (int64_t group = 0; group < module->groups && !error; ++group)
    error = launch(module->backward[group], place, nnode * module->blocks, 1, 1, data(gradient), data(features),
                   data(coefficients), data(kind), data(*out));
  return error;
}

extern "C" AOTITorchError aoti_torch_cuda_triton_mix(AtenTensorHandle features, AtenTensorHandle matrices,
                                                     AtenTensorHandle begins, AtenTensorHandle paths, AtenTensorHandle,
                                                     AtenTensorHandle, AtenTensorHandle, AtenTensorHandle one_hot,
                                                     int64_t width, AtenTensorHandle* out) {
  const Place place(features);
  const int64_t nnode = size(features, 0), inputs = size(features, 2), outputs = size(matrices, 3);
  int64_t dimensions = 0;
  aoti_torch_get_dim(one_hot, &dimensions);
  const int64_t types = dimensions == 2 ? size(one_hot, 1) : 0;
  *out = empty(3, nnode, width, outputs, dtype(features), place);
  if (!*out || !aligned(features) || !aligned(matrices) || !aligned(one_hot)) return FAILED;
  Map* map = map_of(inputs, outputs, types);
  if (!map) return FAILED;
  return launch_map(*map, place, data(features), nnode, size(features, 1), matrices, begins, paths, data(one_hot),
                    width, data(*out));
}

extern "C" AOTITorchError aoti_torch_cuda_triton_forces(AtenTensorHandle gradient, AtenTensorHandle vectors,
                                                        AtenTensorHandle edge_atoms, AtenTensorHandle order,
                                                        AtenTensorHandle begin, int64_t natom, AtenTensorHandle* out) {
  const Place place(vectors);
  *out = empty(1, 12 * (natom + 1), 1, 1, dtype(vectors), place);
  if (!*out || !aligned(gradient) || !aligned(vectors)) return FAILED;
  const AOTITorchError error = clear(*out, place);
  return error ? error
               : launch(FORCES, place, size(begin, 0) - 1, 1, 1, data(gradient), data(vectors), data(edge_atoms),
                        data(order), data(begin), data(*out), natom, size(order, 0), size(edge_atoms, 1));
}
