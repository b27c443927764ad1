"""``vggsfm view``: a model in the browser, live."""

import time
from pathlib import Path
from typing import Annotated

import typer

from vggsfm_cli.cli import process
from vggsfm_cli.cli.console import say


def view(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model folder, or a folder of models.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for access from other machines.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; if it is in use, the next free one.", min=1, max=65535)
    ] = 8080,
) -> None:
    """Show a model in the browser until Ctrl-C.

    Needs viser: pip install "vggsfm-cli[view]". Of a folder of models, the largest is shown. For a page without a
    server, use vggsfm report.

    Example: vggsfm view sparse/ --port 8080
    """
    from vggsfm_cli.colmap.files import read_colmap
    from vggsfm_cli.errors import InputError
    from vggsfm_cli.visualization.live import serve

    reconstruction = read_colmap(model)
    if not reconstruction.names:
        raise InputError("The model holds no registered image.", "There is nothing to show of it.")
    server = serve(reconstruction, host=host, port=port)
    try:
        say(f"http://{host}:{server.get_port()} shows {len(reconstruction.names)} cameras; Ctrl-C ends it.")
        while True:
            time.sleep(3600)
    except process.Terminated:
        raise
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
