"""The one door to pycolmap."""

import signal
import threading

# first, else pycolmap's zlib gets in the way of Pillow's, and writing a PNG file ends the process
import numpy  # noqa: F401

_before = signal.getsignal(signal.SIGTERM)

import pycolmap  # noqa: E402, F401

# its logging takes over the signal of schedulers, with a trace of C++ functions for an answer; it is for the program
# to say how it ends
if _before is not None and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, _before)
