"""Measures that only our evidence takes: edges, observer, lesions, noise against contrast, error against the truth."""
