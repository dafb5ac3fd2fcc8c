"""What docs/papers/downloading.md says of paper D."""

from __future__ import annotations

from collections.abc import Iterator

from quoted import Run, run, table

PAGE = "docs/papers/downloading.md"
SETTINGS = (
    "in 6G Mobile Networks",
    "BER of 1e-3 suffices",
    "20 % of VGG-16 in 1 s",
    "(printed: 0.86)",
    "ViT-L in 1 s, all and 20 %",
    "(printed: up to 10, and 1.96)",
    'ResNet-50 "compressed to about 30 %"',
    "at the 6G user experienced rate",
    "ResNet-50 in 1 s at any size at the 6G user experienced rate",
    "a peak of 1 Tbit/s",
    "a peak near 1 Tbit/s",
    "5G's user experienced rate fails",
    "exponent bit 30",
    "by 2 to the power of 128",
    "9 of 32 bits",
    "of bf16 9 of 16",
    "8 or 4 bits",
    "4-bit form",
    "3GPP, too, asks",
    "TS 22.261 (20.1.0), clause 7.10.1",
    "99.9 % for the weights and of 99.999 % for the topology",
    "32 bits a parameter",
    "1 s, 200 ms and 1 ms",
    "23, 135 and 307 million",
    "Links: 5G's",
    "100 Mbit/s and 20 Gbit/s",
    "M.2410",
    "For 6G",
    "1 Gbit/s, the user experienced rate of 6G",
    'Experience for All" (2020)',
    "3GPP's own case",
    "(TS 22.261, table 7.10.1-2)",
    "138 MB within 1 s, 1.1 Gbit/s",
    "80 MB within 1 s, 640 Mbit/s",
    'ResNet-18 "with 11.69 million parameters" on CIFAR-100',
    "1,000 classes; with 100 classes it has 11.23 million",
    "ResNet-18 on 32-pixel",
    "4-bit root over layers",
)
NAMES = {
    "fp32": "fp32, raw",
    "fp32-clipped": "fp32, clipped on arrival",
    "fp32-protected": "fp32, sign and exponent protected",
    "bf16": "bf16, raw",
    "bf16-clipped": "bf16, clipped on arrival",
    "bf16-protected": "bf16, sign and exponent protected",
    "int8": "int8",
    "int4": "int4",
}
CLAIM, LOWER = "0.001", "1e-05"


def claims() -> Iterator[str]:
    yield from _rates(run("downloading"))
    yield from _bad_link(run("downloading-bad-link"))


# ------------------------------------------------------------------------------------------------------------------- Fig. 4


def _rates(a: Run) -> Iterator[str]:
    def gbit(line: str, x: float, application: str = "image-recognition") -> str:
        return f"{a.at(f'fig4-{application}', line, x) / 1e9:.3f}"

    yield f"yes: {gbit('VGG-16', 20.0)} Gbit/s"
    yield f"yes: {gbit('ViT-L', 100.0)} and {gbit('ViT-L', 20.0)} Gbit/s"
    yield f"at most {100 * a.at('shares', 'ResNet-50, 0.2 s', '6G experienced'):.1f} % of it in 200 ms"
    yield f"whole ResNet-50 needs {gbit('ResNet-50', 100.0)} Gbit/s"
    yield f"whole ResNet-50 within 1 ms needs {a.at('fig4-tactile', 'ResNet-50', 100.0) / 1e9:.0f} Gbit/s"
    small = 100 * a.at("shares", "VGG-16, 0.001 s", "6G peak"), 100 * a.at("shares", "ViT-L, 0.001 s", "6G peak")
    yield f"of VGG-16 it brings {small[0]:.1f} % and of ViT-L {small[1]:.1f} %"
    at_5g = [100 * a.at("shares", f"{name}, 1 s", "5G experienced") for name in ("ResNet-50", "VGG-16", "ViT-L")]
    yield f"brings {at_5g[0]:.1f}, {at_5g[1]:.1f} and {at_5g[2]:.1f} % within 1 s"
    rows = []
    for name in ("ResNet-50", "VGG-16", "ViT-L"):
        for source in ("paper", "torchvision"):
            values = (a.at("counts", f"{name}, {source}", x) for x in ("all, 1 s", "20 %, 1 s", "all, 0.2 s"))
            rows.append((f"{name}, {source}", *(f"{v / 1e9:.3f}" for v in values)))
    yield table(("Gbit/s", "all, 1 s", "20 %, 1 s", "all, 200 ms"), *rows)
    first, second = a.values("3gpp", "by the model's bytes")
    yield f"{first / 1e9:.3f} and {second / 1e9:.3f} Gbit/s by the bytes"


