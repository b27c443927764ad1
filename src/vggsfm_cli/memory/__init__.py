"""How much memory there may be, in which pieces a reconstruction fits in it, and what happens when it does not.

The pieces are chosen before anything is computed, and halved where memory runs out all the same. Whatever they are, the
result is the same up to the last bits.
"""

from vggsfm_cli.memory.budget import Budget, FrugalTracker
from vggsfm_cli.memory.machine import usable_bytes
from vggsfm_cli.memory.plan import GB, PROCESS_BYTES, Need, Plan, Size, size_of, weight_bytes

__all__ = [
    "GB",
    "PROCESS_BYTES",
    "Budget",
    "FrugalTracker",
    "Need",
    "Plan",
    "Size",
    "size_of",
    "usable_bytes",
    "weight_bytes",
]
