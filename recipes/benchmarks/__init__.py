"""Measurements that take minutes or hours: programs, not tests. Each adds rows to a file, and draws its table."""
