"""Settings whose values are no use to anybody."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from zoetrope.serving.config.settings import Settings


@pytest.mark.parametrize("name", ["gpu_hour_price", "lease_seconds", "hang_seconds", "silent_seconds"])
@pytest.mark.parametrize("value", ["inf", "1e400", "nan"])
def test_numbers_are_finite(name: str, value: str) -> None:
    values: dict[str, Any] = {name: value}
    with pytest.raises(ValidationError, match=rf"{name}\n.*finite number"):
        Settings(**values)


def test_a_tenant_has_one_weight_that_can_be_reckoned_with() -> None:
    assert Settings(tenant_weights=("a=2", "b=0.001", "=x=1e6")).weights == {"a": 2.0, "b": 0.001, "=x": 1e6}
    for weight in ("0", "1e-320", "-1", "inf", "nan", "much", ""):
        with pytest.raises(ValidationError, match=r"must be a tenant and a weight from 0\.001 to 1,000,000, such as"):
            Settings(tenant_weights=(f"a={weight}",))
    with pytest.raises(ValidationError, match="'a' has more than one weight"):
        Settings(tenant_weights=("a=1", "b=1", "a=2"))
