"""What ``benchmarks/run.py`` is made of: real scenes, this tool and its peers on them, figures, tables."""
