"""Compiled kernels of the sparse engine, one small file each."""
