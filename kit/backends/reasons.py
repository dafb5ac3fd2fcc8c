"""What a runtime says of its failure, as one sentence for people: which operator and why, without paths and C++ signatures."""

from __future__ import annotations

import re

CAUSE_MAX = 240  # characters of a runtime's reason
_OPERATOR = re.compile(r"while running (\S+) node\. Name:'([^']*)'")
_CODE = re.compile(r"^(?:\w+: )?\[ONNXRuntimeError\] : \d+ : \w+ : ")
#: A place in the source, and the signature of the function there, which ends with its parameters.
_SOURCE = re.compile(
    r"\S+\.(?:h|cc|cpp|hpp|cu):\d+ (?:[^()]*::[^()]*\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)? ?|\S+(?=[\s(]))"
)
_TEMPLATE = re.compile(r"\[with [^\]]*\] ?")


def cause(text: str) -> str:
    """A runtime's message as one sentence.

    >>> cause("Fail: [ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Concat node. Name:'c' Status Message: "
    ...       "concat.h:9 Prepare Axis 2 has mismatched dimensions of 1 and 4")
    "The runtime failed in Concat 'c': Axis 2 has mismatched dimensions of 1 and 4."
    """
    message = " ".join(text.split())
    operators = _OPERATOR.findall(message)
    reason = _CODE.sub("", message.split("Status Message: ")[-1])
    reason = _TEMPLATE.sub("", _SOURCE.sub("", reason)).strip()
    if len(reason) > CAUSE_MAX:
        reason = reason[: CAUSE_MAX - 1].rstrip() + "…"
    reason = reason.rstrip(".")
    if not operators:
        return f"{reason}."
    kind, name = operators[-1]
    return f"The runtime failed in {kind} '{name}': {reason}."
