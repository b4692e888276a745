"""What a family of models can do and hold, as data."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from pydantic import Field

from orchestrator.contracts.policy import Value
from orchestrator.errors import ModelCapabilityError
from worker.llm.base import LLMRequest

_UNABLE = (
    "{model} {what}, as its profile says: ask another model, or say `{key} = true` in a [[profiles]] of your "
    "NIGHTFLEET_MODELS_FILE"
)


class ModelProfile(Value):
    """What is known of a model; None is not known. Without any knowledge a model is taken to do what most of them do."""

    context_window: int | None = None
    max_output_tokens: int | None = None
    #: Models that reason take no temperature, and refuse requests that have one.
    temperature: bool = True
    json_schema: bool = True
    tools: bool = True
    streaming: bool = True
    images: bool = True

    def check(self, request: LLMRequest) -> None:
        """Raise `ModelCapabilityError` for a request that this model is known not to take; a fallback may."""
        if not self.tools and request.tools:
            raise ModelCapabilityError(_UNABLE.format(model=request.model, what="calls no tools", key="tools"))
        if not self.images and request.shows_images:
            raise ModelCapabilityError(_UNABLE.format(model=request.model, what="sees no images", key="images"))


class ProfileEntry(Value):
    """A line of a table of profiles: what it says of the models of its patterns, such as `openai:gpt-5*`.

    For each field the first entry that says something counts. `same_as` names the model that this one really is: a
    deployment, or a name of one's own. Its price is then the price of this one.
    """

    model: str | tuple[str, ...]
    same_as: str | None = Field(default=None, min_length=3)
    context_window: int | None = Field(default=None, ge=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: bool | None = None
    json_schema: bool | None = None
    tools: bool | None = None
    streaming: bool | None = None
    images: bool | None = None

    def matches(self, *names: str) -> bool:
        """Tell whether this entry speaks of a model of any of these names."""
        patterns = (self.model,) if isinstance(self.model, str) else self.model
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def real_model(entries: Sequence[ProfileEntry], model: str) -> str:
    """Give the model that one really is: what `same_as` says of it, once."""
    return next((entry.same_as for entry in entries if entry.same_as and entry.matches(model)), model)


def profile_from(entries: Sequence[ProfileEntry], names: Sequence[str], *, context_window: int | None) -> ModelProfile:
    """Give the profile of a model of these names; `context_window` is what another source says of it."""
    said: dict[str, int | bool] = {} if context_window is None else {"context_window": context_window}
    for entry in reversed([entry for entry in entries if entry.matches(*names)]):
        fields = {name: getattr(entry, name) for name in ModelProfile.model_fields}
        said |= {name: value for name, value in fields.items() if value is not None}
    return ModelProfile.model_validate(said)
