"""Reports as a browser shows them: no error, nothing loaded, filters, keyboard, screen reader, a phone's width."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sedet.compare.table import summarize
from sedet.evaluation.analysis import analyze
from sedet.reporting.comparison_page import comparison_page
from sedet.reporting.report import report

from .browser import Page, browser, needs_chromium
from .made import FILE, QUOTE, SCRIPT, comparison_folder, run_folder, settings

pytestmark = needs_chromium


KINDS = ("run", "comparison", "analysis")
every = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind, all with the same classes and images."""
    root = tmp_path_factory.mktemp("made")
    run = run_folder(root)
    made, pool = comparison_folder(root)
    (root / "comparison.html").write_bytes(comparison_page(made, summarize(made, pool.val), pool))
    data = settings(run)
    analyze(run, data.val or "", unlabeled=data.unlabeled, out=root / "analysis", device="cpu")
    pages = (report(run, device="cpu"), root / "comparison.html", root / "analysis" / "report.html")
    return dict(zip(KINDS, pages, strict=True))


@pytest.fixture
def kind() -> str:
    return "run"


@pytest.fixture
def file(files: dict[str, Path], kind: str) -> Path:
    return files[kind]


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        yield page


@pytest.fixture
def page(tab: Page, file: Path) -> Page:
    """A page, opened anew at a desktop's width."""
    tab.view(1280, 900)
    tab.requests.clear()
    tab.open(file)
    return tab


SET = """(form, name, value) => {
  const field = document.querySelector(`[data-for=${form}]`).elements[name];
  if (field.type === "checkbox") field.checked = value; else field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
}"""


def cards(page: Page, gallery: str) -> list[dict[str, str]]:
    """What the cards that are shown say of themselves."""
    return page.run(  # type: ignore[no-any-return]
        f"[...document.querySelectorAll('#{gallery} .card')].filter(c => !c.hidden).map(c => ({{...c.dataset}}))"
    )


@every
def test_it_opens_without_an_error_and_loads_nothing(page: Page) -> None:
    shown = "[...document.images].map(i => { i.loading = 'eager'; return i.decode().then(() => 1); })"
    assert page.run(f"Promise.all({shown}).then(a => a.length)") > 5
    assert page.problems == []
    assert {url.partition(":")[0] for url in page.requests} == {"file", "data"}
    assert sum(url.startswith("file:") for url in set(page.requests)) == 1


def test_the_policy_stops_what_is_not_the_pages_own(tab: Page, file: Path, tmp_path: Path) -> None:
    """Were a name ever let through, it could neither run nor load anything."""
    other = tmp_path / "harmed.html"
    harm = "<main><script>window.harm = 4</script><img src=https://example.invalid/x onerror='window.harm = 5'>"
    other.write_text(file.read_text(encoding="utf-8").replace("<main", f"{harm}<main", 1), encoding="utf-8")
    before = len(tab.problems)
    tab.open(other)
    assert tab.run("window.harm") is None and len(tab.problems) > before
    del tab.problems[before:]


@every
def test_names_from_outside_are_text_and_nothing_more(page: Page) -> None:
    assert page.run("window.harm") is None
    shown = page.run("document.body.textContent")
    for name in (SCRIPT, QUOTE, FILE):
        assert name in shown
    classes = page.run("[...document.querySelector('[data-for=gallery]').elements.class.options].map(o => o.text)")
    assert classes == ["all", SCRIPT, QUOTE]


@every
def test_errors_are_filtered_by_kind_class_and_score(page: Page) -> None:
    every = cards(page, "gallery")
    kinds = {card["kind"] for card in every}
    assert len(kinds) > 1
    kind = sorted(kinds)[0]
    page.run(f"({SET})('gallery', 'kind', '{kind}')")
    assert {card["kind"] for card in cards(page, "gallery")} == {kind}
    page.run(f"({SET})('gallery', 'kind', '')")
    page.run(f"({SET})('gallery', 'class', '1')")
    of_class = cards(page, "gallery")
    assert of_class and {card["class"] for card in of_class} == {"1"}
    assert page.run("document.querySelector('[data-for=gallery] .count').textContent").startswith(f"{len(of_class)} of")
    page.run(f"({SET})('gallery', 'score', '1')")
    assert cards(page, "gallery") == [], "no score is that high"
    page.run(f"({SET})('gallery', 'boxes', false)")
    assert page.run("getComputedStyle(document.querySelector('#gallery .boxes')).display") == "none"


