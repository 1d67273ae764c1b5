"""Alertmanager's webhook, version 4, as far as the executor reads it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mbp._asgi import ApiError
from mbp.hooks._http import json_object

CANARY = "SimCanary"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(stamp: str) -> int:
    """Return an RFC 3339 time as microseconds since 1970; digits beyond are cut. Raises `ValueError`."""
    try:
        moment = datetime.fromisoformat(stamp)
    except ValueError:
        raise ValueError("not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise ValueError("not an RFC 3339 time: it has no time zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _stamp(text: str) -> str:
    microseconds(text)
    return text


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("contains characters that cannot be printed")
    return text


class _Lenient(BaseModel):
    # Newer senders add keys; what is read here must be right, the rest is only kept in the raw body.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


Label = Annotated[str, Field(max_length=4096), AfterValidator(_printable)]


class Labels(_Lenient):
    """The labels that every alert has; the others are beside them."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)
    __pydantic_extra__: dict[str, Label] = Field(init=False)

    alertname: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]

    def get(self, name: str) -> str | None:
        """Return the value of a label, None when it is not there or empty."""
        if name == "alertname":
            return self.alertname
        return self.__pydantic_extra__.get(name) or None


class Alert(_Lenient):
    """One alert of a delivery."""

    status: Literal["firing", "resolved"]
    labels: Labels
    starts_at: Annotated[str, Field(alias="startsAt", max_length=64), AfterValidator(_stamp)]
    fingerprint: str = Field(pattern=r"^[0-9a-f]{1,64}$")


class Webhook(_Lenient):
    """One delivery."""

    version: Literal["4"]
    # Bounded, and so checked to be text: half a surrogate pair could not be stored.
    group_key: str = Field(alias="groupKey", max_length=1 << 20)
    alerts: list[Alert] = Field(min_length=1, max_length=5000)


def parse(body: bytes) -> Webhook:
    """Return the delivery in `body`. Raises `ApiError` 400 that names each field that is wrong (the first eight)."""
    value = json_object(body)
    try:
        return Webhook.model_validate(value)
    except ValidationError as error:
        # The value itself is not echoed: it may be long, secret or not encodable.
        wrong = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:8]]
        raise ApiError(400, "invalid", "; ".join(wrong)) from None
