"""Every error a user can meet. Each carries one clear sentence, a hint, and the exit code the command line uses."""

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


class NotEnoughMemory(VGGSfMError):
    """Even the smallest pieces of work need more memory than there may be."""

    exit_code = 7


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "insufficient memory")
"""In messages of torch's and OpenCV's allocators, which raise RuntimeErrors of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, torch or OpenCV says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        type(error).__name__ == "OutOfMemoryError"
        or (
            (isinstance(error, RuntimeError | OSError) or type(error).__module__.startswith("cv2"))
            and any(words in text for words in OUT_OF_MEMORY_WORDS)
        )
    )
