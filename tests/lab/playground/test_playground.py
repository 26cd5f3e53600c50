"""The playground: its links, trainings and pictures, and the page in a real browser."""

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import fields, replace
from urllib.error import URLError
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifold_mixup.lab import cli, paper
from manifold_mixup.lab.commands import playground
from manifold_mixup.lab.evaluate.plane import Plane
from manifold_mixup.lab.models.mlp import SHAPES
from manifold_mixup.lab.playground import choice as choices
from manifold_mixup.lab.playground import session as sessions
from manifold_mixup.lab.playground.choice import BOUNDS, LAYERS, Choice, methods, read
from manifold_mixup.lab.playground.choice import names as method_names
from manifold_mixup.lab.playground.learner import Learner
from manifold_mixup.lab.playground.offered import about, left_out, refusal
from manifold_mixup.lab.playground.paint import FIRST, SECOND, SIDE, paint
from manifold_mixup.lab.playground.session import Session
from manifold_mixup.lab.recipes.check import check_recipe, way_of
from manifold_mixup.lab.recipes.recipe import mixed
from manifold_mixup.lab.recipes.ways import WAYS
from manifold_mixup.lab.runs import weights
from manifold_mixup.lab.training.loop import train
from manifold_mixup.lab.training.mixing import check_way

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = "<img src=x onerror=alert(1)>"
ALPHAS = {
    "input mixup": 1.0,
    "manifold mixup": 2.0,
    "same-class mixup": 2.0,
    "other-class mixup": 2.0,
    "RegMixup": 10.0,
    "noisy feature mixup": 1.0,
    "SK-Mixup": 1.0,
}
"""The ways of mixing on the page, and the α of each."""
REGULARISERS = ("weight decay 0.001", "noise 0.1", "dropout 0.5", "batch norm")
NO_POSITIONS = (
    "cutmix", "manifold-cutmix", "mixup-cutmix", "patchup-soft", "patchup-hard", "alignmixup",
)  # fmt: skip
LEARNT = ("manifold mixup", "RegMixup", "dropout 0.5")
HIDDEN_MIXING = ("manifold mixup", "same-class mixup", "other-class mixup", "noisy feature mixup")


def of_link(query):
    return read(dict(parse_qsl(query)))


@given(
    st.builds(
        Choice,
        method=st.sampled_from(method_names()),
        alpha=st.floats(*BOUNDS["alpha"][:2]),
        layers=st.sets(st.sampled_from(LAYERS), min_size=1).map(
            lambda some: tuple(layer for layer in LAYERS if layer in some)
        ),
        noise=st.floats(*BOUNDS["noise"][:2]),
        width=st.integers(*BOUNDS["width"][:2]),
        seed=st.integers(*BOUNDS["seed"][:2]),
    )
)
def test_a_link_holds_the_whole_choice(choice):
    assert of_link(choice.query()) == (choice, [])


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            {"alpha": "banana"},
            "alpha is 'banana', not a number from 0.1 to 10. The default is used: 2.0.",
        ),
        ({"alpha": "nan"}, "alpha is 'nan', not a number"),
        ({"noise": "-1"}, "noise is '-1', not a number from 0 to 3"),
        (
            {"width": "8.5"},
            "width is '8.5', not a whole number from 8 to 256. The default is used: 128.",
        ),
        ({"width": "100000"}, "not a whole number from 8 to 256"),
        (
            {"method": HOSTILE},
            f"There is no method {HOSTILE!r}. The default is used: manifold mixup.",
        ),
        (
            {"method": "no mixup"},
            "The first network always learns with no mixup. The default is used: manifold mixup.",
        ),
        (
            {"method": "CutMix"},
            "CutMix is not offered: points in the plane have no positions, such as pixels. The "
            "default is used: manifold mixup.",
        ),
        ({"method": "Remix"}, "Remix is not offered: both classes have the same number of points"),
        ({"method": "c-mixup"}, "C-Mixup is not offered: the targets are classes, not numbers."),
        ({"method": "ict"}, "ICT is not offered: every point has a label."),
        ({"method": "nfm"}, "no method 'nfm'. Did you mean 'noisy feature mixup'?"),
        ({"method": "input mixpu"}, "no method 'input mixpu'. Did you mean 'input mixup'?"),
        (
            {"layers": "bottleneck,roof"},
            "There is no layer 'roof'. The default is used: bottleneck.",
        ),
        ({"layers": ""}, "There is no layer ''."),
        ({"utm_source": "x"}, "There is no setting 'utm_source'."),
    ],
)
def test_what_a_link_says_wrongly_is_left_as_usual_and_said(query, said):
    choice, complaints = read({"seed": "3", **query})
    assert choice == Choice(seed=3)
    (complaint,) = complaints
    assert said in complaint


