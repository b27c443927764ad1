"""Loaders for the published layouts of data sets with known cameras."""

from vggsfm_cli.evaluation.datasets.co3d import find_co3d
from vggsfm_cli.evaluation.datasets.eth3d import find_eth3d
from vggsfm_cli.evaluation.datasets.imc import find_imc
from vggsfm_cli.evaluation.datasets.posed import PosedScene, Unreadable

__all__ = ["PosedScene", "Unreadable", "find_co3d", "find_eth3d", "find_imc"]
