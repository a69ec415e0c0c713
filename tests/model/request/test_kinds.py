"""The kinds of task are those of the schema."""

from __future__ import annotations

from zoetrope.model.request.kinds import TASK_KINDS
from zoetrope.model.request.tasks import TASKS


def test_every_kind_of_task_is_named() -> None:
    assert tuple(task.model_fields["kind"].default for task in TASKS) == TASK_KINDS
