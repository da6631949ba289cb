"""Who serves the model, and what its server can be told: asked of the server itself.

| dialect | known by | frames with their own times | answers held to the form by |
|---|---|---|---|
| vllm | `owned_by` vllm | native video from 0.21 on: JPEG frames with index and rate of each; else images | structured_outputs (guided_json before 0.11, response_format where its version is not known) |
| sglang | `owned_by` sglang | images; native video (its server samples, 2 frames a second) where the frames lie on that grid | response_format |
| llamacpp | `owned_by` llamacpp, `/props` | images (its server samples videos anew and writes a time every 5 s) | response_format (a GBNF grammar) |
| transformers | `/v1/systemone` in `/openapi.json` | images (videos only by URL or path) | nothing: what comes is checked |
| openai | none of these | images | response_format |

Images stand between the texts of their times, `<12.5 seconds>`, as Qwen3-VL writes the times of a video's frames.
Read in: vLLM 0.33 (multimodal/media/video.py, models/qwen3_vl.py; frames_indices came with its pull request 40133),
SGLang 0.5.23 (multimodal/processors/qwen_vl.py), llama.cpp (tools/server, tools/mtmd), transformers 5.23 (cli/serving).
"""  # noqa: E501

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model.served.client import ChatClient
from pipeline.errors import UsageError

DIALECTS = ("vllm", "sglang", "llamacpp", "transformers", "openai")
FIRST_CONTACT_S = 10.0  # a server that was never there is a wrong address; one that loads its model says so (503)
_FIRST_NATIVE = (0, 21)  # vLLM
_FIRST_STRUCTURED = (0, 11)
_FIRST_RELEASE = (0, 2)  # builds from source may call themselves 0.1.dev
#: Requests at once where the user says nothing. llama.cpp has so many slots as it was started with, and transformers
#: answers one request after the other: what comes on top of that waits in their queue.
IN_FLIGHT, ONE_BY_ONE, UNKNOWN_SLOTS = 16, 1, 2


