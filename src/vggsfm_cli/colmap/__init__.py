"""The one door to pycolmap."""
