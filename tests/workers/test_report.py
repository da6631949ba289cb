"""Reports of replicas add up, whatever each of them has counted."""

from workers.report import add_up


def test_reports_add_up() -> None:
    one = {"tokens": 3, "routing": {"tokens": [[1, 2], [3, 4]], "seconds": {"compute": 0.5}}}
    other = {"tokens": 4, "routing": {"tokens": [[10, 20], [30, 40]], "seconds": {"compute": 0.25, "dispatch": 1.0}}}
    total = {
        "tokens": 7,
        "routing": {"tokens": [[11, 22], [33, 44]], "seconds": {"compute": 0.75, "dispatch": 1.0}},
    }
    assert add_up(one, other) == add_up(other, one) == total
    assert add_up({}, one) == add_up(one, {}) == one
    assert add_up({"a": [1]}, {"a": [1, 2], "b": 1}) == {"a": [2, 2], "b": 1}