@dataclass(frozen=True, slots=True)
class Served:
    """A server and the model in it. `facts` tell this model from another: they enter the configuration hash. `pinned`:
    the user's own word stands for them and for the version. `in_flight`: requests at once that suit the server."""

    dialect: str
    version: str
    facts: Mapping[str, Any]
    pinned: bool = False
    in_flight: int = IN_FLIGHT

    @property
    def native_video(self) -> bool:
        """Whether a video's frames can be sent as such, each with its own time."""
        return self.dialect == "vllm" and _release(self.version) >= _FIRST_NATIVE

    @property
    def constrains(self) -> bool:
        """Whether the server holds answers to a JSON schema."""
        return self.dialect != "transformers"

    def constraint(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a request that holds its answer to `schema`."""
        if not self.constrains:
            return {}
        if self.dialect == "vllm":
            release = _release(self.version)
            if release >= _FIRST_STRUCTURED:
                return {"structured_outputs": {"json": schema, "disable_any_whitespace": True}}
            if release >= _FIRST_RELEASE:
                return {"guided_json": schema}
        return {"response_format": {"type": "json_schema", "json_schema": {"name": "events", "schema": schema}}}

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.facts), sort_keys=True).encode()).hexdigest()

    @property
    def identity(self) -> dict[str, Any]:
        """What of it enters the configuration hash: nothing that may change between two runs of the same model."""
        version = {} if self.pinned else {"version": self.version}
        return {"dialect": self.dialect, **version, "facts": dict(self.facts)}


async def find_out(client: ChatClient, dialect: str = "auto", fingerprint: str = "") -> Served:
    """Ask the server what it is. `dialect`: where it is known already; `fingerprint`: stands for all that the server
    says of its model and its version, for servers that change without their model.

    The `system_fingerprint` of an answer is no fact: behind one address it may be another from call to call (hosted
    models, servers that share the load), and vLLM's tells how many GPUs there are.

    One token is generated. Raises ModelError where no answer comes, UsageError for a name that the server lacks.
    """
    name = client.address.name
    listed = await client.facts(f"{client.address.base}/models", FIRST_CONTACT_S)
    entries = listed.get("data") if listed is not None else None
    models = [m for m in entries if isinstance(m, dict)] if isinstance(entries, list) else []
    own = next((m for m in models if m.get("id") == name), None)
    owners = {str(m.get("owned_by", "")).lower() for m in models}
    if dialect == "auto":
        dialect = next((d for d in DIALECTS if d in owners), "") or await _unnamed(client)
    if models and own is None and dialect in ("vllm", "sglang"):
        known = ", ".join(sorted(str(m.get("id"))[:80] for m in models)[:8])
        raise UsageError(f"{client.address.base} serves no model {name!r}: it has {known}")
    if own is None and dialect == "llamacpp" and len(models) == 1:
        own = models[0]  # it has one model and answers to any name
    version, facts, in_flight = await _details(client, dialect, own or {})
    await greet(client)
    facts = {"name": name, **({"given": fingerprint} if fingerprint else facts)}
    return Served(dialect, version, facts, bool(fingerprint), in_flight)


async def greet(client: ChatClient) -> None:
    """Have one token generated: a server may list its models to anybody and refuse to run them."""
    hello = [{"role": "user", "content": "Hello"}]
    await client.complete({"model": client.address.name, "messages": hello, "max_tokens": 1, "temperature": 0})


async def _unnamed(client: ChatClient) -> str:
    """The dialect of a server whose list of models does not tell."""
    if "chat_template" in (await client.aside(f"{client.address.root}/props") or {}):
        return "llamacpp"
    paths = (await client.aside(f"{client.address.root}/openapi.json") or {}).get("paths")
    if isinstance(paths, dict) and "/v1/systemone" in paths:
        return "transformers"
    return "openai"


async def _details(client: ChatClient, dialect: str, own: Mapping[str, Any]) -> tuple[str, dict[str, Any], int]:
    """Version of the server; what tells its model from others: no time of creation, no length of context, nothing that
    changes when the same server starts again or with more room; and how many requests at once suit it."""
    facts: dict[str, Any] = {k: own[k] for k in ("root", "parent") if k in own}
    if isinstance(meta := own.get("meta"), dict):
        facts["meta"] = {k: v for k, v in meta.items() if k != "n_ctx"}
    version, in_flight = "", IN_FLIGHT
    if dialect == "vllm":
        version = str((await client.aside(f"{client.address.root}/version") or {}).get("version", ""))
    elif dialect == "sglang":
        info = await client.aside(f"{client.address.root}/model_info")
        info = info or await client.aside(f"{client.address.root}/get_model_info") or {}
        facts |= {k: info[k] for k in ("model_path", "weight_version", "model_type", "load_format") if k in info}
        server = await client.aside(f"{client.address.root}/server_info")
        server = server or await client.aside(f"{client.address.root}/get_server_info") or {}
        version = str(server.get("version", ""))
        facts |= {k: server[k] for k in ("quantization", "dtype", "kv_cache_dtype") if k in server}
    elif dialect == "llamacpp":
        props = await client.aside(f"{client.address.root}/props") or {}
        version = str(props.get("build_info", ""))
        template = hashlib.sha256(str(props.get("chat_template", "")).encode()).hexdigest()
        path = str(props.get("model_path", ""))
        facts |= {"file": path.rpartition("/")[2], "type": props.get("model_ftype"), "template": template}
        slots = props.get("total_slots")
        in_flight = min(slots, IN_FLIGHT) if type(slots) is int and slots > 0 else UNKNOWN_SLOTS
    elif dialect == "transformers":
        in_flight = ONE_BY_ONE
    facts["version"] = version[:80]
    return version[:80], facts, in_flight


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
