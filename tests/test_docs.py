"""The documentation: links lead somewhere, and commands name what there is."""

import re
import shlex
from pathlib import Path

import pytest

from fedmetanas.experiments.comparison.variants import choose, read_variants
from fedmetanas.experiments.settings import Settings, from_yaml, load

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def commands() -> list[list[str]]:
    """Return the words of each command of ours in the documentation, without its name."""
    found = []
    for text in PAGES.values():
        for block in blocks(text, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "fedmetanas" in words:
                    found.append(words[words.index("fedmetanas") + 1 :])
    return found


def settings(experiment: str, overrides: list[str]) -> Settings:
    if not experiment.endswith(".yaml"):
        return load(experiment, overrides)
    (text,) = blocks(PAGES["docs/tutorial-own-images.md"], "yaml")
    return from_yaml(text, overrides)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_titles_that_are_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if re.match(r"\w+://", link):
            continue
        name, _, anchor = link.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


def test_commands_name_experiments_and_settings_that_there_are() -> None:
    runs = [words for words in commands() if words[0] in ("run", "compare")]
    assert len(runs) > 20
    for _, *words in runs:
        overrides = [word for word in words if "=" in word and word[0] != "-"]
        resumed = words[0] == "--resume"
        if words[0] != "settings.yaml":
            settings("digits" if resumed else words[0], overrides)


def test_comparisons_name_variants_that_there_are() -> None:
    variants = read_variants()
    for words in commands():
        if "--strategies" in words and "--variants" not in words:
            names = words[words.index("--strategies") + 1]
            assert choose(names.split(","), variants, "--strategies")


@pytest.mark.parametrize(
    ("page", "lines", "words"), [("README.md", 150, 1300), ("docs/results.md", 150, 900)]
)
def test_what_is_read_first_is_short(page: str, lines: int, words: int) -> None:
    assert len(PAGES[page].splitlines()) <= lines
    assert len(PAGES[page].split()) <= words
