"""The page for people: one self-contained HTML file made of records. :func:`kit.report.page.write_page` writes it.

Nothing is imported here; only ``plots`` and ``page`` need plotly.
"""
