"""Models as other programs read them, with the pictures that belong to them."""

from vggsfm_cli.export.targets import ExportOptions, check_export, export_model

__all__ = [
    "ExportOptions",
    "check_export",
    "export_model",
]
