"""Register the compatibility APIs. Imports no web code, for the sweeper renders webhooks without any."""

from __future__ import annotations

from collections.abc import Sequence

from zoetrope.serving.gateway.http.common.compatibility import CompatibilityApi
from zoetrope.serving.gateway.http.dashscope.api import DASHSCOPE
from zoetrope.serving.gateway.http.fal.api import FAL
from zoetrope.serving.gateway.http.openai.api import OPENAI
from zoetrope.serving.gateway.http.replicate.api import REPLICATE

COMPATIBILITY_APIS: Sequence[CompatibilityApi] = (REPLICATE, OPENAI, DASHSCOPE, FAL)