def test_as_it_opens_it_is_figure_1():
    plain, _, mixed = (row.run for row in paper.table("figure-1").rows)
    width = SHAPES[plain.model].width
    assert Choice().runs() == (replace(plain, width=width), replace(mixed, width=width))


def test_every_field_of_a_choice_decides_something():
    usual = Choice()
    others = {"method": "dropout 0.5", "alpha": 1.0, "layers": ("input", "hidden7"), "noise": 2.0}
    others |= {"width": 16, "seed": 5}
    assert others.keys() == {field.name for field in fields(Choice)}
    for name, value in others.items():
        other = replace(usual, **{name: value})
        assert torch.equal(other.data().x, usual.data().x) == (name != "noise")
        assert (other.runs() == usual.runs()) == (name == "noise")


def test_it_offers_the_ways_that_suit_points():
    assert {*method_names()} == {*ALPHAS, *REGULARISERS}
    assert next(iter(methods())) == "no mixup"
    offered = {way.method for way in WAYS.values()} & {*methods()}
    refused = [method for ways in left_out().values() for method in ways]
    assert len(refused) == len({*refused}) == len(WAYS) - len(offered) == 9
    assert offered.isdisjoint(refused)


@pytest.mark.parametrize("key", WAYS)
def test_a_way_is_offered_if_the_points_suit_it(key):
    """Training refuses the same ways, except Remix, which is input mixup for equal classes."""
    way, data = WAYS[key], Choice().data()
    run = mixed(methods()["no mixup"], way, alpha=2.0)
    if way.method in methods() or key == "remix":
        check_way(run, data)
    else:
        with pytest.raises(ValueError, match=re.escape(way.method)):
            check_way(run, data)
    assert data.y.bincount().unique().numel() == 1  # neither class is rarer


@pytest.mark.parametrize("key", WAYS)
def test_a_link_cannot_choose_a_way_that_is_not_offered(key):
    way = WAYS[key]
    for name in (key, way.method, way.method.upper()):
        choice, complaints = read({"method": name})
        if name in ALPHAS:
            assert (choice.method, complaints) == (name, [])
        else:
            assert choice == Choice()
            (complaint,) = complaints
            assert way.method in complaint
    assert ("no positions" in refusal(key)) == (key in NO_POSITIONS)


@pytest.mark.parametrize("method", method_names())
def test_a_method_has_its_own_settings(method):
    choice = Choice(width=8, alpha=0.7).switch(method)
    run = choice.runs()[1]
    check_recipe(run)
    assert choice.alpha == ALPHAS.get(method, 0.7)
    assert choice.mixes == bool(run.layers) == (method in ALPHAS)
    assert choice.mixes_hidden == (method in HIDDEN_MIXING)
    if method in ALPHAS:
        assert way_of(run) == method
        assert run.alpha == choice.alpha
        layers = ("bottleneck",) if method in HIDDEN_MIXING else ("input",)
        assert run.layers == layers
    other = replace(choice, layers=("hidden1",)).runs()[1]
    assert (other == run) == (method not in HIDDEN_MIXING)
    other = replace(choice, alpha=3.3).runs()[1]
    assert other == (replace(run, alpha=3.3) if method in ALPHAS else run)
    assert read({"method": method, "width": "8"}) == (
        Choice(width=8, method=method, alpha=ALPHAS.get(method, 2.0)), [],
    )  # fmt: skip


