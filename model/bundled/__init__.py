"""`--model bundled`: a small Qwen3-VL mixture of experts that comes along. It knows the generated world only.

README.md beside this file is its model card: what it was trained on, how, and its scores. `python -m jobs.train` makes
such checkpoints.
"""

from __future__ import annotations

from pathlib import Path

from model.qwen3_vl import QwenFactory

FOLDER = Path(__file__).parent
PROMPT = FOLDER / "world.toml"

_FACTORY = QwenFactory(str(FOLDER), prompt=str(PROMPT))
profile, load, load_rank = _FACTORY.profile, _FACTORY.load, _FACTORY.load_rank
for_cluster, summarise, pictures = _FACTORY.for_cluster, _FACTORY.summarise, _FACTORY.pictures
