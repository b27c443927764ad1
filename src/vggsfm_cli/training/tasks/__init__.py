"""What can be trained, by the name used in a recipe's ``[task]`` table."""

from vggsfm_cli.training.tasks.encoder import EncoderTaskConfig
from vggsfm_cli.training.tasks.tracks import TracksTaskConfig

TASKS: dict[str, type] = {"encoder": EncoderTaskConfig, "tracks": TracksTaskConfig}
"""Name to configuration class."""
