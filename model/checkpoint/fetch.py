"""Copies a checkpoint from the hub to where every node reads it: an object store, or a shared folder.

    python -m model.checkpoint.fetch Qwen/Qwen3-VL-30B-A3B-Instruct s3://bucket/models/Qwen3-VL-30B-A3B-Instruct

A driver then reads its configuration, tokenizer and samples of its weights by range, and each rank its own share.
Copies a few files at once and holds no more of them on this disk; a copy that was broken off goes on with what is
missing. config.json comes last: without it there is no checkpoint.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from model.checkpoint.source import HUB_PATTERNS
from pipeline.errors import ModelError, SecondsightError
from pipeline.storage import filesystem

AT_ONCE = 4  # files: of a large checkpoint about 5 GB each
ATTEMPTS = 3
PAUSE_S = 5.0
LAST = "config.json"


def fetch(repo: str, uri: str, revision: str | None = None, scratch: str | None = None) -> list[str]:
    """Copy what is not there yet; returns the names of the files that were copied.

    `scratch`: folder for the files on their way. Raises ModelError where the hub does not give them or the store does
    not take them, UsageError for a kind of URI that no library can write.
    """
    from huggingface_hub import HfApi

    fs, root = filesystem(uri.rstrip("/"))
    try:
        told = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:
        raise ModelError(f"{repo}: the hub does not give it: {_said(error)}") from error
    sizes = {file.rfilename: file.size for file in told.siblings or () if _wanted(file.rfilename)}
    if LAST not in sizes:
        raise ModelError(f"{repo}: has no {LAST}: not a checkpoint")
    fs.makedirs(root, exist_ok=True)
    missing = [name for name in sorted(sizes) if _size(fs, f"{root}/{name}") != sizes[name]]
    first = [name for name in missing if name != LAST]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda name: _copy(repo, told.sha, name, fs, root, scratch), first):
            pass
    if LAST in missing:
        _copy(repo, told.sha, LAST, fs, root, scratch)
    return missing


def _wanted(name: str) -> bool:
    return "/" not in name and any(fnmatch(name, pattern) for pattern in HUB_PATTERNS)


def _size(fs: Any, path: str) -> int | None:
    try:
        return int(fs.info(path)["size"])
    except FileNotFoundError:
        return None
    except Exception as error:
        raise ModelError(f"{path}: {_said(error)}") from error


def _copy(repo: str, revision: str | None, name: str, fs: Any, root: str, scratch: str | None) -> None:
    from huggingface_hub import hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            with tempfile.TemporaryDirectory(prefix="secondsight-fetch-", dir=scratch) as folder:
                fs.put_file(hf_hub_download(repo, name, revision=revision, local_dir=folder), f"{root}/{name}")
            break
        except Exception as error:
            if attempt == ATTEMPTS:
                raise ModelError(f"{repo}/{name}: not copied to {root}: {_said(error)}") from error
            time.sleep(PAUSE_S * attempt)
    print(f"{root}/{name}", flush=True)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.checkpoint.fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("repo", metavar="ORG/NAME", help="on the hub; $HF_TOKEN where it asks who wants it")
    parser.add_argument("uri", metavar="URI", help="where to: s3://bucket/models/NAME, or a folder")
    parser.add_argument("--revision", help="branch, tag or commit (default: main)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="for files on their way (default: $TMPDIR)")
    args = parser.parse_args(words)
    try:
        copied = fetch(args.repo, args.uri, args.revision, None if args.scratch is None else str(args.scratch))
    except (SecondsightError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.uri}: {len(copied)} files copied, the others were there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
