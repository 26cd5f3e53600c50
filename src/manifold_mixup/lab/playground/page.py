"""The page, and its server.

NiceGUI serves it: it keeps a socket open, on which a click or a picture takes milliseconds, and it
needs no other host, since it includes all that the browser needs. Streamlit would rerun its script
at every click; the packages of Gradio and marimo are four times as large.
"""

from collections.abc import Callable
from weakref import WeakSet

from nicegui import app, ui
from starlette.requests import Request

from manifold_mixup.lab.playground.bar import Bar
from manifold_mixup.lab.playground.choice import read
from manifold_mixup.lab.playground.controls import Controls
from manifold_mixup.lab.playground.parts import Text
from manifold_mixup.lab.playground.session import Session
from manifold_mixup.lab.playground.view import View

TITLE = "Manifold Mixup: playground"
_open: WeakSet[Session] = WeakSet()  # the sessions of all open pages
_REFRESH = 0.1  # seconds between checks for something new to show
_CSS = """
.nicegui-content { max-width: 80rem; margin: auto; }
h1 { font-size: 1.5rem; line-height: 1.2; font-weight: 600; margin: 0; }
h2 { font-size: 1.1rem; line-height: 1.2; font-weight: 600; margin: 0; }
figure { margin: 0; }
figure img { width: 100%; height: auto; border-radius: 4px; }
figcaption { font-size: .85rem; }
.columns { display: grid; width: 100%; gap: .75rem 2rem;
  grid-template: "bar view" auto "choice view" 1fr / 18rem minmax(0, 44rem); }
.bar { grid-area: bar; }
.choice { grid-area: choice; }
.view { grid-area: view; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem 1rem; }
.numbers { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
.numbers th, .numbers td { text-align: right; padding: .15rem 0 .15rem .75rem; font-weight: 400; }
.numbers th:first-child { text-align: left; padding-left: 0; }
.numbers thead th { border-bottom: 1px solid currentColor; font-weight: 600; }
input[type=range] { width: 100%; height: 1.75rem; accent-color: #0072B2; }
.choice p, .choice details { font-size: .85rem; margin: 0; }
.choice summary { cursor: pointer; display: list-item; list-style: inside disclosure-closed; }
.choice details[open] summary { list-style-type: disclosure-open; }
.choice ul { list-style: disc; margin: .25rem 0 0; padding-left: 1.25rem; }
.complaint { border-left: 4px solid #D55E00; padding-left: .75rem; overflow-wrap: anywhere; }
.body--dark { color-scheme: dark; }
.body--dark .nicegui-link { color: #7CC4F2 !important; }
@media (max-width: 52rem) {
  .columns { grid-template: "bar" "view" "choice" / minmax(0, 1fr); }
  .bar { position: sticky; top: 0; z-index: 1; padding: .5rem 0; background: Canvas; }
}
"""
_HELP = (
    "Two networks of nine layers learn the same two spirals from the same initial weights. Both "
    "have a layer of two units in the middle. Colours show the predicted class, white an even "
    "probability. The solid line is the decision boundary; dotted lines enclose predictions with "
    "more than 95 % confidence. With manifold mixup, the network stays unsure between the arms, "
    "and each class contracts at the mixed layer (Figures 1 and 2 of the paper; manifold-mixup "
    "reproduce figure-2 measures this over several seeds)."
)


def serve(host: str, port: int, *, show: bool, ready: Callable[[], None]) -> None:
    """Serve the page until the process is stopped.

    Args:
        host: address to listen on.
        port: port to listen on.
        show: whether to open the page in the browser.
        ready: called just before the page is available.
    """
    app.on_startup(ready)
    app.on_shutdown(_close_all)
    ui.run(
        _page,
        host=host,
        port=port,
        title=TITLE,
        favicon="🌀",
        dark=None,
        language="en-US",
        show=show,
        reload=False,
        show_welcome_message=False,
    )


def _close_all() -> None:
    """End all threads; a thread that outlives the interpreter would crash the process."""
    sessions = list(_open)
    for session in sessions:
        session.close()
    for session in sessions:
        session.join(10)


def _page(request: Request) -> None:
    choice, complaints = read(dict(request.query_params))
    session = Session(choice)
    _open.add(session)
    ui.context.client.on_delete(session.close)
    ui.add_css(_CSS)
    ui.colors(primary="#0072B2")
    with ui.element("main").classes("columns"):
        with ui.column().classes("bar gap-2"):
            Text("h1", text=TITLE)
            bar = Bar(session, choice)
        with ui.column().classes("choice gap-2"):
            _show(complaints)
            Controls(choice, bar.restart)
        with ui.column().classes("view gap-4 min-w-0"):
            view = View(session)
            ui.label(_HELP).classes("text-sm")

    def refresh() -> None:
        bar.refresh()
        view.refresh()

    ui.timer(_REFRESH, refresh)


def _show(complaints: list[str]) -> None:
    if complaints:
        with ui.column().classes("complaint gap-1").props("role=alert"):
            for complaint in complaints:
                ui.label(complaint)
