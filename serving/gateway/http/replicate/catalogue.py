"""The models that the Replicate API offers: some tasks of the served ones each, by the names of the public ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoetrope.model.request.tasks import ModelCard
from zoetrope.serving.config.served_models import ServedModels
from zoetrope.serving.gateway.http.replicate.forms import ANY, EDIT, IMAGE, REFERENCE, TEXT, InputForm

OWNER = "wan-video"
OWNERS = (OWNER, "wavespeedai")  # of public Wan models
PUBLIC = re.compile(r"wan-?(\d)\.(\d)((?:-[a-z0-9.]{1,16}){0,6})")
FORMS = {
    "t2v": (TEXT,),
    "i2v": (IMAGE,),
    "flf2v": (IMAGE,),
    "kf2v": (IMAGE,),
    "r2v": (REFERENCE,),
    "videoedit": (EDIT,),
}
RESOLUTIONS = ("480p", "720p", "1080p")
VARIANTS = (*RESOLUTIONS, "fast", "flash", "turbo", "plus", "pro", "1.3b", "5b", "14b", "a14b")
FIRST_720P = (2, 5)  # the first generation whose public models make 720p unless they are told otherwise


@dataclass(frozen=True)
class OfferedModel:
    """A model as this API shows it.

    Attributes:
        forms: that its input can have; the last one is taken if no medium tells which.
        resolution: of inputs that name none; None: the served model's own.
        served: the name of the served model that it is; "" if each request goes by its task. Its input may then be the
            service's own fields, ``task`` among them.
    """

    name: str
    description: str
    forms: tuple[InputForm, ...]
    owner: str = OWNER
    resolution: str | None = "720p"
    served: str = ""

    @property
    def id(self) -> str:
        return f"{self.owner}/{self.name}"

    @property
    def tasks(self) -> frozenset[str]:
        return frozenset(task for form in self.forms for task in form.tasks)

    def form_of(self, given: Mapping[str, Any]) -> InputForm:
        """Return the form that an input has, by the media that it names."""
        return next((form for form in self.forms if form.has(given)), self.forms[-1])


WAN_MODELS = (
    OfferedModel("wan-2.7-t2v", "A video from words alone.", (TEXT,)),
    OfferedModel(
        "wan-2.7-i2v",
        "A video from a first picture, a first and a last one, a clip to go on from, or a storyboard.",
        (IMAGE,),
    ),
    OfferedModel("wan-2.7-r2v", "A video of what pictures or clips show.", (REFERENCE,)),
    OfferedModel("wan-2.7-videoedit", "A video changed by an instruction.", (EDIT,)),
)
MODEL_OF_TASK = {task: model for model in WAN_MODELS for task in model.tasks}


def offered_models(models: ServedModels) -> list[OfferedModel]:
    """List the models whose tasks the served ones have, and those themselves."""
    named = [_served_model(name, card) for card in models for name in models.names_of(card)]
    own = {model.id: model for model in named}
    return [*(model for model in WAN_MODELS if model.id not in own and models.of_task(model.tasks)), *own.values()]


def find_model(name: str, models: ServedModels) -> OfferedModel | None:
    """Find a model by OWNER/NAME: one of those that are listed, or another public Wan model of the same tasks."""
    for model in offered_models(models):
        if model.id == name:
            return model
    found = _public_model(name)
    return found if found is not None and models.of_task(found.tasks) else None


def makers_of(model: OfferedModel, models: ServedModels) -> tuple[str, ...]:
    """Return the own names of the served models that make its videos."""
    named = models.find(model.served)
    return tuple(card.name for card in models if card is named or (not model.served and model.tasks & set(card.tasks)))


def _served_model(name: str, card: ModelCard) -> OfferedModel:
    owner, slash, rest = name.partition("/")
    forms = tuple(form for form in ANY if set(form.tasks) & set(card.tasks))
    description = "Every task: by the media that are given, or with the service's own fields."
    return OfferedModel(
        rest if slash else name, description, forms, owner if slash else OWNER, resolution=None, served=name
    )


def _public_model(name: str) -> OfferedModel | None:
    """Read a name such as wan-video/wan-2.2-t2v-fast or wavespeedai/wan-2.1-i2v-480p."""
    owner, _, rest = name.partition("/")
    match = PUBLIC.fullmatch(rest)
    if owner not in OWNERS or match is None:
        return None
    words = match[3].split("-")[1:]
    kinds = [word for word in words if word in FORMS]
    if len(kinds) > 1 or any(word not in VARIANTS for word in words if word not in FORMS):
        return None
    forms = FORMS[kinds[0]] if kinds else (IMAGE, TEXT)
    by_age = "720p" if (int(match[1]), int(match[2])) >= FIRST_720P else "480p"
    resolution = next((word for word in words if word in RESOLUTIONS), by_age)
    return OfferedModel(rest, "The same tasks as this public model's.", forms, owner, resolution)
