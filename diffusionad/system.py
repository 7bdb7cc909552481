"""What a result file says about where it came from: versions, threads, SIMD level, memory, time."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata

# What changes how the core runs; other variables may hold paths and are nobody's business.
TUNING = (
    "DIFFUSIONAD_NUM_THREADS", "DIFFUSIONAD_ISA", "OMP_NUM_THREADS", "OMP_WAIT_POLICY",
    "OMP_PROC_BIND", "OMP_DYNAMIC", "GOMP_SPINCOUNT", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of the package and of what its results depend on."""
    import numpy
    import PIL

    from diffusionad import __version__

    return {
        "diffusionad": __version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "platform": f"{platform.system()}-{platform.machine()}",
    }


def peak_memory_mb() -> float:
    """The most memory that this process has held at once so far (VmHWM), in MiB.

    0 where the system does not say (Windows).
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if platform.system() == "Darwin" else 1024)


def reset_peak_memory() -> None:
    """Let peak_memory_mb() begin anew, where the system can (Linux); else it goes on counting."""
    with suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def memory_bytes() -> int | None:
    """Memory of this machine, None where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def report() -> dict[str, dict[str, str]]:
    """What a bug report should tell of this computer: no names of it or of users, no paths."""
    from diffusionad import _core

    build, memory = _core.build_info(), memory_bytes()
    levels = ", ".join(_core.simd_levels())
    return {
        "system": {
            "os": _os_name(),
            "kernel": f"{platform.system()} {platform.release()}",
            "C library": " ".join(platform.libc_ver()).strip() or "unknown",
            "python": f"{platform.python_implementation()} {platform.python_version()}, "
            f"{platform.python_compiler()}",
        },
        "computer": {
            "processor": f"{_processor_name()} ({platform.machine()})",
            "processors": f"{processors()} of {os.cpu_count()}",
            "memory": "unknown" if memory is None else f"{memory / 2**30:.1f} GiB",
        },
        "core": {
            "SIMD level": f"{_core.simd_level()} (of {levels})",
            "threads": str(_core.get_num_threads()),
            "compiler": build["compiler"],
            "OpenMP": str(build["openmp"]) if build["openmp"] else "none",
            "BLAS": build["blas"],
        },
        "environment": {name: os.environ[name] for name in TUNING if name in os.environ},
        "packages": _packages(),
    }


def _os_name() -> str:
    with suppress(OSError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.system()


def _processor_name() -> str:
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "uarch"):
                return value.strip()
    return platform.processor() or "unknown"


def _packages() -> dict[str, str]:
    """The package and what it needs, and of what its extras name that which is installed."""
    from diffusionad import __version__

    try:
        required = metadata.requires("diffusionad") or []
    except metadata.PackageNotFoundError:  # used from its sources
        required = []
    found = {"diffusionad": __version__}
    for line in sorted(required):
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        version = _installed(name)
        if version is not None or "extra ==" not in line:
            found.setdefault(name, version or "not installed")
    return found


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def now() -> str:
    """The time in UTC, to the second: "2024-05-01T12:00:00Z"."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
