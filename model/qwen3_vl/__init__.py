"""Qwen3-VL (mixture-of-experts and dense) watches windows. `QwenFactory` is what stands behind `--model PATH`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from model.checkpoint.index import Checkpoint, open_checkpoint
from model.experts.placement import Placement, imbalance
from model.interface import Model, ModelIdentity, ModelProfile
from model.qwen3_vl.asking import DEFAULT_PROMPT, asked, at_least, carried, doubt_of, known_only, prompt_of, sampling_of
from model.qwen3_vl.files import read_text_files
from model.qwen3_vl.verify import DENSER, Doubt
from pipeline.errors import ModelError, UsageError
from pipeline.plan import Windowing

if TYPE_CHECKING:
    import torch.distributed as dist

    from model.pictures import PictureEmbedder

#: Raised when the same weights and prompt would be asked or understood in another way.
BEHAVIOUR_VERSION = 1
PRECISIONS = ("auto", "float32", "bf16", "fp8", "int8", "int4")
DEVICES = ("cpu", "cuda")
PLACEMENTS = ("contiguous", "measured")
FP8_NOTICE = (
    "--precision fp8: experts are multiplied in FP8 on Hopper GPUs alone (compute capability 9.0, such as H100 and "
    "H200); all other devices widen them and multiply as with a checkpoint stored in FP8 and no --precision"
)


@dataclass(frozen=True, slots=True)
class QwenSettings:
    """What a user may choose. `prompt`: a profile's name or a file; `prompt_text`: its content where the file may not
    be at hand (see `QwenFactory.for_cluster`). `ranks`: processes that share one replica's experts.
    `precision` auto: the checkpoint's own; int8, int4: of the experts, the rest as auto; fp8: experts of an FP8
    checkpoint are multiplied in FP8 where `model.experts.fp8.can_multiply`.

    `max_new_tokens`: of one answer. `batch_windows`: windows that one rank works on at once (0: 4 on a CPU, 16 on a
    GPU). `batch_tokens`: prompt and answer tokens of one batch. `vision_cache_mib`: memory for features of frames seen
    before. `threads`: CPU threads of one rank. `expert_placement` measured: by `expert_load`, tokens [layers, experts]
    of an earlier run, with `expert_replicas` second copies of the most loaded experts in each layer.

    `verify`: events of less confidence than this are looked at a second time (verify.py); `verify_kinds`: and those of
    these kinds; of one window, the `MOST_LOOKS` least sure. `features`: whether what the vision tower made of the
    frames is kept beside the log, for searching by picture (no part of the identity: the events are the same).
    """

    prompt: str = DEFAULT_PROMPT
    prompt_text: str = ""
    ranks: int = 1
    precision: str = "auto"
    device: str = "cpu"
    max_new_tokens: int = 1024
    batch_windows: int = 0
    batch_tokens: int = 65_536
    vision_cache_mib: int = 512
    threads: int = 1
    expert_placement: str = "contiguous"
    expert_replicas: int = 0
    expert_load: Sequence[Sequence[int]] | None = None
    verify: float = 0.0
    verify_kinds: Sequence[str] = ()
    fps: str = ""
    features: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> QwenSettings:
        """Raises UsageError for a setting that is not known or has an impossible value."""
        known_only("Qwen3-VL", settings, cls.__dataclass_fields__, ("prompt_text", "fps", "expert_load"))
        chosen = cls(**settings)
        if chosen.precision not in PRECISIONS:
            raise UsageError(f"--precision {chosen.precision}: choose one of {', '.join(PRECISIONS)}")
        if chosen.expert_placement not in PLACEMENTS:
            raise UsageError(f"--expert-placement {chosen.expert_placement}: choose one of {', '.join(PLACEMENTS)}")
        if chosen.device not in DEVICES:
            raise UsageError(f"device {chosen.device}: choose one of {', '.join(DEVICES)}")
        at_least(chosen, ranks=1, max_new_tokens=16, batch_windows=0, batch_tokens=1, vision_cache_mib=0, threads=1,
                 expert_replicas=0)  # fmt: skip
        doubt_of(chosen.verify, chosen.verify_kinds)
        if not isinstance(chosen.features, bool):
            raise UsageError(f"features = {chosen.features!r}: true or false")
        return chosen

    @property
    def doubt(self) -> Doubt | None:
        """What is looked at twice; None for nothing."""
        return doubt_of(self.verify, self.verify_kinds)

    def placement(self, layers: int, experts: int) -> Placement:
        """Which rank holds which experts. Raises ModelError for a measured load of another shape."""
        if self.expert_placement == "contiguous" or not self.expert_load:
            return Placement.contiguous(layers, experts, self.ranks)
        found = Placement.measured(self.expert_load, self.ranks, self.expert_replicas)
        if (found.layers, found.experts) != (layers, experts):
            raise ModelError(
                f"the measured load is of {found.layers} layers of {found.experts} experts, not of this model"
            )
        return found

    @property
    def windows_at_once(self) -> int:
        return self.batch_windows or (16 if self.device == "cuda" else 4)


class QwenFactory:
    """The models of one checkpoint: a local directory, an fsspec URI or a hub id. `prompt`: where none is chosen."""

    def __init__(self, path: str, prompt: str = DEFAULT_PROMPT) -> None:
        self.path = os.path.abspath(path) if os.path.exists(path) else path
        self.prompt = prompt
        self._opened: Checkpoint | None = None

    def profile(self, settings: Mapping[str, Any]) -> ModelProfile:
        """Reads configuration, tokenizer and samples of the weights; loads nothing. Raises ModelError, UsageError."""
        chosen = self._chosen(settings)
        prompt, system = prompt_of(chosen.prompt, chosen.prompt_text)
        checkpoint = self._opened = self._opened or open_checkpoint(self.path)
        files = read_text_files(checkpoint.source)
        if chosen.ranks > 1 and not files.mixture:
            raise UsageError(
                f"--ranks {chosen.ranks}: {self.path} is a dense model and has no experts to split; use --replicas"
            )
        if chosen.precision in ("int8", "int4") and not files.mixture:
            raise UsageError(
                f"--precision {chosen.precision}: {self.path} is a dense model and has no experts to quantise; "
                "choose auto, float32 or bf16"
            )
        identity = ModelIdentity(
            name=os.path.basename(self.path.rstrip("/")),
            weights_hash=checkpoint.weights_hash,
            settings={
                "behaviour": BEHAVIOUR_VERSION,
                "text_files": files.digest,
                "precision": chosen.precision,
                "decoding": "greedy",
                "max_new_tokens": chosen.max_new_tokens,
                **asked(prompt, system, chosen.doubt),
            },
        )
        return ModelProfile(
            identity,
            sampling_of(prompt, chosen.doubt, files.patches.factor),
            prompt.windowing or Windowing(),
            prompt.rules,
            batch_windows=chosen.windows_at_once * chosen.ranks,
            cpus=float(chosen.threads),
            gpus=1.0 if chosen.device == "cuda" else 0.0,
            ranks=chosen.ranks,
            notice="\n".join(filter(None, (prompt.notice, FP8_NOTICE if chosen.precision == "fp8" else ""))),
            fps_multiple=1 if chosen.doubt is None else DENSER,
        )

    def for_cluster(
        self,
        settings: Mapping[str, Any],
        resources: Mapping[str, float],
        counted: Callable[[], Mapping[str, Any] | None],
    ) -> dict[str, Any]:
        """A prompt file's content goes along; where there are GPUs and nothing else is said they are used; a measured
        expert placement goes by the routing of the last run (there is none yet: contiguous)."""
        placed = {"device": "cuda" if resources.get("GPU") else "cpu", **settings}
        if placed.get("expert_placement") == "measured" and "expert_load" not in placed:
            placed["expert_load"] = ((counted() or {}).get("routing") or {}).get("tokens")
        return carried(placed)

    def _chosen(self, settings: Mapping[str, Any]) -> QwenSettings:
        return QwenSettings.of({"prompt": self.prompt, **settings})

    def summarise(self, settings: Mapping[str, Any], counted: Mapping[str, Any]) -> dict[str, Any]:
        """Adds tokens per second of one rank, and largest over mean load of the experts and of the ranks (the mean of
        the layers; 1.0: balanced)."""
        told = dict(counted)
        for phase in ("prefill", "decode"):
            if told.get(f"{phase}_s"):
                told[f"{phase}_tokens_per_rank_s"] = told[f"{phase}_tokens"] / told[f"{phase}_s"]
        if routing := told.get("routing"):
            load = np.asarray(routing["tokens"])
            placement = QwenSettings.of(settings).placement(*load.shape)
            ranks = [
                imbalance([sum(layer[e] / np.sum([e in h for h in held]) for e in mine) for mine in held])
                for layer, held in zip(load, placement.held, strict=True)
            ]
            told["routing"] = {
                **routing,
                "expert_imbalance": float(np.mean([imbalance(layer) for layer in load])),
                "rank_imbalance": float(np.mean(ranks)),
            }
        return told

    def pictures(self) -> PictureEmbedder:
        """The vision tower alone, for searching by picture. Raises ModelError."""
        from model.qwen3_vl.pictures import PictureEmbedder

        return PictureEmbedder(self.path)

    def load(self, settings: Mapping[str, Any]) -> Model:
        """The whole model in this process."""
        return self.load_rank(settings, 0, 1, None)

    def load_rank(self, settings: Mapping[str, Any], rank: int, ranks: int, group: dist.ProcessGroup | None) -> Model:
        """One rank's share of a replica, warmed up. Collective among the ranks of `group`."""
        from model.qwen3_vl.load import load_watcher

        chosen = self._chosen(settings)
        prompt, system = prompt_of(chosen.prompt, chosen.prompt_text)
        return load_watcher(self.path, chosen, prompt, system, rank, ranks, group)
