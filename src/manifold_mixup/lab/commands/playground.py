"""``manifold-mixup playground``: watch two spirals being learnt, with and without a method."""

import importlib.util
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address


@dataclass(frozen=True)
class Options:
    """Watch two spirals being learnt live in the browser, with and without mixup.

    A local page with sliders for alpha, layers, noise and width; its link holds what is chosen.
    """

    host: str = "127.0.0.1"
    """Address to listen on. Other machines reach the page only if it is another one."""
    port: int = 8642
    """Port to listen on; 0 takes a free one."""
    open: bool = True
    """Whether to open the page in the browser."""


def prepare(options: Options) -> Options:
    """See that the page can be served; return the options with a port.

    Raises:
        ValueError: what serves it is not installed.
        OSError: the address or the port cannot be had.
    """
    if importlib.util.find_spec("nicegui") is None:
        raise ValueError(
            "the playground needs nicegui, not installed here. "
            "Install it with: pip install 'manifold-mixup[playground]'"
        )
    return Options(options.host, _free(options.host, options.port), options.open)


def run(options: Options) -> bool:
    """Serve the page until Ctrl-C."""
    import torch

    from manifold_mixup.lab.playground.page import serve  # a second to import

    torch.set_num_threads(1)  # small networks gain nothing by more, and the page loses
    with suppress(KeyboardInterrupt):
        serve(options.host, options.port, show=options.open, ready=lambda: _say(options))
    return True


def _free(host: str, port: int) -> int:
    """Return the port, or for 0 one that is free."""
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(kind) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            return int(one.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {_why(error)}. "
            f"Take another with --port, or --port 0 for any that is free."
        ) from None


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")


def _say(options: Options) -> None:
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"Playground: http://{shown}:{options.port} (Ctrl-C ends it)", flush=True)
    if not _is_local(options.host):
        print("Every machine that reaches this address can open it.", flush=True)


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