def test_a_wrong_alpha_is_replaced_by_that_of_the_method():
    for query in ({"alpha": "x", "method": "RegMixup"}, {"method": "RegMixup", "alpha": "x"}):
        choice, (complaint,) = read(query)
        assert choice.alpha == 10
        assert complaint.endswith("The default is used: 10.0.")


def test_a_method_is_described_in_a_line():
    for way in WAYS.values():
        assert about(way.method) == way.about or way.method not in methods()
    assert all("Figure 2" in about(method) for method in REGULARISERS)


def test_it_offers_layers_that_can_be_mixed():
    """It offers all of them, and the network has no others."""
    choice = Choice(width=8, layers=LAYERS)
    learner = Learner(choice.runs()[1], choice.data())
    learner.learn()
    assert learner.job.method.mixup.layers == LAYERS


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=() if name in LEARNT else pytest.mark.thorough)
        for name in (*ALPHAS, "dropout 0.5", "noise 0.1")
    ],
)
def test_it_learns_what_train_learns(method):
    """The results are bit-identical although another network is trained in between."""
    choice = Choice(width=16, layers=("input", "bottleneck")).switch(method)
    plain, run = (replace(one, epochs=3) for one in choice.runs())
    other, learner = Learner(plain, choice.data()), Learner(run, choice.data())
    for _ in range(3):
        other.learn()
        learner.learn()
        learner.snapshot()
    expected = train(run, choice.data())
    assert weights.fingerprint(weights.state_of(learner.job.core)) == expected.weights
    assert learner.loss == pytest.approx(expected.curve[-1].train_loss)
    assert learner.finished
    sight = learner.snapshot()
    assert (sight.error, sight.nll) == (expected.last.error, pytest.approx(expected.last.nll))


@pytest.fixture
def short(monkeypatch):
    """Recipes of five epochs."""
    recipes = {name: replace(run, epochs=5) for name, run in methods().items()}
    monkeypatch.setattr(choices, "methods", lambda: recipes)


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def shows(session, epoch):
    until(lambda: session.frame is not None and session.frame.epoch == epoch)


@pytest.fixture
def session(short):
    with closing(Session(Choice(width=8))) as one:
        shows(one, 0)
        yield one
    assert one.join(30)


def test_a_step_is_an_epoch_of_both(session):
    for epoch in (1, 2):
        session.step()
        shows(session, epoch)
    session.step()
    session.step()
    shows(session, 4)
    time.sleep(0.2)
    assert session.frame.epoch == 4
    assert not session.running


def test_it_starts_pauses_and_ends(session, monkeypatch):
    slow = Learner.learn
    monkeypatch.setattr(Learner, "learn", lambda self: (time.sleep(0.1), slow(self)))
    session.start()
    assert session.running
    until(lambda: session.frame.epoch > 0)
    session.pause()
    assert not session.running
    time.sleep(0.7)
    paused = session.frame.epoch
    assert paused < 5
    session.start()
    shows(session, 5)
    until(lambda: not session.running)
    for act in (session.start, session.step):
        act()
        time.sleep(0.6)  # enough time for another epoch
        assert not session.running
        assert session.frame.epoch == session.frame.epochs == 5
    assert session.finished
    session.restart(session.frame.choice)
    assert not session.finished
    session.start()
    assert session.running


def test_another_choice_begins_anew(session):
    session.step()
    shows(session, 1)
    other = Choice(width=8, method="input mixup", seed=1)
    session.restart(other)
    shows(session, 0)
    assert session.frame.choice == other
    assert not session.running


def test_networks_of_a_choice_that_has_passed_are_not_shown(session, monkeypatch):
    at_work, go_on, draw = threading.Event(), threading.Event(), sessions._frame

    def slowly(*args):
        at_work.set()
        assert go_on.wait(30)
        return draw(*args)

    before = session.frame
    monkeypatch.setattr(sessions, "_frame", slowly)
    session.step()
    assert at_work.wait(30)
    session.restart(Choice(width=8, seed=1))
    go_on.set()
    until(lambda: session.frame is not before)
    assert (session.frame.choice.seed, session.frame.epoch) == (1, 0)