# ------------------------------------------------------------------------------------------------------------------- Fig. 3


def _bad_link(a: Run) -> Iterator[str]:
    record = a.record
    yield f"{record.parameters['draws']} downloads at each BER, {record.parameters['images']} held-out images"
    yield f"on `{record.device_id}`, {record.ended_utc[:10]}"
    payloads = [line.name for line in a.figure("root").lines]
    yield _root_table(a, payloads)
    median = [NAMES[p] for p in payloads if a.at("root-median", p, CLAIM) >= 0.99]
    always = [NAMES[p] for p in payloads if a.low("root", p, CLAIM) >= 0.99]
    yield f"**In the median 99 % of the accuracy is kept at a BER of 1e-3 by: {'; '.join(median) or 'none'}.**"
    yield f"Even the worst draw keeps it with: {'; '.join(always) or 'none'}."
    yield f"Raw fp32 keeps {_kept(a, 'fp32', LOWER)} at a BER of 1e-5 already"
    for part in ("a", "b"):
        yield _by_size(a, f"fig3{part}")
    yield _bits(a)


def _kept(a: Run, payload: str, ber: str) -> str:
    return f"{a.at('root', payload, ber):.3f} / {a.at('root-median', payload, ber):.3f} / {a.low('root', payload, ber):.3f}"


def _root_table(a: Run, payloads: list[str]) -> str:
    rows = []
    for p in payloads:
        size, reliable = (100 * a.at("sent", p, x) for x in ("size", "reliable"))
        rows.append((NAMES[p], f"{size:.1f} %", f"{reliable:.1f} %", _kept(a, p, LOWER), _kept(a, p, CLAIM)))
    return table(("representation", "size", "reliable", "BER 1e-5", "BER 1e-3"), *rows)


def _by_size(a: Run, figure: str) -> str:
    columns = (
        ("fp32", "BER 0"),
        ("fp32", "BER 1e-05"),
        ("fp32-clipped", "BER 0.001"),
        ("fp32-protected", "BER 0.001"),
        ("int8", "BER 0.001"),
    )
    sizes = list(a.figure(f"{figure}-fp32").x)
    rows = []
    for i, size in enumerate(sizes):
        values = []
        for payload, line in columns:
            name = f"{figure}-{payload}"
            place = a.figure(name).x[i]  # an int8 form has a size of its own
            values.append(
                f"{100 * a.at(name, line, place):.1f}"
                + (f" ({100 * a.low(name, line, place):.1f})" if line != "BER 0" else "")
            )
        rows.append((f"{float(size):.1f} %", *values))
    head = ("size, fp32", "no errors", "raw, 1e-5", "clipped, 1e-3", "protected, 1e-3", "int8, 1e-3")
    return table(head, *rows)


def _bits(a: Run) -> str:
    sizes = list(a.figure("fig3c").x)
    rows = [
        (
            f"{float(size):.1f} %",
            f"{100 * a.at('fig3c', 'BER 0', size):.1f}",
            f"{100 * a.at('fig3c', 'BER 0.001', size):.1f} ({100 * a.low('fig3c', 'BER 0.001', size):.1f})",
        )
        for size in sizes
    ]
    return table(("size of the 4-bit root", "no errors", "1e-3"), *rows)
