"""The target profile: what is exercised, what can be read of it, who owns what, and how it is put back.

The file as written (pydantic, frozen, unknown keys refused). ``${stack.NAME}`` inside a string is filled in from the
running stack when something is opened, never before: a profile is the same for every stack of its target.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sim.duration import seconds

#: A length of time in a file: ``250ms``, ``15s``, ``3m``, ``1h30m`` or a bare number of seconds; inside, seconds.
Duration = Annotated[float, BeforeValidator(seconds), Field(ge=0)]

Scalar = bool | int | float | str


def _is_reference(text: str) -> str:
    if not text.startswith(("env:", "file:")) or len(text.partition(":")[2]) == 0:
        raise ValueError("a secret stands in a file only by reference: env:NAME or file:PATH")
    return text


#: ``env:NAME`` or ``file:PATH``; a literal secret is refused.
Reference = Annotated[str, AfterValidator(_is_reference)]


class Model(BaseModel):
    """The base of everything read from a file: frozen, and no key it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Basic(Model):
    """HTTP Basic authentication."""

    user: str
    password: Reference


class Auth(Model):
    """How to authenticate: one of `bearer` and `basic`, and the certificates where the server asks for them."""

    bearer: Reference | None = None
    basic: Basic | None = None
    ca: str | None = Field(None, description="path of a PEM file with the authorities to trust")
    certificate: str | None = Field(None, description="path of a PEM file with the client certificate")
    key: Reference | None = Field(None, description="reference to the client certificate's key (a file)")


def _auth(value: Any) -> Any:
    return {"bearer": value} if isinstance(value, str) else value


#: A bare reference is a bearer token.
AnyAuth = Annotated[Auth | None, BeforeValidator(_auth)]


_STACK_HOLE = re.compile(r"\$\{stack\.[A-Za-z0-9_]+\}")


def _is_url(text: str) -> str:
    rest = _STACK_HOLE.sub("", text)
    if "${" in rest:
        raise ValueError("only ${stack.NAME} is filled in here")
    if rest == text or not text.startswith("${stack."):
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(f"not a URL: {text!r} (write http://host:port, or ${{stack.NAME}})")
        if "@" in parts.netloc:
            raise ValueError("a URL carries no user or password: use auth with env:NAME or file:PATH")
    if any(char.isspace() for char in text):
        raise ValueError(f"not a URL: {text!r} has a space in it")
    return text


#: ``http(s)://…`` or ``${stack.NAME}…``; no credentials in it.
Url = Annotated[str, AfterValidator(_is_url)]


#: What may stand before ``://`` in the address of a door: each kind of fault says which of them it goes through.
SCHEMES = ("http", "https", "postgresql", "unix", "tcp", "file")


def _is_address(text: str) -> str:
    if not text:
        return text  # a door of commands
    scheme, mark, rest = text.partition("://")
    if scheme in ("http", "https") or text.startswith("${stack."):
        return _is_url(text)
    if scheme not in SCHEMES or not mark or not rest:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"not an address: {text!r} (write one of {known}…, or ${{stack.NAME}})")
    if "${" in _STACK_HOLE.sub("", text):
        raise ValueError("only ${stack.NAME} is filled in here")
    parts = urlsplit(text)
    if "@" in parts.netloc and (scheme != "postgresql" or parts.password is not None):
        raise ValueError("an address carries no user or password: use auth with env:NAME or file:PATH")
    if any(char.isspace() for char in text):
        raise ValueError(f"not an address: {text!r} has a space in it")
    return text


#: A `Url`, or where else a fault can go in: ``postgresql://[user@]host:port/db``, ``unix:///path``, ``tcp://host:port``,
#: ``file:///path``.
Address = Annotated[str, AfterValidator(_is_address)]

Argv = Annotated[tuple[str, ...], Field(min_length=1)]

#: The name of an environment variable.
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Commands(Model):
    """One fault that programs of this machine bring: each is an argument list, run without a shell.

    `start` brings the fault in and `stop` takes it away; `verify` ends with 0 when the fault is seen to bite, `gone`
    with 0 when it is seen to be away. `stop` and `gone` may be called any number of times, by another process.
    """

    start: Argv
    verify: Argv
    stop: Argv
    gone: Argv
    env: dict[Variable, Reference] = Field({}, description="what the programs find in their environment, by reference")


class Door(Model):
    """A way into the target that injectors use: an address, or commands of this machine, by name."""

    url: Address = Field("", description="empty where the door is a set of commands")
    auth: AnyAuth = None
    commands: dict[str, Commands] = {}

    @model_validator(mode="after")
    def _one_way(self) -> Door:
        if bool(self.url) == bool(self.commands):
            raise ValueError("a door has a url, or commands")
        return self


