"""Videos that could not be watched, and are not there any more: SQL over the tables of a log."""

#: A common table expression: ids of videos that were not done, and whose every name has shown another content since (a
#: file that was still being copied, or could not be opened): there is nothing to be watched any more.
REPLACED = """replaced as (
        select video_id from (
            select f.video_id, f.uri, coalesce(bool_or(v.finished_at_us > f.failed_at_us), false) as gone
            from (
                select video_id, uri, max(at_us) as failed_at_us from (
                    select video_id, unnest(uris) as uri, finished_at_us as at_us from videos where status <> 'done'
                    union all
                    select video_id, uri, 0 from names semi join (from videos where status <> 'done') using (video_id))
                group by all) f
            left join (select video_id, unnest(uris) as uri, finished_at_us from videos) v
                on v.uri = f.uri and v.video_id <> f.video_id
            group by all)
        group by video_id having bool_and(gone))"""