def test_the_networks_are_those_of_the_choice(session):
    session.step()
    shows(session, 1)
    for panel, run in zip(session.frame.panels, session.frame.choice.runs(), strict=True):
        expected = train(replace(run, epochs=5), Choice().data(), stop=lambda: False).curve[0]
        assert panel.sight.loss == pytest.approx(expected.train_loss)
        assert panel.sight.nll == pytest.approx(expected.nll)


def test_what_goes_wrong_is_said_and_another_choice_works(session, monkeypatch):
    def fails(_):
        raise FloatingPointError("the loss is nan")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", fails)
        session.start()
        until(lambda: session.failure)
        assert session.failure == "the loss is nan"
        assert not session.running
    session.restart(Choice(width=8, seed=2))
    assert session.failure == ""
    session.step()
    shows(session, 1)


def test_a_page_that_closes_leaves_no_thread(short):
    one = Session(Choice(width=8))
    one.start()
    one.close()
    assert one.join(30)
    assert "playground" not in {thread.name for thread in threading.enumerate()}


def test_a_picture_has_the_colours_of_the_classes():
    """The upper right corner is the second class; each class has a point in the other's area."""
    side = 64
    axis = torch.linspace(-1, 1, side)
    points = torch.cartesian_prod(axis, axis)
    second = torch.sigmoid(10 * points.sum(1)).double()
    says = torch.stack([1 - second, second], 1)
    plane = Plane(points.min(0).values, points.max(0).values, points, says)
    drawn = paint(plane, torch.tensor([[0.5, 0.5], [-0.5, -0.5]]), torch.tensor([0, 1]))
    pixels = np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).astype(int)
    assert pixels.shape == (SIDE, SIDE, 3)
    quarter = SIDE // 4
    assert tuple(pixels[quarter, 3 * quarter]) == FIRST  # rows run down, the second coordinate up
    assert tuple(pixels[3 * quarter, quarter]) == SECOND
    for place, pure in (((10, SIDE - 10), SECOND), ((SIDE - 10, 10), FIRST)):
        pale = [255 - 0.75 * (255 - part) for part in pure]
        assert pixels[place].tolist() == pytest.approx(pale, abs=2)
    dark = pixels.sum(2) < 200
    assert dark[np.arange(5, 80), np.arange(5, 80)].mean() > 0.9  # the boundary
    dotted = [dark[row, row + 40 : row + 55].any() for row in range(5, 80)]
    assert 0.3 < np.mean(dotted) < 0.8  # where it becomes confident


def test_a_port_in_use_and_an_address_of_others_are_described(capsys):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as stop:
            cli.main(["playground", "--no-open", "--port", str(port)])
    assert stop.value.code == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port}" in said
    assert "--port 0" in said
    for host, wrong in (("192.0.2.1", 0), ("127.0.0.1", 70_000)):
        with pytest.raises(OSError, match=f"cannot listen on {host}, port {wrong}"):
            playground.prepare(playground.Options(host=host, port=wrong))


def test_without_what_serves_it_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'manifold-mixup[playground]'")):
        playground.prepare(playground.Options())


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False)]
)
def test_it_is_said_when_others_can_open_it(host, local, capsys):
    playground._announce(playground.Options(host=host, port=1))
    assert ("Any machine" in capsys.readouterr().out) != local


@pytest.fixture(scope="module")
def address():
    """The address of a playground that was started like a user does."""
    command = [sys.executable, "-m", "manifold_mixup.lab", "playground", "--no-open", "--port", "0"]
    # With this variable, NiceGUI waits for its own kind of test.
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=own, **pipes) as server:
        found = re.search(r"http://\S+", server.stdout.readline()).group()
        until(lambda: answers(found))
        yield found
        server.send_signal(signal.SIGINT)  # as Ctrl-C, while a page is still training
        _, said = server.communicate(timeout=60)
    assert (server.returncode, said) == (0, "")


def answers(address):
    try:
        return urlopen(address).status == 200
    except URLError:
        return False


