"""A document against the model of its file: the object, or every Problem in words."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from smolcluster.errors import ConfigError
from smolcluster.spec.document import Document
from smolcluster.spec.problems import explain
from smolcluster.spec.values import FileModel

Model = TypeVar("Model", bound=FileModel)


def validated(document: Document, model: type[Model]) -> Model:
    """The validated object. ConfigError with every problem of the document."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(explain(error, document, model)) from None


def known_keys(model: type[FileModel]) -> set[str]:
    """The top-level keys a file of that model may have, as written in the file."""
    return {info.alias or name for name, info in model.model_fields.items()}
