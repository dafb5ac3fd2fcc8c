"""Paper D, Fig. 4: the data rates that downloads need, as the committed record and its plots.

    python bench/data_rates.py [--variants FOLDER] [--out docs/papers/results/downloading.json]

``--variants`` adds the variants of a build folder or a library, by the bytes of their files. Takes a second.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from kit import store  # noqa: E402
from kit.papers import downloading  # noqa: E402
from kit.report.svg import write_charts  # noqa: E402

OUT = ROOT / "docs" / "papers" / "results" / "downloading.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=Path, help="a build folder or a library")
    parser.add_argument("--out", type=Path, default=OUT, help="the record; the plots lie beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        simulation = downloading.simulate(variants=options.variants, out=Path(folder))
    store.write_record(options.out, simulation)
    write_charts(simulation, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