@pytest.mark.slow
def test_only_this_machine_reaches_it(address):
    port = int(address.rpartition(":")[2])
    assert urlopen(address).status == 200
    try:
        others = socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)
    except socket.gaierror:
        pytest.skip("this machine has no address under its name")
    for *_, (host, *_) in others:
        if not host.startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, port), timeout=5)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as play:
        one = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield one
        one.close()


class Tab:
    """A tab that records its console messages and the hosts of its requests."""

    def __init__(self, browser, url, **options):
        self.said, self.hosts = [], set()
        self.page = page = browser.new_page(**options)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.goto(url)
        page.get_by_text("epoch 0 of 500").wait_for()

    def epoch(self):
        return int(re.search(r"epoch (\d+) of", self.page.locator("body").inner_text()).group(1))

    def rests(self):
        """Wait until the epoch does not change for two seconds, and return it."""
        seen = [self.epoch()]
        while len(seen) < 5 or len(set(seen[-5:])) > 1:
            self.page.wait_for_timeout(500)
            seen.append(self.epoch())
        return seen[-1]

    def shows(self, epoch):
        self.page.get_by_text(f"epoch {epoch} of 500").wait_for()


# Milliseconds from a click on the button until its text changes.
CLICK = """async names => {
    const button = [...document.querySelectorAll('button')]
        .find(one => names.includes(one.textContent.trim()));
    const before = button.textContent, began = performance.now();
    button.click();
    while (button.textContent === before) await new Promise(requestAnimationFrame);
    return performance.now() - began;
}"""


@pytest.mark.slow
def test_one_watches_it_learn(browser, address):
    tab = Tab(browser, address, viewport={"width": 1280, "height": 900})
    page = tab.page
    page.get_by_role("button", name="Step").click()
    tab.shows(1)
    images = page.locator("figure img")
    before = [image.get_attribute("src") for image in images.all()]
    assert page.evaluate(CLICK, ["Start"]) < 300
    times = []
    for _ in range(6):  # the last click starts it
        page.wait_for_timeout(400)
        times.append(page.evaluate(CLICK, ["Start", "Pause"]))
    assert sorted(times)[-2] < 300, times  # one may be slow because of the machine's load
    page.get_by_role("button", name="Pause").click()
    paused = tab.rests()
    assert paused > 1
    assert len(images.all()) == 4
    assert all(
        image.get_attribute("src") != old for image, old in zip(images.all(), before, strict=True)
    )
    assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth)")
    page.wait_for_timeout(500)
    assert tab.epoch() == paused
    page.get_by_role("button", name="Step").click()
    tab.shows(paused + 1)
    loss = page.locator(".numbers tbody tr").first.locator("td").all_inner_texts()
    assert all(0 < float(text) < 1 for text in loss)
    assert page.locator("canvas").count() == 1
    assert tab.said == []
    assert tab.hosts <= {urlsplit(address).netloc, ""}  # pictures are data URLs
    page.close()


@pytest.mark.slow
def test_a_choice_is_in_its_link(browser, address):
    tab = Tab(browser, address)
    page = tab.page
    page.get_by_role("checkbox", name="hidden3").click()
    slider = page.get_by_role("slider", name="noise of the points")
    slider.focus()
    slider.press("ArrowRight")
    page.wait_for_url("**noise=0.6**")
    link = page.url
    assert of_link(link.partition("?")[2]) == (
        Choice(layers=("hidden3", "bottleneck"), noise=0.6),
        [],
    )
    assert page.get_by_role("link", name="these settings").get_attribute("href") in link
    page.close()
    again = Tab(browser, link)
    assert again.page.get_by_text("noise of the points: 0.6").count() == 1
    assert again.page.get_by_role("checkbox", name="hidden3").is_checked()
    again.page.get_by_role("combobox").click()
    again.page.get_by_role("option", name="dropout 0.5").click()
    again.page.get_by_role("heading", name="dropout 0.5").wait_for()
    assert again.page.get_by_role("slider", name="α").is_disabled()
    assert "method=dropout+0.5" in again.page.url
    again.page.close()


