"""What launches Triton kernels in a ``.pt2``, on a CPU: the C functions themselves, above a driver that computes kernels in torch.

The arrays are tensors of the CPU. Whatever a launch is given, pointers, sizes and grid, is what a GPU would be given.
"""

import ctypes
import subprocess
from importlib.resources import files
from pathlib import Path

import torch

from deepmd_gnn.kernels.cpu.compiler import TORCH_HEADERS
from deepmd_gnn.kernels.triton import linking, reference
from deepmd_gnn.kernels.triton.programs import INTEGERS, Program
from deepmd_gnn.kernels.triton.source import generated_module

DRIVER = """
extern "C" {
static int (*launched)(int, unsigned, unsigned, unsigned, void**);
void call_at_launch(int (*function)(int, unsigned, unsigned, unsigned, void**)) { launched = function; }
int cuModuleLoadData(void** module, const void* image) { *module = const_cast<void*>(image); return 0; }
int cuModuleGetFunction(void** function, void* module, const char*) { *function = module; return 0; }
int cuLaunchKernel(void* number, unsigned x, unsigned y, unsigned z, unsigned, unsigned, unsigned, unsigned, void*, void** values,
                   void**) { return launched(*static_cast<unsigned char*>(number), x, y, z, values); }
int cuMemsetD8Async(unsigned long long at, unsigned char value, size_t bytes, void*) {
  std::memset(reinterpret_cast<void*>(at), value, bytes);
  return 0;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuGetErrorString(int, const char** text) { *text = "emulated"; return 0; }
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) { *stream = nullptr; return 0; }
}
"""
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, *[ctypes.c_uint] * 3, ctypes.POINTER(ctypes.c_void_p))
C_TYPES = {"i32": ctypes.c_int32, "i64": ctypes.c_int64}
TORCH = Path(torch.__file__).parent / "lib"


