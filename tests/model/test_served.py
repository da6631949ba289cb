"""Served models: what each kind of server is told, that frames keep their times, and answers through the interface."""

from __future__ import annotations

import base64
import io
import json
import pickle
from typing import Any

import av
import cv2
import numpy as np
import pytest

from model.qwen3_vl.asking import bare
from model.registry import find_model
from model.served import MOST_S, PATIENCE_S, client
from model.served.dialect import Served
from model.served.pictures import as_images, as_mp4, as_vllm_video, encoded, on_grid
from pipeline.config import RunConfig
from pipeline.errors import ModelError, UsageError
from pipeline.frames import Frames
from pipeline.plan import Sampling, Window, Windowing
from tests.model import served_fake
from tests.model.served_fake import a_window, pixels
from workers.settings import Limits

S = 1_000_000


VLLM = {"/version": {"version": "0.33.0"}}
SGLANG = {
    "/v1/models": {"data": [{"id": "tiny", "owned_by": "sglang"}]},
    "/model_info": {"model_path": "org/tiny", "weight_version": "default"},
    "/server_info": {"version": "0.5.23", "quantization": "fp8", "internal_states": [1]},
}
LLAMA = {
    "/v1/models": {"data": [{"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_params": 5, "size": 9, "n_ctx": 8}}]},
    "/props": {"chat_template": "x", "build_info": "b9-1", "model_path": "/m/m.gguf"},
}
TRANSFORMERS = {"/v1/models": {"data": []}, "/openapi.json": {"paths": {"/v1/systemone": {}}}}


def profile(fake: Any, prompt: str, name: str = "tiny", **more: Any) -> Any:
    return find_model(f"openai:{fake.url}#{name}").profile({"prompt": prompt, **more})


@pytest.mark.parametrize(
    ("facts", "dialect", "version", "shown"),
    [
        (VLLM, "vllm", "0.33.0", "video"),
        ({"/version": {"version": "0.10.2"}}, "vllm", "0.10.2", "images"),
        (SGLANG, "sglang", "0.5.23", "images"),
        (LLAMA, "llamacpp", "b9-1", "images"),
        (TRANSFORMERS, "transformers", "", "images"),
        ({"/version": None}, "vllm", "", "images"),
        ({"/v1/models": {"data": [{"id": "tiny", "owned_by": "somebody"}]}}, "openai", "", "images"),
        ({"/v1/models": None}, "openai", "", "images"),
    ],
)
def test_a_server_is_known_by_what_it_says(
    fake: Any, prompt: str, facts: Any, dialect: str, version: str, shown: str
) -> None:
    fake.facts |= facts
    identity = profile(fake, prompt).identity
    server = identity.settings["server"]
    assert (server["dialect"], server["version"], identity.settings["frames"]) == (dialect, version, shown)
    assert fake.url not in json.dumps(identity.settings)
    assert server["facts"].get("meta") == ({"n_params": 5, "size": 9} if dialect == "llamacpp" else None)
    json.dumps(identity.settings)  # it is kept in the log


def test_the_identity_is_that_of_the_model_behind_the_address(fake: Any, prompt: str) -> None:
    fake.facts |= SGLANG
    first = profile(fake, prompt).identity
    with served_fake.running() as elsewhere:  # the same model at another address
        elsewhere.facts |= SGLANG
        assert profile(elsewhere, prompt).identity == first
        elsewhere.facts |= {"/model_info": {"model_path": "org/tiny", "weight_version": "2"}}
        assert profile(elsewhere, prompt).identity.weights_hash != first.weights_hash
    for more in ({"max_tokens": 99}, {"pictures": "png"}, {"body": {"top_k": 1}}, {"verify": 0.5}, {"frames": "video"}):
        assert profile(fake, prompt, **more).identity.settings != first.settings
    assert profile(fake, prompt, in_flight=3, total_s=5.0).identity == first  # how it is asked, not what
    fake.plan = [[chunk.replace(b"fake-1", b"fake-2") for chunk in served_fake.chunks()]]
    assert profile(fake, prompt).identity == first, "hosted models have another mark from call to call"


