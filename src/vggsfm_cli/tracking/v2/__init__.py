"""The tracker of VGGSfM v2, for its published weights (VGGSfM, arXiv 2312.04563, Sec. 3.1).

Inside, positions have the origin in which the weights were trained: the centre of the first pixel, or cell, is (0, 0).
``tracker.py`` is the door: it takes and gives the package's own conventions.
"""
