"""Measuring: what a person names becomes jobs, jobs become interleaved runs in fresh processes, runs become labelled records.

``targets`` resolves names, ``profiler`` runs jobs, ``forkserver`` and ``worker`` are the two ends of a child process, ``stopwatch`` times
calls, ``drift`` corrects for a machine that changes, ``quality`` labels and warns, ``scenario`` loads networks as MLPerf does, ``session``
records a machine's state on a day, ``compare`` compares two measurements.
"""
