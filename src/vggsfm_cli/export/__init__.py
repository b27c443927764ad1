"""Models as other programs read them, with the pictures that belong to them."""
