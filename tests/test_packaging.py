"""What a user's installation gets: all files, few dependencies, no extras, and a core that says
how it was built."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tomlkit

import diffusionad as dad

ROOT = Path(__file__).parent.parent
OF_GIT = {".gitignore", ".github"}
OF_SDIST = {"PKG-INFO", "setup.cfg", "diffusionad.egg-info"}


def python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def tracked() -> list[str]:
    """Files of this checkout that git has or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if name and (ROOT / name).exists()]


def needed() -> list[str]:
    """What is required without any extra."""
    lines = importlib.metadata.requires("diffusionad") or []
    return [line for line in lines if "extra ==" not in line]


def distribution(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0]


def test_version_is_said_once():
    assert dad.__version__ == importlib.metadata.version("diffusionad")


def test_supported_pythons_are_the_same_everywhere():
    settings = tomlkit.parse((ROOT / "pyproject.toml").read_text()).unwrap()
    prefix = "Programming Language :: Python :: "
    classifiers = [c.removeprefix(prefix) for c in settings["project"]["classifiers"]]
    versions = [version for version in classifiers if re.fullmatch(r"3\.[0-9]+", version)]
    assert settings["project"]["requires-python"] == f">={versions[0]}"
    wheels = settings["tool"]["cibuildwheel"]["build"]
    assert wheels == [f"cp{version.replace('.', '')}-*" for version in versions]
    assert f"for version in {' '.join(versions)};" in (ROOT / ".ci" / "pythons").read_text()
    assert (
        f"Python {versions[0]} to {versions[-1]}." in (ROOT / "docs/compatibility.md").read_text()
    )


def test_few_dependencies_at_run_time():
    names = {distribution(line) for line in needed()}
    assert names == {"numpy", "scipy-openblas32", "pillow", "safetensors", "tqdm", "tomlkit"}


def test_import_leaves_for_later_what_few_need():
    """Each takes milliseconds: numpy's generators, checksums, reading what PyTorch writes."""
    later = ["numpy.random", "diffusionad.torch_files", "diffusionad.restricted_pickle"]
    later += ["hashlib", "tempfile", "concurrent.futures"]
    script = "import sys, numpy\nbefore = set(sys.modules)\nimport diffusionad\n"
    script += f"print([m for m in {later} if m in set(sys.modules) - before])"
    assert python(script).stdout.strip() == "[]"


def test_sources_that_were_not_built_say_so(tmp_path):
    """Python finds those of the present folder, say, before an installed package."""
    (tmp_path / "diffusionad").mkdir()
    shutil.copy(ROOT / "diffusionad" / "__init__.py", tmp_path / "diffusionad")
    code = """
import sys
own = "_frozen_importlib"  # the finders that Python has by itself, not those of editable installs
sys.meta_path = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith(own)]
import diffusionad
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"ImportError: {tmp_path / 'diffusionad'}: the C core is not built here")


@pytest.mark.skipif(sys.platform != "linux", reason="edits the run path of an ELF file")
def test_openblas_in_another_folder_of_packages(tmp_path):
    """As where pip installs for one user only, beside what the system has."""
    core = Path(dad._core.__file__)
    content = core.read_bytes()
    looked_in = b"/scipy_openblas32/lib"
    if looked_in not in content:
        pytest.skip("the core is not linked with scipy-openblas32")
    shutil.copytree(core.parent, tmp_path / "diffusionad", ignore=lambda *_: [core.name])
    elsewhere = content.replace(looked_in, b"/scipy_openblas32/nil")
    (tmp_path / "diffusionad" / core.name).write_bytes(elsewhere)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    load = "import diffusionad; print(diffusionad._core.__file__)"
    done = python(script + load)
    assert done.stdout.strip() == str(tmp_path / "diffusionad" / core.name), done.stderr
    missing = python(f"{script} sys.modules['scipy_openblas32'] = None; {load}")
    assert missing.returncode == 1
    assert missing.stderr.splitlines()[-1] == (
        "ImportError: OpenBLAS is not there: pip install scipy-openblas32"
    )
    broken = python(
        f"{script}from types import SimpleNamespace as Package; sys.modules['scipy_openblas32'] = "
        f"Package(get_lib_dir=lambda: '/none', get_library=lambda **_: 'gone.so'); {load}"
    )
    assert broken.returncode == 1
    line = broken.stderr.splitlines()[-1]
    assert re.match(r"ImportError: OpenBLAS: .*gone\.so: .*; pip install --force-reinstall ", line)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
@pytest.mark.parametrize("given", [{}, {"OPENBLAS_NUM_THREADS": "2", "GOMP_SPINCOUNT": "7"}])
@pytest.mark.parametrize("modules", ["numpy, diffusionad", "diffusionad"])
def test_import_starts_no_threads_and_leaves_the_environment_alone(given, modules):
    """OpenBLAS would start one per processor, which spin until they find that they have no work;
    NumPy's own keeps as many as it would have."""
    script = """if True:
        import json, os
        before = dict(os.environ)
        import %s
        import numpy
        threads = len(os.listdir("/proc/self/task"))
        same = before == dict(os.environ)
        from threadpoolctl import threadpool_info
        blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
        print(json.dumps([same, threads, *(pool["num_threads"] for pool in blas)]))
    """
    same, threads, numpys = json.loads(python(script % "numpy", **given).stdout)
    done = python(script % modules, **given)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(done.stdout)[2:]) == sorted([1, numpys])
    assert json.loads(done.stdout)[:2] == [same, threads] == [True, threads]


