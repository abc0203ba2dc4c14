"""Every reason for which a test may be skipped: what it needs that a machine may lack."""

import shutil

import pytest
import torch

from vmp.scan import available_backends

needs_mamba_ssm = pytest.mark.skipif(
    not torch.cuda.is_available() or available_backends()["mamba_ssm_cuda"] is not None,
    reason="needs a CUDA device and the extension of the mamba_ssm package",
)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""Path of a browser that playwright can drive, or None."""

needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs Chromium: `make browser` installs it, as root, on Debian and Ubuntu"
)