def test_more_pictures_come_with_the_button(page: Page) -> None:
    total = page.run("document.querySelectorAll('#gallery .card').length")
    page.run("document.querySelector('[data-for=gallery]').dataset.first = '2'")
    first = len(cards(page, "gallery"))
    assert first == min(18, total)
    if total > 18:
        page.run("document.querySelector('#gallery-more').click()")
        assert len(cards(page, "gallery")) == total


@every
def test_pseudo_labels_are_filtered_by_class_and_score(page: Page) -> None:
    def shown() -> list[list[float]]:
        return page.run(  # type: ignore[no-any-return]
            "[...document.querySelectorAll('#pseudo-gallery .mark:not(.off)')]"
            ".map(m => [Number(m.dataset.class), Number(m.dataset.score)])"
        )

    page.run(f"({SET})('pseudo-gallery', 'score', '0.1')")
    every = shown()
    assert every and {label for label, _ in every} <= {0, 1}
    middle = sorted(score for _, score in every)[len(every) // 2]
    least = round(middle + 0.005, 2)
    page.run(f"({SET})('pseudo-gallery', 'score', '{least}')")
    assert shown() == [one for one in every if one[1] >= least] and len(shown()) < len(every)
    page.run(f"({SET})('pseudo-gallery', 'class', '0')")
    assert shown() == [one for one in every if one[1] >= least and one[0] == 0]
    page.run(f"({SET})('pseudo-gallery', 'score', '0.99')")
    page.run(f"({SET})('pseudo-gallery', 'filled', true)")
    assert cards(page, "pseudo-gallery") == []


def test_the_threshold_tells_precision_and_recall(page: Page) -> None:
    said = "document.querySelector('#sweep-said').textContent"
    page.run("document.querySelector('#sweep-score').focus()")
    before = page.run(said)
    page.press("ArrowRight", 39)
    after = page.run(said)
    assert float(after[:4]) == pytest.approx(float(before[:4]) + 0.01) and "of the boxes are right" in after


@every
def test_the_keyboard_reaches_everything(page: Page) -> None:
    page.press("Tab", 9)
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter", 13, "\r")
    assert page.run("document.activeElement.id") == "main"
    reachable = page.run(
        "[...document.querySelectorAll('a, button, select, input, summary, .scroll')]"
        ".filter(e => e.offsetParent !== null).every(e => e.tabIndex >= 0)"
    )
    assert reachable


def test_a_screen_reader_is_told(page: Page) -> None:
    roles = page.roles()
    names = {role: [name for kind, name in roles if kind == role] for role, _ in roles}
    assert any("changed by +2.5 AP" in name for name in names["heading"])
    assert any(name.startswith("Precision over recall") for name in names["image"])
    assert all(name for kind in ("image", "slider", "checkbox", "button", "region") for name in names[kind])
    assert "Confusion matrix: truth in rows, answers in columns" in names["table"]
    assert len(names["main"]) == 1 and names["navigation"] == ["Sections"]


@every
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_the_width(page: Page, width: int) -> None:
    page.view(width, 844)
    wide = page.run(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg')"
        " && e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 200))"
    )
    assert page.run("document.documentElement.scrollWidth") <= width, wide
    text = page.run("[...document.querySelectorAll('.chart svg text')].map(t => t.getBoundingClientRect().height)")
    assert min(text) > 7, "letters of charts can be read"


@every
def test_light_and_dark(page: Page) -> None:
    paper = "getComputedStyle(document.querySelector('section')).backgroundColor"
    line = "getComputedStyle(document.querySelector('.chart svg path[style*=\"stroke: var(--series-0)\"]')).stroke"
    light = page.run(paper), page.run(line)
    page.view(1280, 900, dark=True)
    dark = page.run(paper), page.run(line)
    assert light[0] == "rgb(255, 255, 255)" and dark[0] == "rgb(23, 27, 33)" and light[1] != dark[1]
    page.run("document.querySelector('#theme').click()")
    assert (page.run(paper), page.run(line)) == light
    page.run("localStorage.clear()")


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast(page: Page, dark: bool) -> None:
    """WCAG AA, 4.5 to 1, of every colour that text has on the paper and on the page's back."""
    page.view(1280, 900, dark=dark)

    def light(name: str) -> float:
        colour = page.run(f"getComputedStyle(document.documentElement).getPropertyValue('{name}')").strip()
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for back in ("--paper", "--back"):
        for text in ("--ink", "--muted", "--accent", "--bad"):
            low, high = sorted((light(text), light(back)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, back)
