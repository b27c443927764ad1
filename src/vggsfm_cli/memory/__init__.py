"""How much memory there may be, in which pieces a reconstruction fits in it, and what happens when it does not.

The pieces are chosen before anything is computed, and halved where memory runs out all the same. Whatever they are, the
result is the same up to the last bits.
"""
