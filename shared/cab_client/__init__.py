"""The client of CAB, the Credential Access Broker: for front ends, agents, tool servers and resources.

    from cab_client import Agent, AuthorizedClient, PrivateKeyJwt

`cab_client.resource` is for the systems that agents reach, `cab_client.testing` for tests; `google`, `mcp`, `langchain`,
`pydantic_ai`, `openai_agents` and `adk` fit one framework each and import it. Nothing here imports `cab`.
"""

from cab_client.authorized import AsyncAuthorizedClient, AuthorizedClient
from cab_client.between import NoAssertion, receive_assertion
from cab_client.broker import CallResult
from cab_client.clients import Agent, AsyncAgent, AsyncFrontEnd, FrontEnd
from cab_client.credentials import ClientSecret, DpopKey, PrivateKeyJwt, WorkloadIdentity
from cab_client.current import acting_for, bind, current_assertion
from cab_client.errors import (
    AnswerWithheld,
    AssertionExpired,
    BrokerFailed,
    CabError,
    CallRejected,
    ConfirmationNeeded,
    ConnectionNeeded,
    InvalidArgument,
    LoginExpired,
    Misconfigured,
    NeedsUser,
    NoUser,
    OutcomeUnknown,
    Refused,
    StepUpNeeded,
    TaskExhausted,
    TryLater,
    Unanswered,
    UserRefused,
    WrongOrigin,
)
from cab_client.values import Assertion, Connection, Intent, Permit, Secret, Task

__all__ = [
    "Agent",
    "AnswerWithheld",
    "Assertion",
    "AssertionExpired",
    "AsyncAgent",
    "AsyncAuthorizedClient",
    "AsyncFrontEnd",
    "AuthorizedClient",
    "BrokerFailed",
    "CabError",
    "CallRejected",
    "CallResult",
    "ClientSecret",
    "ConfirmationNeeded",
    "Connection",
    "ConnectionNeeded",
    "DpopKey",
    "FrontEnd",
    "Intent",
    "InvalidArgument",
    "LoginExpired",
    "Misconfigured",
    "NeedsUser",
    "NoAssertion",
    "NoUser",
    "OutcomeUnknown",
    "Permit",
    "PrivateKeyJwt",
    "Refused",
    "Secret",
    "StepUpNeeded",
    "Task",
    "TaskExhausted",
    "TryLater",
    "Unanswered",
    "UserRefused",
    "WorkloadIdentity",
    "WrongOrigin",
    "acting_for",
    "bind",
    "current_assertion",
    "receive_assertion",
]
