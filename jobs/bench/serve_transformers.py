"""`transformers serve`, also without two packages that it wants and the bundled checkpoint does not need.

Of its processor only what takes videos is made with torchvision, and no request has a video; accelerate spreads a model
over several devices. Where they are installed, nothing is changed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

WANTS_PATCH = importlib.util.find_spec("torchvision") is None
#: For `Qwen3VLProcessor.get_attributes`.
WITHOUT_VIDEOS = classmethod(lambda cls: ["image_processor", "tokenizer"])

if __name__ == "__main__":
    from transformers.cli.transformers import main
    from transformers.integrations import accelerate
    from transformers.models.qwen3_vl import Qwen3VLProcessor

    processor: Any = Qwen3VLProcessor
    if WANTS_PATCH:
        processor.get_attributes = WITHOUT_VIDEOS
    if importlib.util.find_spec("accelerate") is None:
        accelerate.is_accelerate_available = lambda: True
    main()