def config_hash(identity: Any) -> str:
    return RunConfig(Sampling(), Windowing(), identity.name, identity.weights_hash, identity.settings).config_hash


def test_with_a_fingerprint_a_new_version_of_the_server_changes_nothing(fake: Any, prompt: str) -> None:
    """And without one it does. The replicas are told the same."""
    seen: dict[tuple[str, str], str] = {}
    for version in ("0.33.0", "0.34.0"):
        fake.facts |= {"/version": {"version": version}}
        for fingerprint in ("", "mine", "other"):
            factory: Any = find_model(f"openai:{fake.url}#tiny")
            chosen = {"prompt": prompt, "fingerprint": fingerprint}
            own = factory.profile(chosen)
            assert factory.profile(factory.for_cluster(chosen, {}, lambda: None)) == own
            seen[version, fingerprint] = config_hash(own.identity)
    assert len(set(seen.values())) == 4
    assert seen["0.33.0", "mine"] == seen["0.34.0", "mine"] and seen["0.33.0", "other"] == seen["0.34.0", "other"]


def test_a_server_that_answers_one_by_one_is_not_sent_sixteen_requests(fake: Any, prompt: str) -> None:
    def batch(**more: Any) -> int:
        return int(profile(fake, prompt, **more).batch_windows)

    assert batch() == 32
    for facts, most in ((TRANSFORMERS, 1), (LLAMA, 2), (LLAMA | {"/props": {**LLAMA["/props"], "total_slots": 3}}, 3)):
        fake.facts |= facts
        assert batch() == most and batch(in_flight=20) == 40
    before = profile(fake, prompt).identity
    fake.facts |= LLAMA | {"/props": {**LLAMA["/props"], "total_slots": 100}}
    assert batch() == 32 and profile(fake, prompt).identity == before
    fake.work_s, windows = 0.05, [a_window([0], i) for i in range(4)]
    fake.facts |= LLAMA
    model = find_model(f"openai:{fake.url}#tiny").load({"prompt": prompt})
    model.watch(windows)
    assert fake.most_at_once == 2
    model.close()