def test_import_pulls_in_needed_packages_only():
    """No extra, and nothing else that happens to be installed."""
    script = """if True:
        import importlib.metadata
        import sys
        before = set(sys.modules)
        import diffusionad
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        owners = {
            file.parts[0].partition(".")[0]: distribution.metadata["Name"].lower()
            for distribution in importlib.metadata.distributions()
            for file in distribution.files or []
        }
        print(*sorted({owners[name] for name in new & set(owners)}))
    """
    done = python(script)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "numpy" in loaded
    assert loaded <= {distribution(line) for line in needed()} | {"diffusionad"}


def test_sdist_has_what_git_has(tmp_path):
    """Built from a copy of the tracked files, so that nothing else can get into it."""
    pytest.importorskip("setuptools", minversion="77")
    names = tracked()
    for name in names:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / "tree" / name)
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=tmp_path / "tree",
        capture_output=True,
        check=True,
    )
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        packed = {file.name.partition("/")[2] for file in archive if file.isfile()}
    expected = {name for name in names if name.partition("/")[0] not in OF_GIT}
    assert {name for name in packed if name.partition("/")[0] not in OF_SDIST} == expected


def test_package_data_of_a_wheel():
    """What is not Python in the package must be named in pyproject.toml to be installed."""
    data = [
        name
        for name in tracked()
        if name.startswith("diffusionad/") and not name.endswith((".py", ".pyi"))
    ]
    others = [n for n in data if not n.startswith("diffusionad/data/")]
    pages = ["diffusionad/report/report.html", "diffusionad/serving/page.html"]
    assert others == ["diffusionad/py.typed", *pages]
    assert any(name.endswith("ATTRIBUTION.md") for name in data)


def test_without_posix_locks(tmp_path):
    """As on Windows: files are written, and runs are only not kept apart."""
    script = f"""if True:
        import sys
        sys.modules["fcntl"] = sys.modules["resource"] = None
        import numpy as np
        import diffusionad as dad
        from diffusionad import system
        images = np.zeros((2, 32, 32, 3), np.uint8)
        model = dad.DiffusionAD(image_size=32, channel_mults=(1,), pretrained=False)
        model.fit(images, steps=1, out={str(tmp_path / "run")!r})
        print(dad.load({str(tmp_path / "run" / "model.safetensors")!r}).threshold is not None)
        print(system.peak_memory_mb() >= 0)
    """
    done = python(script)
    assert (done.stdout.split(), done.stderr) == (["True", "True"], "")


def test_names_of_simd_levels():
    """The documentation and DIFFUSIONAD_ISA go by them; other processors have the baseline."""
    levels = dad._core.simd_levels()
    assert levels == ["baseline", "avx2", "avx512"][: len(levels)]
    refused = python("import diffusionad", DIFFUSIONAD_ISA="neon")
    assert refused.returncode == 1
    assert 'this processor has no level "neon"' in refused.stderr
