"""Weight layouts as data: how a matrix is arranged in memory for the kernels that read it."""
