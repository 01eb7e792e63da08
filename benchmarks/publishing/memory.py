"""What a process holds at most, from the kernel."""

from __future__ import annotations

from pathlib import Path


def resident() -> tuple[float, float]:
    """Megabytes of this process now, and at most since it began.

    Not ``getrusage``: a child starts there with the peak of whoever started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
    return int(found["VmRSS"]) / 1024, int(found["VmHWM"]) / 1024
