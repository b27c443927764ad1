"""In which pieces tracks are computed: small enough for the memory, even, and enough for all threads."""

import torch

from vggsfm_cli.threads import side_by_side

SMALLEST_SHARE = 256
"""Observations; work is not split further only to keep a thread busy."""


def tracks_at_once(tracks: int, pairs_a_track: int, pairs_at_once: int, device: torch.device) -> int:
    """How many tracks, or frames, a piece has.

    Args:
        tracks: all there are.
        pairs_a_track: observations that a track has.
        pairs_at_once: observations of the largest piece; a piece has one track at least.
        device: where they are computed.
    """
    pieces = -(-tracks // max(1, pairs_at_once // pairs_a_track))
    workers = side_by_side(device)
    even = -(-pieces // workers) * workers
    if tracks * pairs_a_track >= SMALLEST_SHARE * even:
        pieces = even
    return max(1, -(-tracks // max(1, pieces)))
