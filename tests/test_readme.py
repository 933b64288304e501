"""The README's examples: each Python block runs, and prints what the text block after it shows."""

import contextlib
import io
import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
    assert any(expected for _, expected in EXAMPLES)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    code, expected = EXAMPLES[number]
    if "resnet" in code:
        request.getfixturevalue("torchvision")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, f"README example {number}", "exec"), {"__name__": "__main__"})
    if expected:
        assert printed.getvalue() == expected
