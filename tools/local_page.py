"""A page of the optional package gradio for whoever sits at this machine, and for nobody else."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from typing import Any

from tuning.run.errors import UserError

OWN_HOSTS = (b"127.0.0.1", b"localhost")


class OwnPageAlone:
    """Around the page's app: answers the page itself, and takes no files.

    Any site that is open in the same browser can send requests to this machine, and one whose name
    leads here (DNS rebinding) can read the answers. Ports may differ, as through a tunnel.
    """

    def __init__(self, app: Any) -> None:
        """Wrap an ASGI app."""
        self.app = app

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Hand the request on, or answer 403."""
        headers = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"")
        is_own = host.partition(b":")[0] in OWN_HOSTS and (
            headers.get(b"origin") in (None, b"http://" + host)
        )
        takes_files = scope.get("path", "").rstrip("/").endswith("/upload")
        if scope["type"] == "lifespan" or (is_own and not takes_files):
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"not for other sites or files"})


def import_gradio() -> Any:
    """Import the package, which the project's lock does not hold."""
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError:
        raise UserError("gradio is not installed: .venv/bin/pip install 'gradio==6.31.0'") from None


def add_port(parser: argparse.ArgumentParser, default: int) -> None:
    """Declare the port of the page."""
    parser.add_argument("--port", type=int, default=default, help="on this machine (%(default)s)")


def serve(page: Any, name: str, port: int, *, head: str | None = None) -> None:
    """Serve a ``gradio.Blocks`` until Ctrl-C; ``head`` is HTML for the page's own head."""
    gradio = import_gradio()
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    print(f"{name}: http://127.0.0.1:{port}; Ctrl-C ends it", flush=True)
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        quiet=True,
        theme=theme,
        head=head,
        app_kwargs={"middleware": [(OwnPageAlone, (), {})]},
    )
