"""The page for people: one self-contained HTML file made of records. :func:`kit.report.page.write_page` writes it.

Nothing is imported here, so that :mod:`kit.report.format` (numbers as words, standard library only) serves a board as
well; only ``plots`` and ``page`` need plotly.
"""
