"""`python -m smolcluster.chat.backend` prints the API's OpenAPI document: the page's types are made from it."""

from __future__ import annotations

import json
from typing import Any, cast

from smolcluster.chat.backend.api import create_app
from smolcluster.chat.backend.settings import ApiSettings
from smolcluster.infer.head import Head


def document() -> dict[str, Any]:
    """What /openapi.json says, except for the version: a new one changes no type."""
    app = create_app(cast(Head, None), ApiSettings())  # no endpoint is called, so there is no head
    whole = app.openapi()
    app.state.service.close()
    return {**whole, "info": {**whole["info"], "version": "any"}}


if __name__ == "__main__":
    print(json.dumps(document(), indent=2))
