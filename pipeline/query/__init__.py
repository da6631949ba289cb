"""Questions to an event log: what happened at, between, before, after or while; first, last, gaps, density, kinds.

    query = Query("LOG")
    query.at("clip.mp4", 45_000_000)                  # what goes on in the second that begins at 45 s
    query.before("clip.mp4", 45_000_000, count=3)
    query.after("clip.mp4", query.anchor("clip.mp4", "goal"))
    query.first(None, kinds=["goal"])                 # of every video of the log

All times are integer microseconds on the video's own timeline; spans are half-open. An event without length counts as
lying at its start. Answers are pyarrow tables with the columns of `events` (pipeline/log/schema.py), in order of start.
"""

from pipeline.query.answers import as_rows, as_table
from pipeline.query.names import Match
from pipeline.query.question import Query
from pipeline.query.reading import Anchor

__all__ = ["Anchor", "Match", "Query", "as_rows", "as_table"]
