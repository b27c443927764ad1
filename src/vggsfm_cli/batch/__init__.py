"""Many scenes: which there are, which are finished, and workers that do the others without harming one another."""
