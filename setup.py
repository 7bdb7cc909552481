"""Builds diffusionad._core: one object per C file, and one per SIMD level for the inner loops.

Environment:
  DIFFUSIONAD_SYSTEM_BLAS=1   link the system's OpenBLAS (found by pkg-config) instead of the
                              PyPI package scipy-openblas32
  DIFFUSIONAD_OPENMP=0        build without threads
  DIFFUSIONAD_SIMD=0          build the baseline of the inner loops only
  DIFFUSIONAD_WERROR=1        warnings are errors (CI)
  DIFFUSIONAD_SANITIZE=1      AddressSanitizer and UndefinedBehaviorSanitizer (CI)
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
SANITIZE = "DIFFUSIONAD_SANITIZE"

FLAGS = [
    "-std=c11",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
]
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wvla", "-Wmissing-prototypes", "-Wno-psabi"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"]
X86_LEVELS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [*AVX512, "-mprefer-vector-width=512"],
}
if sys.platform == "win32":  # GCC spills vectors as if the stack were aligned (54412, 49001)
    for level in ("avx2", "avx512"):
        X86_LEVELS[level].append("-Wa,-muse-unaligned-vector-move")


def flag(name: str, default: str = "0") -> bool:
    return os.environ.get(name, default) not in ("", "0")


def levels() -> dict[str, list[str]]:
    """SIMD levels to build, by what the target has: sysconfig knows of cross-compilation."""
    on_x86 = sysconfig.get_platform().endswith(("x86_64", "amd64"))
    return X86_LEVELS if on_x86 and flag("DIFFUSIONAD_SIMD", "1") else {"baseline": []}


def openmp() -> tuple[list[str], list[str]]:
    """Compile flags and link flags of threads."""
    if not flag("DIFFUSIONAD_OPENMP", "1"):
        return ["-Wno-unknown-pragmas"], []
    if sys.platform == "darwin":  # Apple's Clang has OpenMP, but neither its library nor a flag
        return ["-Xpreprocessor", "-fopenmp"], ["-lomp"]
    return ["-fopenmp"], ["-fopenmp"]


def blas() -> tuple[list[str], list[str], list[str]]:
    """Compile flags, link flags and run paths (beside the installed extension) of OpenBLAS."""
    if flag("DIFFUSIONAD_SYSTEM_BLAS"):
        try:
            found = subprocess.run(
                ["pkg-config", "--cflags", "--libs", "openblas"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            sys.exit("DIFFUSIONAD_SYSTEM_BLAS: pkg-config finds no openblas")
        words = shlex.split(found)
        includes = [w for w in words if w.startswith("-I")]
        return [*includes, "-DDAD_SYSTEM_BLAS"], [w for w in words if w not in includes], []
    import scipy_openblas32 as openblas

    library = Path(openblas.get_lib_dir())
    origin = {"darwin": "@loader_path", "win32": None}.get(sys.platform, "$ORIGIN")
    return (
        [f"-I{openblas.get_include_dir()}"],
        [f"-L{library}", f"-l{openblas.get_library()}"],
        [f"{origin}/../scipy_openblas32/lib"] if origin else [],
    )


def installed_openblas() -> str:
    """Where the interpreter keeps scipy-openblas32, for an extension that lies elsewhere.

    Not asked whether it is there: pip builds an editable package before its dependencies arrive.
    """
    return str(Path(sysconfig.get_paths()["purelib"]) / "scipy_openblas32" / "lib")


class BuildCore(build_ext):
    """Compiles changed files only, several at once, the simd/ folder once per level."""

    def initialize_options(self) -> None:
        super().initialize_options()
        if sys.platform == "win32":  # the core's vectors are an extension of GCC and Clang
            self.compiler = "mingw32"

    def run(self) -> None:
        # setuptools clears `inplace` while it builds, and copies afterwards.
        self.in_tree = bool(self.inplace or self.editable_mode)
        super().run()

    def object_folder(self) -> Path:
        """One folder for every build in the tree, apart from isolated builds with other flags.

        setuptools gives an editable build a temporary one: everything would be compiled each time.
        """
        if self.in_tree:
            return ROOT / "build" / f"in-tree.{self.plat_name}-{sys.implementation.cache_tag}"
        return Path(self.build_temp) / "_core"

    def build_extension(self, ext: Extension) -> None:
        import numpy

        compiler = self.compiler.compiler[0]
        if shutil.which(compiler) is None:
            sys.exit(f"no C compiler: {compiler!r} is not on PATH (install gcc, or set CC)")
        python_include = sysconfig.get_paths()["include"]
        if not (Path(python_include) / "Python.h").is_file():
            sys.exit(f"no Python headers: {python_include}/Python.h (install python3-dev)")

        blas_compile, blas_link, run_paths = blas()
        if run_paths and (self.in_tree or flag(SANITIZE)):
            run_paths.append(installed_openblas())
        flags = [*FLAGS, *WARNINGS, f"-I{CSRC}", f"-I{python_include}", f"-I{numpy.get_include()}"]
        flags += blas_compile
        link = list(blas_link)
        threads_compile, threads_link = openmp()
        flags += threads_compile
        link += threads_link
        if "avx2" in levels():
            flags.append("-DDAD_X86_LEVELS")
        if flag("DIFFUSIONAD_WERROR"):
            flags.append("-Werror")
        if flag(SANITIZE):
            sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
            flags += [*sanitize, "-O1", "-g", "-fno-omit-frame-pointer"]
            link += sanitize

        jobs = []
        build = self.object_folder()
        for source in sorted(CSRC.rglob("*.c")):
            per_level = source.parent.name == "simd" and source.name != "dispatch.c"
            for level, level_flags in (levels() if per_level else {"": []}).items():
                extra = [*level_flags, f"-DDAD_LEVEL={level}"] if per_level else []
                name = source.relative_to(CSRC).with_suffix(f".{level}.o" if level else ".o")
                jobs.append((source, build / name, [*flags, *extra]))
        headers = [*CSRC.rglob("*.h"), *CSRC.rglob("*.inc")]
        newest_header = max(path.stat().st_mtime for path in headers)

        def compile_one(job: tuple[Path, Path, list[str]]) -> str:
            source, target, arguments = job
            command = [*self.compiler.compiler, *arguments, "-c", str(source), "-o", str(target)]
            stamp = target.with_suffix(".cmd")
            fresh = (
                not self.force
                and target.exists()
                and stamp.exists()
                and stamp.read_text() == shlex.join(command)
                and target.stat().st_mtime > max(source.stat().st_mtime, newest_header)
            )
            if not fresh:
                target.parent.mkdir(parents=True, exist_ok=True)
                if subprocess.run(command, check=False).returncode != 0:
                    raise CompileError(f"{source.relative_to(ROOT)} does not compile")
                stamp.write_text(shlex.join(command))
            return str(target)

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            objects = list(pool.map(compile_one, jobs))
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        link += [f"-Wl,-rpath,{path}" for path in run_paths]
        link += [f"-L{path}" for path in self.library_dirs]
        link += [f"-l{name}" for name in self.get_libraries(ext)]  # Python's own, on Windows
        self.spawn([*self.compiler.linker_so, *objects, *link, "-lm", "-o", str(output)])


setup(
    ext_modules=[Extension("diffusionad._core", sources=[])],
    cmdclass={"build_ext": BuildCore},
)
