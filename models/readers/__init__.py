"""Readers of the formats that models are kept in, one a file."""
