"""The build of mamba_ssm's CUDA scan, with a compiler that only notes what it is asked."""

import os
import shlex
import sys
import tarfile

import pytest

from experiments.bench.gpu import peer
from tests.experiments.commands import run_command

FAKE = """#!{python} -IS
import pathlib, sys
with open({calls!r}, "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if any("fwd_bf16" in word for word in sys.argv) and {broken}:
    print("fwd_kernel.cuh(7): warning: nothing of note")
    print("fwd_kernel.cuh(12): error: expected a ';'")
    print("fwd_kernel.cuh(13): error: too many errors")
    sys.exit(1)
pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text("made")
"""
KERNELS = {
    "selective_scan_bwd_fp16_complex.cu": [
        "bwd_cuda<at::Half, complex_t>(SSMParamsBwd &params, cudaStream_t stream)"
    ],
    "selective_scan_fwd_bf16.cu": [
        "fwd_cuda<at::BFloat16, float>(SSMParamsBase &params, cudaStream_t stream)"
    ],
}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "mamba_ssm-9.9"
    scan = folder / "csrc" / "selective_scan"
    scan.mkdir(parents=True)
    for name, functions in KERNELS.items():
        (scan / name).write_text("".join(f"template void selective_scan_{each};\n" for each in functions))
    (scan / "selective_scan.cpp").write_text("// binds\n")
    (scan / "selective_scan.h").write_text("// declares\n")
    ops = folder / "mamba_ssm" / "ops"
    ops.mkdir(parents=True)
    (folder / "mamba_ssm" / "__init__.py").write_text('__version__ = "9.9"\n\nimport what_is_not_there\n')
    (ops / "__init__.py").touch()
    (ops / "scan.py").write_text("scan = 1\n")
    return folder


def fake_nvcc(folder, broken=False):
    script = folder / "nvcc"
    script.write_text(FAKE.format(python=sys.executable, calls=str(folder / "calls"), broken=broken))
    script.chmod(0o755)
    return script


def run_cli(source, out, *more):
    nvcc, include = out.parent / "nvcc", out.parent / "torch" / "include"
    flags = ("--source", source, "--out", out, "--nvcc", nvcc, "--torch-include", include, *more)
    return run_command(peer.app, *flags)


def calls(folder):
    path = folder / "calls"
    return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_each_file_is_compiled_for_one_gpu_all_are_linked_and_the_package_has_its_version_alone(
    source, tmp_path
):
    fake_nvcc(tmp_path)
    out = tmp_path / "out"
    result = run_cli(source, out)
    assert result.exit_code == 0, result.output
    *compiled, linked = calls(tmp_path)
    sources = {call[call.index("-c") + 1].rpartition("/")[2] for call in compiled}
    assert sources == {*KERNELS, "selective_scan.cpp"}
    assert all("-gencode=arch=compute_90,code=sm_90" in call for call in compiled)
    assert all(f"-I{tmp_path}/torch/include" in call for call in compiled)
    objects = {call[call.index("-o") + 1] for call in compiled}
    assert "-shared" in linked
    assert f"-L{tmp_path}/torch/lib" in linked
    assert {word for word in linked if word.endswith(".o")} == objects
    assert all(f"made {name}.o" in result.output for name in sources)
    assert (out / "selective_scan_cuda.so").is_file()
    compile((out / "selective_scan_cuda.py").read_text(), "selective_scan_cuda.py", "exec")
    assert (out / "mamba_ssm" / "__init__.py").read_text() == '__version__ = "9.9"\n'
    assert (out / "mamba_ssm" / "ops" / "scan.py").read_text() == "scan = 1\n"


def test_a_second_run_compiles_only_what_changed(source, tmp_path):
    fake_nvcc(tmp_path)
    out = tmp_path / "out"
    run_cli(source, out)
    first = len(calls(tmp_path))
    again = run_cli(source, out)
    assert again.exit_code == 0
    assert "kept selective_scan_cuda.so" in again.output
    assert len(calls(tmp_path)) == first
    # A header newer than the objects.
    header = source / "csrc" / "selective_scan" / "selective_scan.h"
    made = (out / "objects" / "selective_scan.cpp.o").stat()
    os.utime(header, (made.st_atime + 60, made.st_mtime + 60))
    run_cli(source, out)
    assert len(calls(tmp_path)) > first
    os.utime(header, (made.st_atime - 60, made.st_mtime - 60))
    # Another command for each of them, and the library older than they.
    before = len(calls(tmp_path))
    run_cli(source, out, "--arch", "sm_80")
    assert len(calls(tmp_path)) == before + first


def test_a_failing_compiler_is_told_in_one_line_and_the_rest_is_kept(source, tmp_path):
    fake_nvcc(tmp_path, broken=True)
    out = tmp_path / "out"
    failed = run_cli(source, out, "--jobs", 1)
    assert failed.exit_code == 2
    told = "error: selective_scan_fwd_bf16.cu.o: fwd_kernel.cuh(12): error: expected a ';'"
    assert failed.output.splitlines()[-1] == told
    assert not (out / "selective_scan_cuda.so").exists()
    fake_nvcc(tmp_path)
    mended = run_cli(source, out, "--jobs", 1)
    assert mended.exit_code == 0
    assert "kept selective_scan_bwd_fp16_complex.cu.o" in mended.output


def test_what_is_left_out_raises_by_name_instead(source, tmp_path):
    fake_nvcc(tmp_path)
    out = tmp_path / "out"
    assert run_cli(source, out, "--leave-out", "complex").exit_code == 0
    assert not any("selective_scan_bwd_fp16_complex.cu" in call for call in calls(tmp_path))
    stand_in = (out / "objects" / "left_out.cpp").read_text()
    assert "template <> void selective_scan_bwd_cuda<at::Half, complex_t>(SSMParamsBwd &params" in stand_in
    assert '"selective_scan_bwd_fp16_complex.cu was left out of this build"' in stand_in


def test_an_sdist_is_unpacked(source, tmp_path):
    fake_nvcc(tmp_path)
    archive = tmp_path / "mamba_ssm-9.9.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    out = tmp_path / "out"
    assert run_cli(archive, out).exit_code == 0
    assert (out / "source" / source.name / "csrc").is_dir()


@pytest.mark.parametrize("name", ["nothing", "nvcc"])
def test_a_source_that_is_none_is_named(tmp_path, name):
    fake_nvcc(tmp_path)
    result = run_cli(tmp_path / name, tmp_path / "out")
    assert result.exit_code == 2
    assert f"--source {tmp_path / name}: it must be mamba_ssm's sdist" in result.output


def test_a_folder_without_the_scan_is_named(tmp_path):
    fake_nvcc(tmp_path)
    result = run_cli(tmp_path, tmp_path / "out")
    assert result.exit_code == 2
    assert "it lacks csrc/selective_scan/selective_scan.cpp" in result.output


def test_nvcc_is_that_of_cuda_home_first(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    with pytest.raises(peer.ResultError, match="no nvcc"):
        peer.find_nvcc()
    on_path = fake_nvcc(tmp_path)
    assert peer.find_nvcc() == on_path
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert peer.find_nvcc() == on_path
    at_home = fake_nvcc(tmp_path / "bin")
    assert peer.find_nvcc() == at_home
