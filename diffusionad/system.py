"""What a result file says about where it came from: versions, threads, SIMD level, memory, time."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from datetime import datetime, timezone


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


def now() -> str:
    """The time in UTC, to the second: "2024-05-01T12:00:00Z"."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
