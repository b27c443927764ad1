"""Pure differentiable functions on tensors, any batch axes. No configuration, no files, no modules."""
