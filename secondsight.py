"""Secondsight in three lines of Python:

>>> import secondsight
>>> secondsight.run(["clips/"], log="LOG")            # doctest: +SKIP
>>> secondsight.open("LOG").at("match.mp4", 45.0)     # doctest: +SKIP
"""
