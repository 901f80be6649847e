"""README, docs/ and CONTRIBUTING.md name files, modules, links and commands that exist."""

import importlib
import pathlib
import re
import shlex

import pytest
from absl import flags

from skipsr_jax import commandline
from skipsr_jax.inference import settings as inference
from skipsr_jax.training import settings as training
from skipsr_jax.training.stages.registry import LOSS_KINDS

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATTERNS = ("*.md", "docs/*.md", "benchmarks/*.md", "checkpoints/*/README.md")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
TOP = ("skipsr_jax", "tests", "benchmarks", "configs", "docs", ".ci", ".github")
PROGRAMS = {
    "infer.py": "skipsr_jax.cli.infer",
    "skipsr-infer": "skipsr_jax.cli.infer",
    "train.py": "skipsr_jax.cli.train",
    "skipsr-train": "skipsr_jax.cli.train",
    "skipsr-convert": "skipsr_jax.checkpoints.convert",
    "skipsr-export": "skipsr_jax.checkpoints.export",
    "skipsr-data": "skipsr_jax.data.build",
}
NOT_OURS = {"pytest", "venv"}  # of python -m
DEFAULT_CONFIGS = dict.fromkeys(
    ("skipsr_jax.cli.infer", "skipsr_jax.evaluation.analyse", "benchmarks.quality"), "tiny"
)

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def code_spans(page):
    """What stands between backquotes, and the lines of indented blocks, joined at backslashes."""
    text = page.read_text()
    yield from re.findall(r"`([^`\n]+)`", text)
    text = re.sub(r"\\\n\s*", " ", text)
    yield from (line.strip() for line in text.splitlines() if line.startswith("    "))


def split(line):
    """The words of a shell line; of a part of a script, those without its quotes. No comments."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.replace("'", " ").replace('"', " ").split()


def commands_in(words):
    """(module, its flags) of every program of the repository that a shell line runs."""
    if "&&" in words:
        yield from commands_in(words[words.index("&&") + 1 :])
        words = words[: words.index("&&")]
    for word in words:
        if " python " in word:  # --command='...'
            yield from commands_in(split(word.partition("=")[2] or word))
    for i, word in enumerate(words):
        name = word.rsplit("/", 1)[-1]
        if word == "-m" and words[i - 1].endswith("python"):
            module = words[i + 1]
        elif name in PROGRAMS and (i == 0 or words[i - 1].endswith("python")):
            module = PROGRAMS[name]
        else:
            continue
        if module not in NOT_OURS:
            yield module, [flag for flag in words[i + 1 :] if flag.startswith("-") and flag != "-m"]
        return


def commands(page):
    """The commands of a page, shell variables that the page sets replaced by their values."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    variables = dict(re.findall(r'^    (\w+)="([^"]*)"$', text, re.MULTILINE))
    for span in code_spans(page):
        for name, value in variables.items():
            span = span.replace(f"${name}", value)
        yield from commands_in(split(span))


def anchor(heading):
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_files_exist(page):
    absent = []
    for span in code_spans(page):
        for path in re.findall(r"[\w.]+(?:/[\w.]+)+/?", span):
            top, name = path.split("/")[0], path.rstrip("/").rsplit("/", 1)[-1]
            if top in TOP and "NAME" not in name and not (ROOT / path.rstrip(".")).exists():
                absent.append(path)
    assert not absent


def test_links_resolve(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        linked = page.parent / path if path else page
        if not linked.exists():
            broken.append(target)
        elif fragment:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            if fragment not in {anchor(heading) for heading in headings}:
                broken.append(target)
    assert not broken


def test_dotted_modules_can_be_imported(page):
    names = {
        name
        for span in code_spans(page)
        for name in re.findall(r"\b(?:skipsr_jax|benchmarks)(?:\.\w+)+", span)
    }
    for name in sorted(names):
        module = name
        while True:  # the last words may be attributes: skipsr_jax.inference.settings.Settings
            try:
                thing = importlib.import_module(module)
                break
            except ModuleNotFoundError as error:
                assert error.name and error.name.startswith(("skipsr_jax", "benchmarks")), error
                assert "." in module, f"there is no {name}"
                module = module.rpartition(".")[0]
        for attribute in name[len(module) + 1 :].split("."):
            thing = getattr(thing, attribute) if attribute else thing


def complete(config):
    if "stage" in config:
        return training.complete(config, LOSS_KINDS)
    return inference.complete(config)


def flags_of(program, capsys):
    """The names of a program's flags, without those of its config."""
    if hasattr(program, "define_flags"):
        return set(program.define_flags())
    with pytest.raises(SystemExit):  # its parser is inside main
        program.main([program.__name__, "--help"])
    return set(re.findall(r"--(?:\[no\])?(\w+)", capsys.readouterr().out))


def test_flags_and_config_entries_of_commands_exist(page, monkeypatch, capsys):
    """Values of config entries have the type of the entry, too."""
    monkeypatch.chdir(ROOT)
    for module, arguments in commands(page):
        program = importlib.import_module(module)
        assert callable(program.main), module
        of_config = [word for word in arguments if word.startswith("--config")]
        known = flags_of(program, capsys) | {"help"}
        for word in arguments:
            name = word.lstrip("-").split("=")[0]
            if word not in of_config:
                assert {name, name.removeprefix("no")} & known, f"{module} has no flag {word}"
        if of_config and "NAME" not in " ".join(of_config):
            default = DEFAULT_CONFIGS.get(module, "")
            values = flags.FlagValues()
            commandline.parse([module, *of_config], default, values, complete=complete)
