"""Networks as files that run without dlaseg, compared with PyTorch before they are called done."""
