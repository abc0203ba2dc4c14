"""`python -m experiments.bench.gpu.peer`: mamba_ssm's own CUDA selective scan, built without its setup.

What is compiled is the csrc/selective_scan folder of the mamba_ssm package, unchanged; this project keeps none of it.
The package's setup compiles for every kind of GPU and needs Python's headers. Here it is compiled for one kind, and
its two functions are bound as torch operators, so that the library made on one machine loads with any Python on another
that has the same torch. A process imports it with the folder written here on PYTHONPATH.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from analysis.files import ResultError
from analysis.terminal import new_app, run_app

app = new_app()

NAME = "selective_scan_cuda"
"""The module that mamba_ssm imports."""

SHIM = r"""// Stands in for <torch/python.h>, so that selective_scan.cpp compiles without Python: what it would
// bind by pybind11 becomes operators of torch.
#pragma once
#include <torch/library.h>
#include <torch/types.h>

struct OperatorBinder {
    torch::Library& library;
    // An operator takes no reference that is not const, as the backward does: so each argument is passed by value.
    template <typename Result, typename... Arguments>
    void def(const char* name, Result (*function)(Arguments...), const char* /* docstring */) {
        library.def(name, [function](std::decay_t<Arguments>... arguments) { return function(arguments...); });
    }
};

#define PYBIND11_MODULE(name, m)                      \
    static void bind_operators(OperatorBinder& m);    \
    TORCH_LIBRARY(selective_scan_cuda, library) {     \
        OperatorBinder binder{library};               \
        bind_operators(binder);                       \
    }                                                 \
    static void bind_operators(OperatorBinder& m)
"""

MODULE = '''"""mamba_ssm's selective scan, forward and backward, from the library beside this file."""

from pathlib import Path

import torch

torch.ops.load_library(Path(__file__).with_suffix(".so"))

