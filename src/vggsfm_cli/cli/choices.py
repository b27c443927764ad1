"""What the choices of a user mean."""

from typing import TYPE_CHECKING

from vggsfm_cli.options import Adjuster

if TYPE_CHECKING:
    from vggsfm_cli.model import AdjusterConfig


def adjuster_config(name: Adjuster, *, approximate: bool = False) -> "AdjusterConfig":
    """The solver a user means, with its default settings; ``approximate`` as in ``CeresConfig``."""
    from vggsfm_cli.bundle_adjustment.ceres_solver import CeresConfig
    from vggsfm_cli.bundle_adjustment.schur_solver import SchurConfig
    from vggsfm_cli.bundle_adjustment.theseus_solver import TheseusConfig

    table: dict[Adjuster, AdjusterConfig] = {
        "schur": SchurConfig(),
        "theseus": TheseusConfig(),
        "ceres": CeresConfig(approximate=approximate),
    }
    return table[name]


def choose_adjuster(name: Adjuster | None) -> "AdjusterConfig | None":
    """The solver of a reconstruction; None for the model's own.

    Raises:
        MissingDependency: it needs a package that is not installed.
    """
    if name is None:
        return None
    config = adjuster_config(name, approximate=True)  # tracks differ in their covariances, which ceres cannot be told
    config.build()
    return config


def use_threads(count: int | None) -> None:
    """Let torch and the package's own threads take so many cores, all if None."""
    if count is None:
        return
    import torch

    from vggsfm_cli.threads import available_cores, limit_cores

    count = min(count, 4 * available_cores())  # a pool of a million threads takes the machine down
    torch.set_num_threads(count)
    limit_cores(count)