@pytest.mark.slow
@pytest.mark.thorough  # tests of a choice and of its link show the same without a browser
def test_a_way_of_mixing_is_chosen_with_its_own_alpha(browser, address):
    tab = Tab(browser, f"{address}/?alpha=0.5")
    page = tab.page
    alpha = page.get_by_role("slider", name="α")
    boxes = page.get_by_role("checkbox")
    assert (alpha.input_value(), boxes.first.is_enabled()) == ("0.5", True)
    assert page.get_by_text(WAYS["manifold"].about).count() == 1
    page.get_by_role("combobox").click()
    assert {*page.get_by_role("option").all_inner_texts()} == {*method_names()}
    page.get_by_role("option", name="RegMixup").click()
    page.get_by_role("heading", name="RegMixup").wait_for()
    assert page.get_by_text(WAYS["regmixup"].about).count() == 1
    page.get_by_text("α, λ ~ Beta(α, α): 10").wait_for()
    assert (alpha.input_value(), alpha.is_enabled()) == ("10", True)
    assert not any(box.is_enabled() for box in boxes.all())
    assert of_link(page.url.partition("?")[2]) == (Choice(method="RegMixup", alpha=10.0), [])
    page.get_by_role("button", name="Step").click()
    tab.shows(1)
    alpha.focus()
    alpha.press("ArrowLeft")
    page.wait_for_url("**alpha=9.9**")
    page.get_by_role("combobox").click()
    page.get_by_role("option", name="noisy feature mixup").click()
    page.get_by_text("α, λ ~ Beta(α, α): 1", exact=True).wait_for()
    assert alpha.input_value() == "1"
    assert all(box.is_enabled() for box in boxes.all())
    assert tab.said == []
    page.close()


@pytest.mark.slow
def test_a_way_that_is_not_offered_is_explained(browser, address):
    tab = Tab(browser, f"{address}/?method=cutmix")
    page = tab.page
    alert = page.get_by_role("alert").inner_text()
    assert alert.startswith("CutMix is not offered: points in the plane have no positions")
    page.get_by_role("heading", name="manifold mixup", exact=True).wait_for()
    item = page.get_by_role("listitem").filter(has_text="C-Mixup")
    assert not item.is_visible()
    page.get_by_text("ways of mixing that are not offered").click()
    item.wait_for()
    assert item.inner_text() == "C-Mixup: the targets are classes, not numbers."
    page.close()


# The lightness of an element's background and of its text, from 0 to 255.
LIGHTNESS = """element => ['backgroundColor', 'color'].map(name => {
    const parts = getComputedStyle(element)[name].match(/\\d+/g).slice(0, 3).map(Number);
    return parts.reduce((sum, one) => sum + one) / 3;
})"""


@pytest.mark.slow
@pytest.mark.parametrize("theme", [pytest.param("light", marks=pytest.mark.thorough), "dark"])
def test_the_bar_on_a_phone_is_readable_in_both_themes(browser, address, theme):
    """It stays on top of the page as that scrolls, so it has a background of its own."""
    tab = Tab(browser, address, viewport={"width": 400, "height": 800}, color_scheme=theme)
    background, text = tab.page.locator(".bar").evaluate(LIGHTNESS)
    assert abs(background - text) > 150
    assert (background < text) == (theme == "dark")
    tab.page.close()


@pytest.mark.slow
def test_a_link_is_shown_and_not_run(browser, address):
    query = urlencode({"method": HOSTILE, HOSTILE: HOSTILE, "alpha": 11})
    tab = Tab(browser, f"{address}/?{query}", viewport={"width": 400, "height": 800})
    page = tab.page
    assert page.get_by_role("alert").locator("> *").count() == 3
    assert page.get_by_text(f"There is no method {HOSTILE!r}").count() == 1
    assert page.locator("img[onerror]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    # For screen readers, every picture and every control has a name.
    assert page.locator("img:not([alt])").count() == 0
    assert page.get_by_role("slider").count() == 4
    assert page.get_by_role("checkbox").count() == len(LAYERS)
    assert page.get_by_role("row").count() == 6
    for name in LAYERS:
        assert page.get_by_role("checkbox", name=name, exact=True).count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Start"
    assert tab.said == []
    page.get_by_role("button", name="Start", exact=True).click()  # trains until the server ends