fwd = torch.ops.selective_scan_cuda.fwd.default
bwd = torch.ops.selective_scan_cuda.bwd.default
'''

FLAGS = (
    "-O3",
    "-std=c++17",
    "--use_fast_math",
    "-U__CUDA_NO_HALF_OPERATORS__",
    "-U__CUDA_NO_HALF_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT16_OPERATORS__",
    "-U__CUDA_NO_BFLOAT16_CONVERSIONS__",
    "-U__CUDA_NO_BFLOAT162_OPERATORS__",
    "-U__CUDA_NO_BFLOAT162_CONVERSIONS__",
    "--expt-relaxed-constexpr",
    "--expt-extended-lambda",
    "--ptxas-options=-v",
    "--compress-mode=size",
    "-Xcompiler=-fPIC",
    "-D_GLIBCXX_USE_CXX11_ABI=1",
)
"""Those of the package's setup, less its record of source lines, and with kernels stored as small as they go."""

LEFT_OUT = r"""// Stands in for the kernels that were left out of this build.
#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>
#include <cuda_runtime_api.h>

struct SSMParamsBase;
struct SSMParamsBwd;
using complex_t = c10::complex<float>;

template <typename input_t, typename weight_t>
void selective_scan_fwd_cuda(SSMParamsBase& params, cudaStream_t stream);
template <typename input_t, typename weight_t>
void selective_scan_bwd_cuda(SSMParamsBwd& params, cudaStream_t stream);
"""

LIBRARIES = ("c10", "torch_cpu", "c10_cuda", "torch_cuda")
"""Of torch; a process that has imported torch holds them all."""


@dataclass(frozen=True)
class Build:
    """What is built with what.

    Attributes:
        source: the folder of the mamba_ssm package's source, with csrc and mamba_ssm in it.
        out: where module, library and package are written; objects are kept in its folder "objects".
        nvcc: the compiler.
        torch_include: the folder of torch's headers; the libraries stand in "lib" beside it.
        arch: the kind of GPU, as in sm_90.
        jobs: how many compilers run at once.
        leave_out: files of kernels whose name has one of these are not compiled; a call that needs one raises.
    """

    source: Path
    out: Path
    nvcc: Path
    torch_include: Path
    arch: str = "90"
    jobs: int = 1
    leave_out: tuple[str, ...] = ()

    @property
    def objects(self) -> Path:
        """Folder of the objects, their commands and what the compiler said."""
        return self.out / "objects"

    @property
    def kernels(self) -> list[Path]:
        """The package's files of kernels, left out or not."""
        return sorted((self.source / "csrc" / "selective_scan").glob("*.cu"))

    @property
    def left_out(self) -> list[Path]:
        """The files of kernels that are not compiled."""
        return [path for path in self.kernels if any(text in path.name for text in self.leave_out)]

    @property
    def stand_in(self) -> Path:
        """The file that is compiled in place of those left out."""
        return self.objects / "left_out.cpp"

    @property
    def sources(self) -> list[Path]:
        """The files to compile."""
        compiled = [path for path in self.kernels if path not in self.left_out]
        binding = self.source / "csrc" / "selective_scan" / "selective_scan.cpp"
        return [*compiled, binding, *([self.stand_in] if self.left_out else [])]

    def compile_command(self, source: Path) -> list[str]:
        """The command that compiles one file."""
        includes = (self.objects, self.torch_include, self.torch_include / "torch/csrc/api/include")
        return [
            str(self.nvcc),
            f"-gencode=arch=compute_{self.arch},code=sm_{self.arch}",
            *FLAGS,
            *(f"-I{path}" for path in includes),
            "-c",
            str(source),
            "-o",
            str(self.object_of(source)),
        ]

    def link_command(self) -> list[str]:
        """The command that links the library; a symbol that neither torch nor CUDA has is an error."""
        return [
            str(self.nvcc),
            "-shared",
            "--cudart=shared",
            "-Xlinker=--strip-all",
            "-Xlinker=-z,defs",
            *(str(self.object_of(source)) for source in self.sources),
            f"-L{self.torch_include.parent / 'lib'}",
            *(f"-l{library}" for library in LIBRARIES),
            "-o",
            str(self.library),
        ]

    @property
    def library(self) -> Path:
        """The library that is made."""
        return self.out / f"{NAME}.so"

    def object_of(self, source: Path) -> Path:
        """Where the object of a source goes."""
        return self.objects / f"{source.name}.o"


def build(plan: Build, console: Console) -> Path:
    """Compiles and links the library, and writes the module and the package that use it.

    A file that was compiled by the same command after it was last changed is not compiled again.

    Args:
        plan: what is built with what.
        console: where a line of progress is written for each file.

    Returns:
        The library.

    Raises:
        ResultError: the source is not that of mamba_ssm, or the compiler failed.
    """
    for needed in ("csrc/selective_scan/selective_scan.cpp", "mamba_ssm/__init__.py"):
        if not (plan.source / needed).is_file():
            raise ResultError(f"{plan.source} is not the source of mamba_ssm: it lacks {needed}")
    _write_if_new(plan.objects / "torch" / "python.h", SHIM)
    _write_if_new(plan.stand_in, stand_in_for(plan.left_out))
    _compile_all(plan, console)
    made = max(plan.object_of(source).stat().st_mtime for source in plan.sources)
    _run_once(plan.link_command(), plan.library, made, plan.objects / plan.library.name, console)
    _write_if_new(plan.out / f"{NAME}.py", MODULE)
    copy_package(plan.source / "mamba_ssm", plan.out / "mamba_ssm")
    return plan.library


def _compile_all(plan: Build, console: Console) -> None:
    headers = [*plan.source.glob("csrc/selective_scan/*h"), plan.objects / "torch" / "python.h"]
    shared = max(path.stat().st_mtime for path in headers)
    with ThreadPoolExecutor(plan.jobs) as pool:
        runs = [
            pool.submit(
                _run_once,
                plan.compile_command(source),
                plan.object_of(source),
                max(shared, source.stat().st_mtime),
                plan.object_of(source),
                console,
            )
            for source in plan.sources
        ]
        done, _ = wait(runs, return_when=FIRST_EXCEPTION)
        pool.shutdown(cancel_futures=True)
    for run in done:
        run.result()


def _run_once(command: Sequence[str], made: Path, changed: float, notes: Path, console: Console) -> None:
    """Runs a command unless what it makes is there, newer than its sources and made by the same command.

    Args:
        command: nvcc and its arguments.
        made: the file that it makes.
        changed: when the sources were last changed.
        notes: the command is kept under this name with ".command" added, what nvcc said with ".log" added.
        console: where a line is written.

    Raises:
        ResultError: nvcc failed; the message names the file and nvcc's first line of an error.
    """
    record, log = (notes.with_name(notes.name + suffix) for suffix in (".command", ".log"))
    line = shlex.join(command)
    kept = made.is_file() and made.stat().st_mtime >= changed and _text(record) == line
    console.print(f"{'kept' if kept else 'making'} {made.name}", markup=False, highlight=False)
    if kept:
        return
    record.unlink(missing_ok=True)
    with log.open("w") as out:
        status = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise ResultError(
            f"{made.name}: {first_error(log.read_text()) or f'nvcc ended with status {status}'}"
        )
    record.write_text(line)
    console.print(f"made {made.name}", markup=False, highlight=False)


def first_error(said: str) -> str:
    """The first line that tells of an error in what nvcc said, else the first line that is not empty."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = (
        line for line in lines if re.search(r"\b(error|fatal|undefined reference)\b", line, re.IGNORECASE)
    )
    return next(errors, next(iter(lines), ""))


def stand_in_for(kernels: Sequence[Path]) -> str:
    """C++ with the functions that the files would define; each raises an error that names its file."""
    defined = (
        f'template <> {function} {{ TORCH_CHECK(false, "{path.name} was left out of this build"); }}\n'
        for path in kernels
        for function in re.findall(r"^template (void \w+<[^>]*>\(.*\));", path.read_text(), re.MULTILINE)
    )
    return LEFT_OUT + "".join(defined)


def copy_package(package: Path, out: Path) -> None:
    """Copies the Python files of mamba_ssm, with an __init__.py that has the version alone.

    The package's own __init__.py imports every model it has, and with them packages that no scan needs. The modules
    below it, the scan's interface among them, are copied as they are.

    Args:
        package: the folder mamba_ssm of the source.
        out: where it goes; what is there is replaced.

    Raises:
        ResultError: the package's __init__.py tells no version.
    """
    version = re.search(r"^__version__ *=.*$", (package / "__init__.py").read_text(), re.MULTILINE)
    if version is None:
        raise ResultError(f"{package / '__init__.py'} has no line that begins with __version__")
    shutil.rmtree(out, ignore_errors=True)
    for path in sorted(package.rglob("*.py")):
        copied = out / path.relative_to(package)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
    (out / "__init__.py").write_text(version.group() + "\n")


def unpacked(source: Path, folder: Path) -> Path:
    """The folder of a source, unpacked from its archive where it is one.

    Args:
        source: an sdist, or the folder that one unpacks to.
        folder: where an sdist is unpacked.

    Returns:
        The folder with csrc and mamba_ssm in it.

    Raises:
        ResultError: it is neither a folder nor a tar archive of one.
    """
    if source.is_dir():
        return source
    if not source.is_file() or not tarfile.is_tarfile(source):
        raise ResultError(f"--source {source}: it must be mamba_ssm's sdist or the folder of its source")
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
        tops = {Path(name).parts[0] for name in archive.getnames()}
    if len(tops) != 1:
        raise ResultError(f"--source {source}: an sdist has one folder, this has {len(tops)}")
    return folder / tops.pop()


def find_nvcc() -> Path:
    """nvcc of CUDA_HOME, else of PATH.

    Raises:
        ResultError: there is none.
    """
    for nvcc in _nvccs():
        if nvcc.is_file():
            return nvcc
    raise ResultError("no nvcc in CUDA_HOME/bin or on PATH; name one with --nvcc")


def _nvccs() -> Iterator[Path]:
    if home := os.environ.get("CUDA_HOME"):
        yield Path(home) / "bin" / "nvcc"
    if found := shutil.which("nvcc"):
        yield Path(found)


def _torch_include() -> Path:
    from torch.utils.cpp_extension import include_paths

    return Path(include_paths()[0])


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _write_if_new(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if _text(path) != text:
        path.write_text(text)


@app.command()
def main(
    source: Annotated[Path, typer.Option(help="mamba_ssm's sdist, or the folder that it unpacks to.")],
    out: Annotated[Path, typer.Option(help="Where module, library and package are written.")],
    nvcc: Annotated[Path | None, typer.Option(help="The compiler; CUDA_HOME's or PATH's without it.")] = None,
    torch_include: Annotated[
        Path | None,
        typer.Option(
            help="Torch's headers, with its libraries in lib beside; the installed torch's without it."
        ),
    ] = None,
    arch: Annotated[str, typer.Option(help="The kind of GPU.")] = "sm_90",
    jobs: Annotated[int, typer.Option(min=1, help="Compilers at once.")] = os.cpu_count() or 1,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Leave out kernels whose file has this in its name; repeatable.")
    ] = None,
) -> None:
    """Build mamba_ssm's own CUDA selective scan, to time against; put OUT on PYTHONPATH to import it."""
    plan = Build(
        unpacked(source, out / "source"),
        out,
        nvcc or find_nvcc(),
        torch_include or _torch_include(),
        arch.removeprefix("sm_"),
        jobs,
        tuple(leave_out or ()),
    )
    typer.echo(build(plan, Console(stderr=True, soft_wrap=True)))


if __name__ == "__main__":
    sys.exit(run_app(app))
