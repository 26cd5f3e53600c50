"""``manifold-mixup playground``: watch networks learn two spirals, with and without mixup."""

import importlib.util
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Options:
    """Watch networks learn two spirals live in the browser, with and without mixup.

    It serves a local page with controls for the method, alpha, layers, noise and width. The page's
    link contains the settings.
    """

    host: str = "127.0.0.1"
    """Address to listen on. With the default, only this machine can open the page."""
    port: int = 8642
    """Port to listen on; 0 takes any free port."""
    open: bool = True
    """Open the page in the browser."""


def prepare(options: Options) -> Options:
    """Check that the page can be served; return the options with a port.

    Raises:
        ValueError: nicegui is not installed.
        OSError: the address or the port is not available.
    """
    if importlib.util.find_spec("nicegui") is None:
        raise ValueError(
            "the playground needs nicegui, which is not installed. "
            "Install it with: pip install 'manifold-mixup[playground]'"
        )
    return Options(options.host, _free(options.host, options.port), options.open)


def run(options: Options) -> bool:
    """Serve the page until Ctrl-C."""
    import torch

    from manifold_mixup.lab.playground.page import serve  # a second to import

    torch.set_num_threads(1)  # more threads do not speed up small networks, but slow the page
    with suppress(KeyboardInterrupt):
        serve(options.host, options.port, show=options.open, ready=lambda: _announce(options))
    return True


def _free(host: str, port: int) -> int:
    """Return the port, or a free one if it is 0."""
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(kind) as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind((host, port))
            return int(candidate.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {_why(error)}. "
            f"Choose another with --port, or any free port with --port 0."
        ) from None


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _announce(options: Options) -> None:
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Playground: http://{shown}:{options.port} (Ctrl-C stops it)", flush=True)
    if not _is_local(options.host):
        print("Any machine that can reach this address can open it.", flush=True)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