class EmulatedGpu:
    """The C functions of a network's kernels.

    Parameters
    ----------
    kernels : TritonKernels
        The kernels.
    folder : Path
        To compile in.
    constants : dict[str, int]
        Other values of constants in the source, by name.
    """

    def __init__(self, kernels, folder, **constants):
        self.tables = linking._Tables(kernels)
        self.dtype = getattr(torch, self.tables.dtype)
        self.codes = {
            n: code for code, (_, found) in self.tables.convolutions.items() for n in found
        }  # of kernels of a convolution
        programs = [Program(f"k{n}", bytes([n]), 0, 32) for n in range(len(self.tables.kernels))]
        images = "".join(
            f"static const unsigned char {one.label}[] = {{{n}}};\n" for n, one in enumerate(programs)
        )
        package = files("deepmd_gnn.kernels.triton")
        text = "".join(package.joinpath(name).read_text() for name in linking.SOURCES) + DRIVER
        library = folder / "launches.so"
        values = {
            "@EDGES@": "128",
            "@CAPABILITY@": "none",
            "@DTYPE@": f"aoti_torch_dtype_{self.tables.dtype}",
            "@TABLES@": images + linking._tables(self.tables, programs),
            "libcuda.so.1": str(library),
            "aoti_torch_device_type_cuda": "aoti_torch_device_type_cpu",
            "aoti_torch_get_device_index(tensor, &device)": "device = tensor ? 0 : -1",
            **{f"@{name}@": str(value) for name, value in constants.items()},
        }
        for name, value in values.items():
            text = text.replace(name, value)
        source = folder / "launches.cpp"
        source.write_text(text)
        command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O0"]
        linked = [f"-L{TORCH}", "-ltorch_cpu", "-lc10"]
        subprocess.run([*command, TORCH_HEADERS, "-o", library, source, *linked], check=True)
        self.library, self.torch = ctypes.CDLL(str(library)), ctypes.CDLL(str(TORCH / "libtorch_cpu.so"))
        self.launches, self.errors, self.arrays = [], [], {}
        self.callback = CALLBACK(self._launched)
        self.library.call_at_launch(self.callback)

    def call(self, name, tensors, numbers, results):
        """Call a C function.

        Parameters
        ----------
        name : str
            Of the operator.
        tensors : list[torch.Tensor]
            Its tensors.
        numbers : list[str | int]
            Its other arguments.
        results : list[tuple[tuple[int, ...], torch.dtype]]
            Shape and precision of its results.
        """
        handles = [ctypes.c_void_p(_pointer(tensor)) for tensor in tensors]
        others = [ctypes.c_char_p(x.encode()) if isinstance(x, str) else ctypes.c_int64(x) for x in numbers]
        found = [ctypes.c_void_p() for _ in results]
        error = self.library[f"aoti_torch_cuda_{name}"](*handles, *others, *map(ctypes.byref, found))
        if self.errors:
            raise self.errors[0]
        assert error == 0
        values = []
        for one, (shape, dtype) in zip(found, results, strict=True):
            at = ctypes.c_void_p()
            self.torch.aoti_torch_get_data_ptr(one, ctypes.byref(at))
            values.append(_memory(at.value, shape, dtype).clone())
            self.torch.aoti_torch_delete_tensor_object(one)
        return values

    def _launched(self, number, x, y, z, values):
        kernel = self.tables.kernels[number]
        try:
            self._compute(kernel, self.codes.get(number), (x, y, z), self._arguments(kernel, values))
        except Exception as error:  # C calls, which knows no exceptions
            self.errors.append(error)
            return 1
        return 0

    def _arguments(self, kernel, values):
        """Arguments of a launch by name; two null pointers follow."""
        names = [name for name in kernel.function.arg_names if name not in kernel.constants]
        kinds = [C_TYPES.get(INTEGERS.get(name, "*"), ctypes.c_void_p) for name in names]
        found = {}
        for name, kind, value in zip(
            [*names, "none", "none"], [*kinds, *[ctypes.c_void_p] * 2], values[: len(names) + 2], strict=True
        ):
            found[name] = ctypes.cast(value, ctypes.POINTER(kind)).contents.value or 0
        assert found.pop("none") == 0
        for name in found.keys() & self.arrays.keys():
            assert found[name] == self.arrays[name].data_ptr(), name
        return found

    def _compute(self, kernel, code, grid, given):
        name, nnode = kernel.function.__name__, given["nnode"]
        self.launches.append((name, nnode))
        if name == "mix":
            self._mix(kernel.constants, grid, given)
            return
        module, arrays = generated_module(code), self.arrays
        begin = _memory(given["begin"], (nnode + 1,), torch.int64)
        first, last = int(begin[0]), int(begin[-1])
        edges = {key: arrays[key][first:last] for key in ("packed", "row", "source", "order")}
        assert given["count"] == len(arrays["order"])
        parts = (module.BACKWARD_BLOCKS * module.GROUPS, 4, given["count"])
        if name == "forward":
            assert grid == (nnode * module.FORWARD_BLOCKS, 1, 1)
            del edges["order"]
            out = reference.convolve(arrays["sent"], *edges.values(), begin - first, arrays["table"], module)
            _memory(given["out"], out.shape, self.dtype).copy_(out)
        elif name == "edge_gradient":
            sums = _memory(given["sums"], parts, self.dtype)
            out = _memory(given["out"], arrays["vectors"].shape, torch.float64)
            out[edges["order"]] = sums[0, :3, first:last].T.double()
        else:
            assert grid == (nnode * module.BACKWARD_BLOCKS, 1, 1)
            sent, adds = arrays["sent"], name == "backward_add"
            gradient = _memory(given["gradient"], (nnode, module.WIDTH, sent.shape[2]), self.dtype)
            inputs = (gradient, arrays["vectors"], sent, *edges.values(), begin - first, arrays["table"])
            vectors, senders = reference.convolve_backward(*inputs, module, adds)
            # Instead of the sums, which only this kernel and the next one know.
            sums = _memory(given["sums"], parts, self.dtype)
            sums[0, :3, first:last] = vectors[edges["order"]].T.to(self.dtype)
            if adds:
                _memory(given["d_sent"], senders.shape, self.dtype).add_(senders)

    def _mix(self, sizes, grid, given):
        nnode, width, inputs, outputs = given["nnode"], given["width"], sizes["INPUTS"], sizes["OUTPUTS"]
        assert grid == (-(-nnode // sizes["ROWS"]), width, -(-outputs // sizes["COLUMNS"]))
        assert sizes["TYPES"] == 0
        features = _memory(given["features"], (nnode, given["components"], inputs), self.dtype)
        matrices = _memory(given["matrices"], (1, given["nmatrix"], inputs, outputs), self.dtype)
        begins = _memory(given["begins"], (given["known"] + 1,), torch.int32)
        paths = _memory(given["paths"], (int(begins[-1]), 2), torch.int32)
        out = reference.mix(features, matrices, begins, paths, features.new_empty(0), width)
        _memory(given["out"], out.shape, self.dtype).copy_(out)


def _pointer(tensor):
    capsule = torch._C._aoti.unsafe_alloc_void_ptr_from_tensor(tensor)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return get(capsule, None)


def _memory(at, shape, dtype):
    """A tensor that lies where a pointer points."""
    numbers = torch.Size(shape).numel()
    if numbers == 0:
        return torch.empty(shape, dtype=dtype)
    buffer = (ctypes.c_char * (numbers * dtype.itemsize)).from_address(at)
    return torch.frombuffer(buffer, dtype=dtype).view(shape)
