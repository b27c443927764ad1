"""Every error a user can meet. Each carries one clear sentence, a hint, and the exit code the command line uses."""

import errno
from pathlib import Path
from typing import ClassVar


class VGGSfMError(Exception):
    """Base of all errors meant for users: a sentence, and a hint what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(VGGSfMError):
    """An option or a combination of options that makes no sense."""

    exit_code = 2


class InputError(VGGSfMError):
    """Input that cannot be read, or not enough of it."""

    exit_code = 3


class ReconstructionFailed(VGGSfMError):
    """A stage found too little to go on; the message names the stage and the counts."""

    exit_code = 4


class TooFewRegistered(VGGSfMError):
    """A model was written, but fewer images were registered than asked for."""

    exit_code = 5


class WeightsUnavailable(VGGSfMError):
    """Weights that are missing, damaged or cannot be fetched."""

    exit_code = 6


class MissingDependency(VGGSfMError):
    """An optional package that the chosen option needs; the hint names how to install it."""

    exit_code = 2


class TrainingFailed(VGGSfMError):
    """Training that can no longer get better, as its loss or gradient is not finite; the message names the step."""

    exit_code = 8


class WriteFailed(VGGSfMError):
    """The disk is full, or refuses what is to be written; what stood there before still stands."""

    exit_code = 9


class NotEnoughMemory(VGGSfMError):
    """Even the smallest pieces of work need more memory than there may be."""

    exit_code = 7


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "insufficient memory")
"""In messages of torch's and OpenCV's allocators, which raise RuntimeErrors of their own."""
UNMAPPED_WORDS = ("failed to map segment", "cannot allocate memory", "cannot map zero-fill pages")
"""In messages of the dynamic linker, when a library does not fit into the memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, torch or OpenCV says that memory ran out."""
    text = str(error).lower()
    if isinstance(error, ImportError) or isinstance(error.__cause__, ImportError):
        text = f"{text} {error.__cause__}".lower()
        return any(words in text for words in UNMAPPED_WORDS)
    return isinstance(error, MemoryError) or (
        type(error).__name__ == "OutOfMemoryError"
        or (
            (isinstance(error, RuntimeError | OSError) or type(error).__module__.startswith("cv2"))
            and any(words in text for words in OUT_OF_MEMORY_WORDS)
        )
    )


FULL = (errno.ENOSPC, errno.EDQUOT)
ONLY_WRITERS = (*FULL, errno.EROFS, errno.EFBIG)
"""What the system answers to nobody but those who write."""

WRITING_WORDS = ("inline_container", "file write failed", "pytorchstreamwriter", "(os error ")
"""In messages of the writers of torch and safetensors, which hide the error of the system."""


def write_reason(error: BaseException, folder: Path) -> str | None:
    """What the system said, if an exception says that something could not be written; None if it says another thing.

    Args:
        error: of Python, torch or safetensors.
        folder: that is written to; an error that names a file elsewhere is one of reading.
    """
    if isinstance(error, OSError):
        if error.errno is None or error.errno == errno.EPIPE:
            return None
        named = [Path(str(name)) for name in (error.filename, error.filename2) if name is not None]
        if error.errno in ONLY_WRITERS or not named or any(path.is_relative_to(folder) for path in named):
            return error.strerror
        return None
    text = str(error)
    if any(words in text.lower() for words in WRITING_WORDS):
        return "No space left on device" if "os error 28" in text or "No space" in text else "the file is cut short"
    return None
