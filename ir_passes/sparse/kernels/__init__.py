"""Sparse kernels: programs, schedules, and the registered factories."""
