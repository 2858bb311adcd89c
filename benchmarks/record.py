"""JSON record of a benchmark: settings, results, machine and commit."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adacomcat.versions import collect


def write_record(output: Path, benchmark: str, settings: dict[str, Any], **found: Any) -> None:
    """Write the record of a benchmark, and say where."""
    document = {
        "benchmark": benchmark,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        **found,
        "provenance": collect(),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n")
    print(f"written to {output}")
