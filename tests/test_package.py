"""The distributions: what they hold, and that an installed one works without the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.experiments.grids import tiny_grid  # noqa: F401

ROOT = Path(__file__).parents[1]
CHECKPOINT = "experiments/checkpoints/vmp_micro_videomamba.safetensors"
EXTRAS = (
    *("matplotlib", "pandas", "scipy", "typer", "rich", "pydantic", "pyarrow", "xarray", "netCDF4", "cftime"),
    *("skimage", "accelerate", "av", "joblib", "kornia", "PIL", "sklearn", "statsmodels", "threadpoolctl"),
    *("transformers", "triton"),
)
"""Modules that `import vmp` has to do without."""

BLOCKED = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist made of the checkout, and the wheel made of that sdist, by the project's own build backend."""
    folder = tmp_path_factory.mktemp("package")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "tree" / name)
    build = "from setuptools import build_meta as b; print(getattr(b, {!r})({!r}))"
    run(sys.executable, "-c", build.format("build_sdist", str(folder)), cwd=folder / "tree")
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    run(sys.executable, "-c", build.format("build_wheel", str(folder)), cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environment(distributions, tmp_path_factory):
    """A clean environment with the wheel installed.

    Its dependencies are those of the environment that runs the test, as no test may use the network. This project is
    not among them, so that its code comes from the wheel alone.
    """
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(site)
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    script = (
        "import sys; from importlib.metadata import distribution as d; (e,) = [e for e in d('vmp-toolkit')"
    )
    script += ".entry_points if e.group == 'console_scripts']; sys.exit(e.load()())"
    (folder / "bin" / "vmp").write_text(f"#!{folder / 'bin' / 'python'}\n{script}\n")
    (folder / "bin" / "vmp").chmod(0o755)
    return folder / "bin"


def clean(tmp_path: Path) -> dict[str, object]:
    names = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    # The tests share what one of them compiles.
    names |= {"NUMBA_CACHE_DIR": str(tmp_path.parent / "numba"), "OMP_NUM_THREADS": "1"}
    return {"cwd": tmp_path, "env": names}


def test_both_distributions_hold_every_file_that_the_code_reads(distributions):
    sdist, wheel = distributions
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("vmp", "analysis", "experiments")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".js", ".css", ".html", ".mplstyle", ".safetensors")
        and "__pycache__" not in path.parts
    }
    assert "experiments/report/viewer.js" in wanted
    with zipfile.ZipFile(wheel) as file:
        assert wanted <= set(file.namelist())
    with tarfile.open(sdist) as file:
        assert wanted <= {name.partition("/")[2] for name in file.getnames()}


def test_vmp_imports_and_scans_without_the_extras(environment, tmp_path):
    code = f"{BLOCKED}\nimport torch, vmp\nx = torch.rand(1, 2, 5)\nA = -torch.rand(2, 3)\nB = torch.rand(1, 3, 5)\n"
    code += "print(vmp.selective_scan(x, x, A, B, B).shape, vmp.__file__)"
    done = run(environment / "python", "-c", code, **clean(tmp_path))
    assert "[1, 2, 5]" in done.stdout
    assert str(ROOT) not in done.stdout


def test_the_installed_command_says_which_extras_it_needs(environment, tmp_path):
    code = f"{BLOCKED}\nfrom vmp.commands import console\n"
    code += "sys.argv = ['vmp', 'sizes']\nprint(console())\nsys.argv = ['vmp', 'decay']\nsys.exit(console())"
    done = subprocess.run(
        [environment / "python", "-c", code], capture_output=True, text=True, **clean(tmp_path)
    )
    assert done.returncode == 2
    assert "pip install 'vmp-toolkit[all]'" in done.stderr
    assert done.stderr.count("\n") == 1
    # What needs `vmp` alone runs all the same.
    assert "videomamba_tiny" in done.stdout
    assert done.stdout.endswith("\n0\n")


def test_the_installed_command_probes_a_checkpoint(environment, tmp_path):
    arguments = (
        "--ckpt",
        ROOT / CHECKPOINT,
        "--clips",
        "1",
        "--layers",
        "0",
        "--bootstrap",
        "100",
        "--out",
        "probe",
    )
    done = run(environment / "vmp", "decay", *arguments, **clean(tmp_path))
    assert "Historical decay" in done.stdout
    assert {"data.nc", "summary.csv", "provenance.json", "figures"} <= {
        p.name for p in (tmp_path / "probe").iterdir()
    }


def test_the_installed_command_reports_on_a_stored_grid(environment, tiny_grid, tmp_path):  # noqa: F811
    run(environment / "vmp", "report", "--grid", tiny_grid, "--out", "page", **clean(tmp_path))
    assert "viewer" in (tmp_path / "page" / "index.html").read_text()
