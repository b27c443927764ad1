"""``python -m vggsfm_cli`` is the command ``vggsfm``."""

from vggsfm_cli.cli.app import app

app(prog_name="vggsfm")
