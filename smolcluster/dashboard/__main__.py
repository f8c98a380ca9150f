"""`python -m smolcluster.dashboard` prints the API's OpenAPI document: the page's types are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.dashboard.app import create_dashboard
from smolcluster.dashboard.reading import Reading
from smolcluster.runtime.runfolder import RunFolder


def document() -> dict[str, Any]:
    """What /openapi.json says, except for the version: a new one changes no type."""
    whole = create_dashboard(Reading(RunFolder(Path())), ApiSettings()).openapi()  # no endpoint is called
    return {**whole, "info": {**whole["info"], "version": "any"}}


if __name__ == "__main__":
    print(json.dumps(document(), indent=2))
