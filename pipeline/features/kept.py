"""Features beside the log: `_features/NAME.parquet`, one file for each commit that brought any.

One row per moment: video_id, run_id, start_us, end_us (of the video) and the vector, little-endian float16, as bytes;
`made_by` in the file's metadata says what made them. Written before the commit of the videos they belong to: rows of a
video and run that the log does not hold mean nothing, and of rows that are there twice any will do. Readers of Delta
tables pass over names that begin with "_".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import LogError
from pipeline.features.vectors import MOST_DIMENSIONS, FrameFeatures
from pipeline.log.store import Store

if TYPE_CHECKING:
    from pipeline.log.records import VideoResult

logger = logging.getLogger(__name__)

FOLDER = "_features"
FORMAT = "secondsight.features"
MADE_BY = "secondsight.made_by"
ROWS = 8192  # that are gathered before they are packed


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """What one file holds. `owners` (video_id, run_id); `owner` int32 [N]: whose each row is; `start_us`, `end_us`
    int64 [N]; `vectors` float16 [N, D]."""

    made_by: str
    owners: list[tuple[str, str]]
    owner: npt.NDArray[np.int32]
    start_us: npt.NDArray[np.int64]
    end_us: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float16]


def write_features(store: Store, stem: str, results: Sequence[VideoResult]) -> dict[str, int]:
    """Write what features the windows of `results` have; returns path -> bytes. Raises OSError, as the store does."""
    files: dict[tuple[str, int], _Writing] = {}
    for result in results:
        for record in result.windows:
            found = record.features
            if found is None or (vectors := _checked(found)) is None:
                continue
            window = record.window
            starts = [window.start_us + at for at in found.at_us]
            ends = [*starts[1:], max(window.end_us, starts[-1] + 1)]
            whose = found.made_by, vectors.shape[1]
            if whose not in files:
                files[whose] = _Writing(_schema(vectors.shape[1], found.made_by))
            files[whose].add(result, starts, ends, [vector.astype("<f2").tobytes() for vector in vectors])
    written = {}
    for number, file in enumerate(files.values()):
        path = f"{FOLDER}/{stem}{f'-{number}' if number else ''}.parquet"
        data = file.close()
        store.put(path, data)
        written[path] = len(data)
    return written


class _Writing:
    """A file in memory, and the rows that are not in it yet."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: dict[str, list[object]] = {name: [] for name in schema.names}
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="zstd", use_dictionary=["video_id", "run_id"], write_statistics=False
        )

    def add(self, result: VideoResult, starts: Sequence[int], ends: Sequence[int], vectors: Sequence[bytes]) -> None:
        count, rows = len(starts), self._rows
        columns = ([result.video_id] * count, [result.run_id] * count, starts, ends, vectors)
        for name, values in zip(self._schema.names, columns, strict=True):
            rows[name] += values
        if len(rows["vector"]) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._rows, self._schema))
        self._rows = {name: [] for name in self._schema.names}

    def close(self) -> bytes:
        if self._rows["vector"]:
            self._flush()
        self._writer.close()
        written: bytes = self._sink.getvalue().to_pybytes()
        return written


def _checked(found: FrameFeatures) -> npt.NDArray[np.float16] | None:
    """Its vectors; None where a model gave none that can be kept."""
    try:
        return found.vectors
    except ValueError as error:
        logger.warning("features are left out: %s", error)
        return None


def _schema(dimensions: int, made_by: str) -> pa.Schema:
    columns = {"video_id": pa.string(), "run_id": pa.string(), "start_us": pa.int64(), "end_us": pa.int64()}
    return pa.schema({**columns, "vector": pa.binary(2 * dimensions)}, {FORMAT: "1", MADE_BY: made_by or "nobody"})


def feature_files(store: Store) -> Iterator[str]:
    """The paths of all files with features."""
    for path, _, _ in store.list(FOLDER):
        if path.endswith(".parquet"):
            yield path


def unused_files(store: Store, videos: Callable[[], pa.Table], before: float) -> list[str]:
    """The files last changed before `before` (Unix time) with no row of one of `videos()` (video_id, run_id): of runs
    that wrote them and never committed, and of videos that are out of the log. What cannot be read is left."""
    paths, pairs, numbers = list[str](), list[pa.Array](), list[pa.Array]()
    for path, _, changed in store.list(FOLDER):
        if not path.endswith(".parquet") or changed >= before:
            continue
        try:
            table = pq.read_table(pa.BufferReader(store.read(path)), columns=["video_id", "run_id"], use_threads=False)
            pair = _pairs(table)
        except (FileNotFoundError, pa.ArrowException, KeyError):
            continue
        pairs.append(pair)
        numbers.append(pa.repeat(len(paths), len(pair)))
        paths.append(path)
    if not paths:
        return []
    here = pc.is_in(pa.concat_arrays(pairs), _pairs(videos()))
    used = set(pc.unique(pc.filter(pa.concat_arrays(numbers), here)).to_pylist())
    return [path for number, path in enumerate(paths) if number not in used]


def _pairs(table: pa.Table) -> pa.Array:
    """The different (video_id, run_id) of a table, each as one text."""
    columns = (table[name].combine_chunks().cast(pa.string()) for name in ("video_id", "run_id"))
    return pc.unique(pc.binary_join_element_wise(*columns, " "))


def read_features(store: Store, path: str) -> FeatureFile | None:
    """What a file holds; None for one that is not of this format, or damaged: features are not worth an error."""
    try:
        table = pq.read_table(pa.BufferReader(store.read(path)), use_threads=False)
        metadata = table.schema.metadata or {}
        width = table.schema.field("vector").type.byte_width
        if metadata.get(FORMAT.encode()) != b"1" or width % 2 or not 0 < width <= 2 * MOST_DIMENSIONS:
            return None
        table = table.combine_chunks()
        if any(table[name].null_count for name in table.column_names):
            return None
        pairs = list(zip(table["video_id"].to_pylist(), table["run_id"].to_pylist(), strict=True))
        owners = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
        joined = b"".join(table["vector"].to_pylist())
        vectors = np.frombuffer(joined, "<f2").reshape(len(pairs), width // 2)
        if not np.isfinite(vectors).all():
            return None
        return FeatureFile(
            metadata.get(MADE_BY.encode(), b"").decode(),
            list(owners),
            np.array([owners[pair] for pair in pairs], np.int32),
            table["start_us"].to_numpy().astype(np.int64),
            table["end_us"].to_numpy().astype(np.int64),
            vectors,
        )
    except FileNotFoundError:
        return None
    except (pa.ArrowException, KeyError, ValueError, AttributeError, TypeError):
        return None
    except OSError as error:
        raise LogError(f"{store.uri}/{path}: cannot be read: {error.strerror or error}") from error
