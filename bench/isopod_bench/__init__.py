"""Benchmarks of Isopod beside its peers."""
