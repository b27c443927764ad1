"""What can be trained, by the name used in a recipe's ``[task]`` table."""

from vggsfm_cli.training.tasks.cameras import CamerasTaskConfig
from vggsfm_cli.training.tasks.encoder import EncoderTaskConfig
from vggsfm_cli.training.tasks.joint import JointTaskConfig
from vggsfm_cli.training.tasks.points import PointsTaskConfig
from vggsfm_cli.training.tasks.tracks import TracksTaskConfig

TASKS: dict[str, type] = {
    "cameras": CamerasTaskConfig,
    "encoder": EncoderTaskConfig,
    "joint": JointTaskConfig,
    "points": PointsTaskConfig,
    "tracks": TracksTaskConfig,
}
"""Name to configuration class."""