class ObserverSpec(BaseModel):
    """One observer: its kind, and the keys that this kind takes (checked against the kind's own model)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str
    every: Annotated[Duration, Field(ge=0.02, le=60)] = 1.0


class Fact(Model):
    """A named reading.

    `event` facts happen (an action, a message), `state` facts are one of `values` at any time, `gauge` facts are
    numbers. `from` names the observers that fill it.
    """

    kind: Literal["event", "state", "gauge"]
    from_: Annotated[
        tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v), Field(alias="from", min_length=1)
    ]
    stage: Literal["detect", "act", "notify"] | None = None
    sequence: Literal["+"] | None = Field(None, description="`a+b` means a, then b")
    values: tuple[Scalar, ...] | None = None
    subject: Literal["injection"] | None = None
    query: str | None = None
    path: str | None = Field(None, description="where in the answer the value stands: keys joined by dots")
    worse: Literal["up", "down"] | None = None
    tolerance: float = Field(0.0, ge=0)
    cured_by: Literal["action"] | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Fact:
        allowed: dict[str, set[str]] = {
            "event": {"stage", "sequence"},
            "state": {"stage", "values", "subject", "path", "query"},
            "gauge": {"query", "path", "worse", "tolerance", "cured_by"},
        }
        extra = [
            name
            for name in ("stage", "sequence", "values", "subject", "query", "path", "worse", "tolerance", "cured_by")
            if getattr(self, name) not in (None, 0.0) and name not in allowed[self.kind]
        ]
        if extra:
            raise ValueError(f"a fact of kind {self.kind} has no {' and no '.join(extra)}")
        if self.kind == "event" and self.stage is None:
            raise ValueError("a fact of kind event needs its stage: detect, act or notify")
        return self


class Within(Model):
    """Budgets. All count from t0 but `recover`, which counts from *gone*. Null: not given here."""

    effect: Duration | None = None
    detect: Duration | None = None
    act: Duration | None = None
    notify: Duration | None = None
    recover: Duration | None = None

    def over(self, base: Within) -> Within:
        """Return these budgets, with the gaps filled from `base`."""
        return Within(**{**base.given(), **self.given()})

    def given(self) -> dict[str, float]:
        """Return the budgets that are set, in seconds."""
        return {name: value for name, value in self if value is not None}


class Ramp(Model):
    """From t0 until the fault can make the rule true: the least and the most it takes."""

    least: Duration = 0.0
    most: Duration = 0.0

    @model_validator(mode="after")
    def _in_order(self) -> Ramp:
        if self.least > self.most:
            raise ValueError(f"least ({self.least:g} s) is more than most ({self.most:g} s)")
        return self


class Action(Model):
    """One action of a hook. `effect` and `ready` are expressions over state facts."""

    name: str
    effect: str | None = None
    ready: str | None = None
    reversal: Literal["on_resolved", "restore", "none"] = "none"
    with_: tuple[str, ...] = Field((), alias="with", description="steps that may fail without failing the action")


class Hook(Model):
    """One hook of the target: which alerts it answers, what it does, in order, and whom it tells on which channels."""

    alerts: tuple[str, ...] = Field(min_length=1)
    owner: str
    channels: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    faults: tuple[str, ...] = ()
    also: tuple[str, ...] = Field((), description="actions and owners that may join in without being uninvited")
    ramp: Ramp = Ramp()
    time: Literal["live", "seeded"] = "live"
    within: Within = Within()


class Binding(Model):
    """What an exercise block that must stay unchanged cannot carry."""

    hook: str | None = None
    tags: tuple[str, ...] = ()
    within: Within = Within()
    steady_state: str | None = None
    stop_when: str | None = None
    never: str | None = None


class Restore(Model):
    """Sets one state fact back at its controller. `{prior}` in `json` or in the URL is the value at baseline.

    For a fact with `subject: injection`, `{injection}` in the URL is the injection's id.
    """

    fact: str
    method: Literal["PUT", "POST", "PATCH", "DELETE"] = "PUT"
    url: Url
    body: dict[str, Any] | None = Field(None, alias="json")
    auth: AnyAuth = None


class Identity(Model):
    """Where the live target says what it is: JSON, and the places in it of its environment and its instance.

    With ``*`` for each element of a list in a place, all of them must say the same: a source that answers for two
    environments at once is the identity of neither. That lets any JSON serve, such as a query's answer.
    """

    url: Url
    auth: AnyAuth = None
    environment: str = Field("environment", min_length=1, description="keys joined by dots, * for each of a list")
    instance: str = Field("instance", min_length=1, description="keys joined by dots, * for each of a list")


class ChainFiles(BaseModel):
    """The detection chain: its kind, and the declared files (checked against the kind's own model)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str


class Target(Model):
    """A target profile."""

    target: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    environment: str = Field(min_length=1)
    identity: Identity | None = None
    stack: str | None = None
    vars: dict[str, Scalar] = {}
    doors: dict[str, Door] = {}
    observers: dict[str, ObserverSpec] = {}
    facts: dict[str, Fact] = {}
    owners: dict[str, dict[str, str]] = {}
    exercises: dict[str, Binding] = {}
    hooks: dict[str, Hook] = {}
    chain: ChainFiles | None = None
    meta_alerts: tuple[str, ...] = ()
    quiet: Duration = 600.0
    within: Within = Within(effect=10, detect=60, act=90, notify=90, recover=300)
    hold_max: Duration = 7200.0
    steady_state: str | None = None
    stop_when: str | None = None
    restore: tuple[Restore, ...] = ()
    canary: bool | tuple[str, ...] = Field(
        False, description="send a test message in preflight; as a list: the channels by which one can arrive"
    )

    @model_validator(mode="after")
    def _names_resolve(self) -> Target:
        for name in self.vars:
            if name in self.facts or name == "baseline":
                raise ValueError(f"vars.{name} has the name of a fact, or of the baseline")
        for name, fact in self.facts.items():
            for observer in fact.from_:
                if observer not in self.observers:
                    raise ValueError(f"facts.{name} reads from {observer!r}, which is not among the observers")
        for name, hook in self.hooks.items():
            if hook.owner not in self.owners:
                raise ValueError(f"hooks.{name} is owned by {hook.owner!r}, which is not among the owners")
            for channel in hook.channels:
                if channel not in self.owners[hook.owner]:
                    raise ValueError(f"hooks.{name} tells {hook.owner} by {channel!r}, where it has no address")
        for call in self.restore:
            if call.fact not in self.facts or self.facts[call.fact].kind != "state":
                raise ValueError(f"restore names {call.fact!r}, which is not a fact of kind state")
        return self
