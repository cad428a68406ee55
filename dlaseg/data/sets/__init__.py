"""The data sets, one file each; `dlaseg.data.datasets` lists them."""
