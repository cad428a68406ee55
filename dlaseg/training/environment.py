"""Software and hardware of a run, recorded to make its results reproducible."""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from dlaseg.version import package_version

_PACKAGES = ("dlaseg", "torch", "torchvision", "albumentations", "opencv-python-headless", "numpy", "Pillow")


def environment() -> dict[str, Any]:
    """Versions, hardware, git commit and command line as plain values."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _git_commit() -> str | None:
    """The commit of the checkout that contains this package; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        process = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()
