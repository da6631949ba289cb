"""Which extras of Secondsight a run needs: by its model, its flags and the names that it is given."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from fnmatch import fnmatchcase

#: `--model` as the registry understands it (model/registry.py) -> extras; the first that fits counts.
BY_MODEL: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("signals", ()),
    ("bundled", ("qwen",)),
    ("python:*", ()),  # only its author knows: --extra, --pip
    ("openai:*", ()),
    ("vllm:*", ("vllm",)),  # pins a torch of its own: not together with qwen
    ("*.gguf", ("qwen", "gguf")),
    ("*", ("qwen",)),
)


def needed(run: argparse.Namespace, names: Iterable[str]) -> set[str]:
    """The extras for `secondsight run` with these arguments. `names`: all that is to be read, those in lists too."""
    extras = set(next(extras for pattern, extras in BY_MODEL if fnmatchcase(run.model, pattern)))
    if any(name.removeprefix("@").startswith(("s3://", "s3a://")) for name in (*names, run.model)):
        extras.add("s3")
    if run.decoder == "decord":
        extras.add("decord")
    if "faces" in (run.redact or "").replace(" ", "").split(","):  # faces=PATH: weights for OpenCV
        extras.add("faces")
    if run.trace is not None:
        extras.add("trace")
    return extras
