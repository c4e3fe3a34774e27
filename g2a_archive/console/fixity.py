"""What a proof by fingerprint came to, as text for a person, and as JSON."""

from __future__ import annotations

from typing import Any

from g2a_archive.fixity.check import Outcome
from g2a_archive.fixity.fingerprint import Proof
from g2a_archive.models import counted

_BECAME = {"removed": "removed since", "replaced": "fetched again since"}


def proven(proof: Proof, outcome: Outcome) -> bool:
    """Whether all that was there then is accounted for: read, and nothing found wrong."""
    return not (_wrong(proof, outcome) or outcome.left or outcome.interrupted)


def _wrong(proof: Proof, outcome: Outcome) -> bool:
    """Whether anything is not as it was: no file that nobody knows of, or that came since."""
    return any(
        not one.problem.startswith("unknown") and one.path not in proof.wrong_since
        for one in outcome.findings
    )


def proof_text(proof: Proof | None, outcome: Outcome) -> str:
    """The lines after those of the check itself; "" where there was no proof to make."""
    if proof is None:
        return ""
    lines = [f"Recording {id_}: {_BECAME[why]}" for id_, why in proof.recordings.items()]
    since = [
        f"{count:,} {text}"
        for count, text in (
            (proof.removed, "removed"),
            (proof.replaced, "fetched again"),
            (proof.later, "came"),
        )
        if count
    ]
    head = f"Fingerprint of {proof.fingerprint.time}, {counted(proof.files, 'file')}: "
    if proven(proof, outcome):
        many = proof.unchanged != 1
        same = f"{proof.unchanged:,} are here as they were" if many else "1 is here as it was"
        head += f"proven, {same}."
    elif _wrong(proof, outcome):
        head += "NOT proven."
    else:
        head += "not proven yet, as not all files were read."
    lines.append(head + (f" Since then: {', '.join(since)}." if since else ""))
    return "\n" + "\n".join(lines)


def proof_json(proof: Proof | None, outcome: Outcome) -> dict[str, Any]:
    """The object `proof`; {} where there was none to make. IDs are strings."""
    if proof is None:
        return {}
    return {
        "proof": {
            "fingerprint": str(proof.fingerprint),
            "proven": proven(proof, outcome),
            "files": proof.files,
            "unchanged": proof.unchanged,
            "removed": proof.removed,
            "fetched_again": proof.replaced,
            "later": proof.later,
            "recordings": {str(id_): why for id_, why in proof.recordings.items()},
        }
    }
