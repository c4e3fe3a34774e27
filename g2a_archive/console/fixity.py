"""What a check found, and a proof by fingerprint came to, as text for a person, and as JSON."""

from __future__ import annotations

from typing import Any

from g2a_archive.fixity.check import FixityResult
from g2a_archive.fixity.fingerprint import Proof
from g2a_archive.models import pluralize, printable, size_text

_SHOWN = 20
_OUTCOME_FIELDS = ("files", "bytes", "seconds", "left", "unjudged", "interrupted", "recorded")
_BECAME = {"removed": "removed since", "replaced": "fetched again since"}


def outcome_text(outcome: FixityResult) -> str:
    """What a check found: a line for each finding, then what was done."""
    lines = [printable(f"{one.path or one.recording}: {one.problem}") for one in outcome.findings]
    lines += [printable(f"{one.id}: {one}") for one in outcome.removed[:_SHOWN]]
    if len(outcome.removed) > _SHOWN:
        lines.append(f"and {len(outcome.removed) - _SHOWN:,} more that were removed")
    wrong = pluralize(len(outcome.findings), "problem") if outcome.findings else "nothing wrong"
    lines.append(
        f"Checked {pluralize(outcome.files, 'file')}, {size_text(outcome.bytes)}, "
        f"in {outcome.seconds:.1f} s: {wrong}."
    )
    if outcome.left:
        lines.append(f"{pluralize(outcome.left, 'file')} not reached.")
    if outcome.unjudged:
        many = pluralize(outcome.unjudged, "file")
        lines.append(f"{many} not judged: another run is working on this archive.")
    if outcome.timed_out and not outcome.left:
        lines.append("Stopped at --max-duration, with files left to read.")
    if any(one.damage for one in outcome.findings) and outcome.recorded:
        lines.append("`g2a-archive download --owed` fetches again what is damaged.")
    return "\n".join(lines)


def outcome_json(outcome: FixityResult) -> dict[str, Any]:
    """What a check found as a JSON object; IDs are strings, `recording` null for unknown files."""
    fields = {name: getattr(outcome, name) for name in _OUTCOME_FIELDS}
    findings = [
        {
            "recording": None if one.recording is None else str(one.recording),
            "file": one.kind,
            "path": one.path,
            "problem": one.problem,
            "damage": one.damage,
        }
        for one in outcome.findings
    ]
    removed = [{**one._asdict(), "id": str(one.id)} for one in outcome.removed]
    return {**fields, "findings": findings, "removed": removed}


def is_proven(proof: Proof, outcome: FixityResult) -> bool:
    """Whether all that was there then is accounted for: read, and nothing found wrong."""
    return not (_wrong(proof, outcome) or outcome.left or outcome.interrupted)


def _wrong(proof: Proof, outcome: FixityResult) -> bool:
    """Whether anything is not as it was: no file that nobody knows of, or that came since."""
    return any(
        not one.problem.startswith("unknown") and one.path not in proof.wrong_since
        for one in outcome.findings
    )


def proof_text(proof: Proof | None, outcome: FixityResult) -> str:
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
    head = f"Fingerprint of {proof.fingerprint.time}, {pluralize(proof.files, 'file')}: "
    if is_proven(proof, outcome):
        many = proof.unchanged != 1
        same = f"{proof.unchanged:,} are here as they were" if many else "1 is here as it was"
        head += f"proven, {same}."
    elif _wrong(proof, outcome):
        head += "NOT proven."
    else:
        head += "not proven yet, as not all files were read."
    lines.append(head + (f" Since then: {', '.join(since)}." if since else ""))
    return "\n" + "\n".join(lines)


def proof_json(proof: Proof | None, outcome: FixityResult) -> dict[str, Any]:
    """The object `proof`; {} where there was none to make. IDs are strings."""
    if proof is None:
        return {}
    return {
        "proof": {
            "fingerprint": str(proof.fingerprint),
            "proven": is_proven(proof, outcome),
            "files": proof.files,
            "unchanged": proof.unchanged,
            "removed": proof.removed,
            "fetched_again": proof.replaced,
            "later": proof.later,
            "recordings": {str(id_): why for id_, why in proof.recordings.items()},
        }
    }
