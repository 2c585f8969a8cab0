"""Put the Triton kernels of a network into a ``.pt2``: their machine code, and C functions that launch it.

TorchInductor could take launches in user code into a file by itself. It would then compile each kernel once per program and
one after the other, and try it on arrays of made-up sizes and contents. As C functions the kernels are compiled once, at the
same time, and nothing but the model ever runs them.
"""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch

from deepmd_gnn.kernels.cpu.compiler import TORCH_HEADERS, Compiled, linked
from deepmd_gnn.kernels.triton import blocks, forces, mixing, operators
from deepmd_gnn.kernels.triton.forces_kernel import forces as forces_kernel
from deepmd_gnn.kernels.triton.mixing_kernel import mix as mix_kernel
from deepmd_gnn.kernels.triton.programs import Kernel, Program, all_compiled
from deepmd_gnn.kernels.triton.source import generated_module

if TYPE_CHECKING:
    from deepmd_gnn.kernels.triton.modules import TritonKernels

_T = "AtenTensorHandle"
_NAME = "deepmd_gnn_gpu_kernels"
# What launches the kernels, one text.
SOURCES = ("launch.hpp", "launch_blocks.hpp")
# Warps of the kernels whose number is Triton's default.
_WARPS = 4


def _declaration(name: str, tensors: int, more: str, results: int) -> str:
    arguments = [_T] * tensors + [more] * bool(more) + [f"{_T}*"] * results
    return f"AOTITorchError aoti_torch_cuda_{name}({', '.join(arguments)})"


DECLARATIONS = {
    operators.geometry: _declaration("triton_geometry", 4, "const char*", 3),
    operators.convolve: _declaration("triton_convolve", 8, "const char*", 1),
    operators.convolve_backward: _declaration("triton_convolve_backward", 9, "const char*, int64_t", 2),
    operators.contract: _declaration("triton_contract", 3, "const char*", 1),
    operators.contract_backward: _declaration("triton_contract_backward", 4, "const char*", 1),
    mixing.mix: _declaration("triton_mix", 8, "int64_t", 1),
    blocks.convolve_mix: _declaration("triton_convolve_mix", 14, "const char*, int64_t", 1),
    blocks.convolve_mix_backward: _declaration("triton_convolve_mix_backward", 12, "const char*, int64_t", 2),
    forces.forces: _declaration("triton_forces", 5, "int64_t", 1),
}


def shims() -> dict[Any, list[str]]:
    """The operators and the C functions that take their place, as ``aot_inductor.custom_ops_to_c_shims`` has them."""
    return {operator._opoverload: [text] for operator, text in DECLARATIONS.items()}


