"""Long sequences: windows of a film, joined into one model."""

from vggsfm_cli.sequence.options import SequenceOptions, sequence_options
from vggsfm_cli.sequence.reconstruct import reconstruct_sequence

__all__ = ["SequenceOptions", "reconstruct_sequence", "sequence_options"]