@pytest.mark.parametrize("status", [401, 403, 404, 502, 503])
def test_a_gateway_hides_the_pages_beside_the_api(
    fake: Any, prompt: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ASIDE_S", 0.1)
    fake.refused = {"/version": status, "/props": status, "/openapi.json": status}
    server = profile(fake, prompt).identity.settings["server"]
    assert (server["dialect"], server["version"]) == ("vllm", "")
    fake.facts = {"/v1/models": {"data": []}}
    assert profile(fake, prompt).identity.settings["server"]["dialect"] == "openai"
    fake.refused = {"/v1/models": 403}
    with pytest.raises(ModelError, match="wants a token"):
        profile(fake, prompt)


def test_a_token_that_runs_out_is_no_fault_of_the_windows(fake: Any, prompt: str) -> None:
    """The replica ends (any error but ModelError), and the next one says why it cannot be loaded."""
    factory = find_model(f"openai:{fake.url}#tiny")
    model = factory.load({"prompt": prompt, "in_flight": 1})
    done = len(fake.came)
    for status in (401, 403, 404, 302):
        fake.plan = [(status, {}, '{"error": "expired"}')]
        with pytest.raises(RuntimeError, match=f"status {status}: expired"):
            model.watch([a_window([0])])
        with pytest.raises(ModelError, match=f"status {status}: expired"):
            factory.load({"prompt": prompt})  # although /models is there for anybody
    assert len(fake.came) == done + 8
    fake.plan = [(500, {}, "")]
    with pytest.raises(RuntimeError, match="status 500"):  # may heal: another replica is tried
        factory.load({"prompt": prompt})
    model.close()


def test_each_dialect_is_told_the_schema_its_own_way() -> None:
    schema = {"type": "object"}
    told = {
        d: Served(d, v, {}).constraint(schema) for d, v in (("vllm", "0.33.0"), ("sglang", "0.5"), ("transformers", ""))
    }
    assert told["vllm"]["structured_outputs"]["json"] == schema
    assert Served("vllm", "0.10.1", {}).constraint(schema) == {"guided_json": schema}
    for unknown in ("", "dev", "0.1.dev1+g0123abc"):  # both the old and the new understand this
        assert set(Served("vllm", unknown, {}).constraint(schema)) == {"response_format"}
    assert told["sglang"]["response_format"]["json_schema"]["schema"] == schema
    assert told["transformers"] == {}  # it refuses the field


def test_images_stand_behind_their_times_and_png_keeps_every_pixel() -> None:
    frames, times = pixels(3), [0, 520_000, 12_345_678]
    parts = as_images(frames, times, "png", 1)
    assert [p["text"] for p in parts[::2]] == ["<0.0 seconds>", "<0.5 seconds>", "<12.3 seconds>"]
    assert [p["text"] for p in as_images(frames, times, "png", 3)[::2]][-1] == "<12.346 seconds>"
    for frame, part in zip(frames, parts[1::2], strict=True):
        head, _, data = part["image_url"]["url"].partition(",")
        assert head == "data:image/png;base64"
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(shown, frame)
    near = cv2.imdecode(np.frombuffer(encoded(frames[0], "jpeg"), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(near.astype(int) - frames[0]).mean() < 3


def test_vllm_computes_the_frames_own_times_from_what_it_is_told() -> None:
    """Index over rate, as its Qwen3-VL does (_calculate_timestamps), whatever the distances between the frames."""
    times = [0, 41_708, 500_000, 7_999_600]
    (part,), more = as_vllm_video(pixels(4), times, "jpeg")
    told = more["media_io_kwargs"]["video"]
    assert part["video_url"]["url"].removeprefix("data:video/jpeg;base64,").count(",") == 3
    seconds = [i / told["fps"] for i in told["frames_indices"]]
    assert np.abs(np.array(seconds) - np.array(times) / S).max() <= 0.0005
    assert told["total_num_frames"] >= max(4, told["frames_indices"][-1] + 1) and told["num_frames"] == -1
    assert told["do_sample_frames"] is False and more["mm_processor_kwargs"] == {"do_sample_frames": False}


def test_a_video_file_is_sent_only_where_the_servers_own_grid_is_the_frames() -> None:
    assert on_grid([0, 500_000, 1_000_000, 1_480_000])
    assert not on_grid([0, 500_000, 1_000_000]) and not on_grid([0, 500_000, 1_000_000, 1_400_000])
    (part,) = as_mp4(frames := pixels(6))
    data = base64.b64decode(part["video_url"]["url"].partition(",")[2])
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 2
        seen = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)]
    assert [time for time, _ in seen] == [0, 0.5, 1, 1.5, 2, 2.5]
    for (_, shown), frame in zip(seen, frames, strict=True):
        assert np.abs(shown.astype(int) - frame).mean() < 12


def test_windows_become_events(fake: Any, prompt: str) -> None:
    fake.facts |= VLLM
    factory = find_model(f"openai:{fake.url}#tiny")
    model = factory.load({"prompt": prompt, "in_flight": 3, "max_tokens": 50})
    windows = [a_window([0, 500_000, 1_000_000, 1_500_000], i, i * 8 * S) for i in range(7)]
    windows.append(
        (Window("v", 7, 56 * S, 64 * S), Frames(pixels(1)[:0], np.array([], np.int64), np.array([], np.int64)))
    )
    found = model.watch(windows)
    assert [answer.window for answer in found] == [window for window, _ in windows]
    assert [len(answer.events) for answer in found] == [1] * 7 + [0]
    (event,) = found[2].events
    assert (event.start_us, event.end_us, event.kind, event.text, event.confidence) == (
        500_000,
        1_500_000,
        "a",
        "x",
        0.9,
    )
    assert (found[0].input_tokens, found[0].output_tokens, found[0].truncated) == (11, 5, False)
    asked = fake.came[-1]
    assert (
        asked["max_tokens"] == 50 and asked["temperature"] == 0 and asked["messages"][0]["content"].startswith("Look.")
    )
    assert [part["type"] for part in asked["messages"][1]["content"]] == ["video_url", "text"]
    assert "multipleOf" not in json.dumps(asked["structured_outputs"])
    counted = model.report()
    assert (counted["prefill_tokens"], counted["shown_as"]["frames"]) == (77, 7)
    model.close()


@pytest.mark.parametrize(
    "said", ["", "nonsense", "[" * 5000, '{"events":[{"start":1e999}]}', '{"events":[{"start":0,"en']
)
def test_an_answer_is_hostile_until_it_is_checked(fake: Any, prompt: str, said: str) -> None:
    model = find_model(f"openai:{fake.url}#tiny").load({"prompt": prompt, "dialect": "openai"})
    fake.plan = [served_fake.chunks(said)]
    (answer,) = model.watch([a_window([0])])
    assert answer.events == () and answer.truncated == ("1e999" not in said)  # that one is whole JSON
    fake.plan = [served_fake.chunks(f"<think>hm</think>\n```json\n{served_fake.ANSWER}\n```")]
    (answer,) = model.watch([a_window([0])])
    assert len(answer.events) == 1 and not answer.truncated
    fake.plan = [served_fake.chunks(finish="length")]
    assert model.watch([a_window([0])])[0].truncated
    model.close()
    assert bare("{}") == "{}"


def test_what_goes_to_the_replicas(fake: Any, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They ask nothing again, and the token is with them but in nothing that is printed or kept."""
    fake.facts |= VLLM
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    factory: Any = find_model(f"openai:{fake.url}#tiny")
    chosen = {"prompt": prompt, "token_variable": "MY_TOKEN"}
    own = factory.profile(chosen)
    placed = pickle.loads(pickle.dumps(factory.for_cluster(chosen, {}, lambda: None)))
    monkeypatch.delenv("MY_TOKEN")
    asked = len(fake.came)
    there: Any = find_model(f"openai:{fake.url}#tiny")
    assert there.profile(placed) == own and len(fake.came) == asked
    assert "s3cret" not in repr(placed) and "s3cret" not in json.dumps(own.identity.settings)
    model = there.load(placed)
    model.watch([a_window([0])])
    assert set(fake.tokens) == {"Bearer s3cret"}
    model.close()


@pytest.mark.parametrize(
    "wrong",
    [{"frames": "mp4"}, {"dialect": "x"}, {"in_flight": 0}, {"total_s": 0}, {"total_s": True}, {"body": {"model": "x"}},
     {"outage_s": 86401}, {"first_s": 3601}, {"token": "x"}, {"ranks": 2}, {"verify": 2}, {"pictures": "gif"},
     {"body": 3}],
)  # fmt: skip
def test_impossible_settings_are_refused(fake: Any, prompt: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        profile(fake, prompt, **wrong)
    assert not fake.came


def test_a_wait_ends_before_the_run_ends_the_replica() -> None:
    """So that what it waited for is in the error."""
    assert Limits().quiet_s > PATIENCE_S and Limits().answer_s >= MOST_S


def test_video_is_refused_where_times_would_be_lost(fake: Any, prompt: str) -> None:
    fake.facts |= LLAMA
    with pytest.raises(UsageError, match="own times"):
        profile(fake, prompt, frames="video")
    fake.facts = {"/v1/models": {"data": [{"id": "other", "owned_by": "vllm"}]}}
    with pytest.raises(UsageError, match="it has other"):
        profile(fake, prompt)
    fake.plan = [(401, {}, '{"error": "no key"}')]
    with pytest.raises(ModelError, match="401: no key"):
        profile(fake, prompt, dialect="openai")