class _Tables:
    """Rows of the tables in ``launch.hpp``, and the kernels that they name."""

    def __init__(self, kernels: "TritonKernels") -> None:
        self.dtype = generated_module(kernels.geometry.code).DTYPE
        self.kernels: list[Kernel] = []
        # From the code of a module, or the sizes of a map, to numbers and kernels of its row.
        self.geometries = {kernels.geometry.code: self.geometry(kernels.geometry.code)}
        self.convolutions = {conv.code: self.convolution(conv.code) for conv in kernels.convolutions}
        self.contractions = {each.code: self.contraction(each.code) for each in kernels.contractions}
        self.forces = self.kernel(forces_kernel, BLOCK=forces.EDGES)
        self.maps: dict[tuple[int, int, int], tuple[list[int], list[int]]] = {}
        for linear in kernels.maps():
            for matrices in (linear.matrices, linear.backward_matrices):
                inputs, outputs = matrices.shape[2:]
                sizes = (int(inputs), int(outputs), max(0, linear.ntypes))
                if sizes not in self.maps:
                    self.maps[sizes] = self.map(*sizes)

    def kernel(self, function: Any, warps: int = 1, **constants: Any) -> int:
        """Note a kernel, and return its number."""
        self.kernels.append(Kernel(function, self.dtype, constants, warps))
        return len(self.kernels) - 1

    def geometry(self, code: str) -> tuple[list[int], list[int]]:
        """Row of ``GEOMETRIES``."""
        module = generated_module(code)
        return [module.ROW], [self.kernel(module.geometry, _WARPS, BLOCK=operators.EDGES_PER_PROGRAM)]

    def convolution(self, code: str) -> tuple[list[int], list[int]]:
        """Row of ``CONVOLUTIONS``."""
        module = generated_module(code)
        parts = module.BACKWARD_BLOCKS * module.GROUPS
        gradient = {"PARTS": parts, "BLOCK": operators.EDGES_PER_PROGRAM}
        kernels = [
            self.kernel(module.forward),
            self.kernel(module.backward_none),
            self.kernel(module.backward_add),
            self.kernel(module.edge_gradient, _WARPS, **gradient),
        ]
        return [module.WIDTH, module.FORWARD_BLOCKS, module.BACKWARD_BLOCKS, parts], kernels

    def contraction(self, code: str) -> tuple[list[int], list[int]]:
        """Row of ``CONTRACTIONS``; first all kernels of the values, then those of the derivatives."""
        module = generated_module(code)
        names = [f"{name}{n}" for name in ("contract", "contract_backward") for n in range(module.PARTS)]
        kernels = [self.kernel(getattr(module, name)) for name in names]
        return [module.WIDTH, module.BLOCKS, module.PARTS], kernels

    def map(self, inputs: int, outputs: int, types: int) -> tuple[list[int], list[int]]:
        """Row of ``MAPS``."""
        dtype = getattr(torch, self.dtype)
        rows, columns, depth = mixing.tile(dtype, outputs)
        sizes = {"INPUTS": inputs, "OUTPUTS": outputs, "TYPES": types}
        tile = {"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}
        kernel = self.kernel(mix_kernel, _WARPS, **sizes, **tile, REAL=mixing.triton_type(dtype))
        return [rows, columns], [kernel]


def kernels_of(kernels: "TritonKernels") -> list[Kernel]:
    """All kernels of a network, as a ``.pt2`` holds them."""
    return _Tables(kernels).kernels


def library(kernels: "TritonKernels", capability: int) -> str:
    """Compile the kernels of a network and what launches them.

    Parameters
    ----------
    kernels : TritonKernels
        The kernels.
    capability : int
        Compute capability of the GPU, 90 for 9.0.

    Returns
    -------
    str
        See :func:`~deepmd_gnn.kernels.cpu.compiler.linked`.

    Raises
    ------
    RuntimeError
        With the compiler's messages.
    """
    tables = _Tables(kernels)
    programs = all_compiled(tables.kernels, capability)
    folder = files("deepmd_gnn.kernels.triton")
    text = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in SOURCES)
    values = {
        "EDGES": str(operators.EDGES_PER_PROGRAM),
        "CAPABILITY": f"{capability // 10}.{capability % 10}",
        "DTYPE": f"aoti_torch_dtype_{tables.dtype}",
        "RECEIVERS": str(blocks.RECEIVERS),
        "MULTIPLE": str(blocks.MULTIPLE),
        "TABLES": _images(programs) + _tables(tables, programs),
    }
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    images = {f"{program.label}.cubin": program.image for program in programs}
    source = Compiled({"launch": text}, (), images)
    return linked(source.archive(_NAME, [source.object("launch", TORCH_HEADERS)]))


def _images(programs: list[Program]) -> str:
    """Machine code, taken from files by the assembler."""
    lines = []
    for label in dict.fromkeys(program.label for program in programs):
        lines.append(
            f'asm(".pushsection .rodata\\n.balign 64\\n.hidden {label}\\n.global {label}\\n'
            f'{label}:\\n.incbin \\"{label}.cubin\\"\\n.popsection\\n");'
        )
        lines.append(
            f'extern "C" {{ extern __attribute__((visibility("hidden"))) const unsigned char {label}[]; }}'
        )
    return "\n".join(lines) + "\n\n"


def _tables(tables: _Tables, programs: list[Program]) -> str:
    def program(number: int) -> str:
        one = programs[number]
        return f'{{"{one.name}", {one.label}, {one.shared}, {one.threads}, {{}}}}'

    def row(code: str, numbers: list[int], cells: list[str]) -> str:
        return "{" + ", ".join([f'"{code}"', *map(str, numbers), *cells]) + "}"

    text = f"Program FORCES = {program(tables.forces)};\n"
    contractions = []
    for place, (code, (numbers, kernels)) in enumerate(tables.contractions.items()):
        for name, part in (("FORWARD", kernels[: numbers[2]]), ("BACKWARD", kernels[numbers[2] :])):
            text += f"Program {name}{place}[] = {{{', '.join(map(program, part))}}};\n"
        contractions.append(row(code, numbers, [f"FORWARD{place}", f"BACKWARD{place}"]))
    text += f"Contraction CONTRACTIONS[] = {{{', '.join(contractions)}}};\n"
    for kind, name, rows in (
        ("Geometry", "GEOMETRIES", tables.geometries),
        ("Convolution", "CONVOLUTIONS", tables.convolutions),
    ):
        cells = [row(code, numbers, list(map(program, found))) for code, (numbers, found) in rows.items()]
        text += f"{kind} {name}[] = {{{', '.join(cells)}}};\n"
    maps = [
        f"{{{', '.join([*map(str, sizes), *map(str, numbers), *map(program, found)])}}}"
        for sizes, (numbers, found) in tables.maps.items()
    ]
    return text + f"Map MAPS[] = {{{', '.join(maps)}}};\n"


def capability() -> int:
    """Compute capability of the GPU that a file is frozen on and for, 90 for 9.0."""
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
