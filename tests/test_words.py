"""docs/glossary.md holds: axis letters in signatures, and words that are not used any more."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
FREE = {GLOSSARY, ROOT / "CHANGELOG.md"}  # pages that speak about retired words
CODE = ("skipsr_jax", "benchmarks", "configs")


def table(section):
    """Rows of the table in a section of the glossary, as lists of cells, without its head."""
    text = GLOSSARY.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"no table in section {section}"
    return rows[2:]


def retired():
    """(word, where) for every retired word."""
    return [
        (word, where) for words, where, _ in table("Retired words") for word in words.split(", ")
    ]


def modules():
    return [path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py"))]


def pages():
    patterns = ("*.md", "docs/*.md", "benchmarks/*.md", "checkpoints/*/README.md")
    found = [path for pattern in patterns for path in ROOT.glob(pattern)]
    return sorted(set(found) - FREE)


def within(word):
    """Matches a word between anything but letters, so inside snake_case too."""
    return re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])")


def axes(tree):
    """(line, axis) for the axes in the jaxtyping strings of a module, sums and products split."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Name(id="Literal")):
                pass  # words to choose from
            case ast.Subscript(slice=ast.Tuple(elts=[_, ast.Constant(value=str(shape))])):
                for axis in re.findall(r"[A-Za-z]\w*", shape):
                    yield node.lineno, axis


def identifiers(tree):
    """(line, name) for every name that a module defines or imports, attributes set included."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.alias(name=name):
                yield node.lineno, name


def parts(name):
    """``headChunks_of`` -> head, chunks, of."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def test_axis_letters_are_in_the_glossary():
    letters = {row[0].strip("`") for row in table("Axis letters")}
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {axis}"
        for path in sorted((ROOT / "skipsr_jax").rglob("*.py"))
        for line, axis in axes(ast.parse(path.read_text()))
        if re.fullmatch(r"[A-Za-z]\d*", axis) and axis[0] not in letters
    ]
    assert not offenders, "axis letters that docs/glossary.md lacks:\n  " + "\n  ".join(offenders)


def test_axis_letters_stand_in_one_order():
    """Height before width, and time, rows, columns of a token grid."""
    offenders = []
    for path in sorted((ROOT / "skipsr_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Subscript(slice=ast.Tuple(elts=[_, ast.Constant(value=str(shape))])):
                    if re.search(r"\bw h\b|\bq r\b|\bc [hw]\b", shape):
                        offenders.append(f"{path.relative_to(ROOT)}:{node.lineno}: {shape}")
    assert not offenders, "axes in another order:\n  " + "\n  ".join(offenders)


@pytest.mark.parametrize("where", ["everywhere", "names", "whole names"])
def test_retired_words_are_gone(where):
    assert {row[1] for row in table("Retired words")} == {"everywhere", "names", "whole names"}
    words = {word for word, kind in retired() if kind == where}
    offenders = []
    if where == "everywhere":
        for path in modules() + pages():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = sorted(word for word in words if within(word).search(line))
                offenders += [f"{path.relative_to(ROOT)}:{number}: {word}" for word in found]
    else:
        for path in modules():
            for line, name in [(1, path.stem), *identifiers(ast.parse(path.read_text()))]:
                inside = parts(name) if where == "names" else {name.strip("_").lower()}
                if inside & words:
                    offenders.append(f"{path.relative_to(ROOT)}:{line}: {name}")
    assert not offenders, "words that docs/glossary.md retired:\n  " + "\n  ".join(offenders)
