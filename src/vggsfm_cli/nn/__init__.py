"""Network blocks shared by several stages."""
