"""What is measured: which request at which function, and the cryptography that no implementation of it can avoid."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from benchmarks.clients import ABREAST, AGENT, FRONT_END, NARROWING, PEOPLE
from benchmarks.load import Sent, send
from benchmarks.operations import EVENT_BYTES, MINT_EVENT_BYTES, REFRESH_EVENT_BYTES
from benchmarks.processes import HOST, Function, Server
from benchmarks.surroundings import CSRF, FIRST_WRITES, MANY_SCOPES, ORIGIN, SESSION, SLOW, Surroundings

MINT, MINT_KEY, RELAXED, HOT, TASK, SIGNED = "mint", "mint-key", "relaxed", "hot", "task", "signed"
SIGNED_BY_GOOGLE, TASK_BY_GOOGLE = "signed-google", "task-google"
LIMITED, LIMITED_BY_GOOGLE, LIMITED_FIRST = "task-limit", "task-limit-google", "task-limit-first"
TEXTBOOK, ECHO, CALL = "textbook", "echo", "call"
ECHO_ONE, BARE, BARE_ONE = "echo-1", "bare", "bare-1"
LOOP, ONE, MANY = "loop", "hot-1", "hot-400"
CONFIRM, NARROWER, INGEST, INGEST_ONE = "confirm", "narrower", "ingest", "ingest-1"
PER_MESSAGE = 5  # events that a message of the record carries at 16 connections, rounded down: docs/performance.md
EXCHANGE_TOKEN = "functions/exchange_token"
VERIFY_ES256, SIGN_ES256, VERIFY_RS256 = "verify ES256", "sign ES256", "verify RS256"


@dataclass(frozen=True)
class Row:
    """`operations` names the signatures of one request in `CryptoFloor`'s words; the echo needs none."""

    name: str
    says: str
    server: Server
    project: str
    prepare: Callable[[], Sent]
    operations: Mapping[str, int]
    behind: tuple[Server, ...] = ()  # functions that it asks: their CPU counts too
    connections: int | None = None  # where not as many as all others have
    people: int = 1  # in turn: so many requests are sent first, that each has its token in memory
    requests: int | None = None  # that are billed; where not one for each function
    events: int = 1  # audit events that a request leaves
    event_bytes: int = EVENT_BYTES  # of each
    carries: int = 1  # or brings
    prepare_paced: Callable[[], Sent] | None = None  # the same from the beginning of its loops, for `call_counts.paced`
    prepare_slow: Callable[[], Sent] | None = None  # the same at a platform that takes its time

    def cpu_ns(self) -> int:
        return sum(server.cpu_ns() for server in (self.server, *self.behind))

    def pss_bytes(self) -> int:
        return sum(server.pss_bytes() for server in (self.server, *self.behind))


def _by_google(row: Row, name: str, prepare: Callable[[], Sent]) -> Row:
    """The same with an agent by its Google identity: one of the two verifications is then of RSA."""
    operations = {**row.operations, VERIFY_RS256: 1, VERIFY_ES256: 1}
    return replace(row, name=name, says="the same, agent by Google identity", prepare=prepare, operations=operations)


@asynccontextmanager
async def all_rows(surroundings: Surroundings) -> AsyncIterator[list[Row]]:
    """Every function as a process of its own, all up at once, so that each round compares them side by side."""
    minting = await surroundings.open_project("demo-mint")
    relaxed = await surroundings.open_project("demo-relaxed")
    default = await surroundings.open_project("demo-default", people=PEOPLE)
    textbook = await surroundings.open_project("demo-textbook")
    looping = await surroundings.open_project("demo-loop", people=PEOPLE)
    recording_less = await surroundings.open_project("demo-first-writes")
    calling = await surroundings.open_project("demo-calls")
    confirming = await surroundings.open_project("demo-confirm")
    narrowing = await surroundings.open_project("demo-narrower", people=NARROWING, keeps_tokens=True)
    await surroundings.open_project("demo-ingest")
    await surroundings.open_project("demo-bare")
    await surroundings.log_in("demo-confirm")
    agent = surroundings.google_identity(AGENT, audience=f"{ORIGIN}/oauth2")
    front_end = surroundings.google_identity(FRONT_END, audience=f"{ORIGIN}/edge")

    with surroundings.servers() as start:
        mint_server = start(surroundings.function("functions/mint_assertion", "mint_assertion", project="demo-mint"))
        relaxed_server = start(
            surroundings.function(EXCHANGE_TOKEN, "exchange_token", project="demo-relaxed", deployment="relaxed")
        )
        default_server = start(surroundings.function(EXCHANGE_TOKEN, "exchange_token", project="demo-default"))
        loop_server = start(
            surroundings.function(EXCHANGE_TOKEN, "exchange_token", project="demo-loop", deployment="limited")
        )
        await send(looping.read_of_everybody(), port=loop_server.port, connections=ABREAST)
        first_server = start(
            surroundings.function(
                EXCHANGE_TOKEN, "exchange_token", project="demo-first-writes", deployment=FIRST_WRITES
            )
        )
        textbook_server = start(
            surroundings.function("benchmarks/functions/textbook_broker", "textbook_broker", project="demo-textbook")
        )
        port = surroundings.ports.take_free()
        both = {"project": "demo-calls", "exchange_token": f"http://{HOST}:{port}"}
        deciding = start(surroundings.function(EXCHANGE_TOKEN, "exchange_token", **both), port)
        call_server = start(surroundings.function("functions/call_tool", "call_tool", **both))
        asking = start(surroundings.function(EXCHANGE_TOKEN, "exchange_token", project="demo-confirm"))
        pages = start(surroundings.function("functions/connect_account", "connect_account", project="demo-confirm"))
        port = surroundings.ports.take_free()
        kept = {"project": "demo-narrower", "deployment": MANY_SCOPES, "refresh_grants": f"http://{HOST}:{port}"}
        refreshing = start(surroundings.function("functions/refresh_grants", "refresh_grants", **kept), port)
        narrowing_server = start(surroundings.function(EXCHANGE_TOKEN, "exchange_token", **kept))
        ingesting = start(surroundings.function("functions/ingest_audit", "ingest_audit", project="demo-ingest"))
        publisher = await surroundings.publisher(
            "demo-default",
            lambda: send([default.list_opportunities()], port=default_server.port, connections=1),
            to="demo-ingest",
        )
        answer = await send([default.list_opportunities()], port=default_server.port, connections=1)
        alike = {"BENCH_ANSWER_BYTES": str(len(answer))}
        echo_server = start(Function("benchmarks/functions/echo", "echo", alike))
        alike |= {**surroundings.emulators.environment(), "GOOGLE_CLOUD_PROJECT": "demo-bare"}
        bare_server = start(Function("benchmarks/functions/bare_calls", "bare_calls", alike))
        hot = Row(
            HOT,
            "exchange, default: private_key_jwt, single use, grant read, counted under a limit of a million a day",
            default_server,
            "demo-default",
            default.list_opportunities,
            {VERIFY_ES256: 2},
        )
        signed = replace(
            hot,
            name=SIGNED,
            says="exchange for a JWT of ours (warehouse), otherwise as hot",
            prepare=default.query_warehouse,
            operations={VERIFY_ES256: 2, SIGN_ES256: 1},
        )
        task = replace(
            hot, name=TASK, says="as hot, a write inside a task of the user", prepare=default.update_opportunity
        )
        limited = replace(
            task,
            name=LIMITED,
            says="the same, a task that is good for 20 uses",
            prepare=default.update_in_a_limited_task,
        )
        limited_by_google = _by_google(
            limited, LIMITED_BY_GOOGLE, lambda: default.update_in_a_limited_task(identity=agent)
        )
        echo = replace(hot, name=ECHO, says="the framework with the same bytes", server=echo_server, operations={})
        bare = replace(echo, name=BARE, says="as echo, with the calls of hot", server=bare_server, project="demo-bare")
        yield [
            echo,
            replace(echo, name=ECHO_ONE, says="as echo, over one connection", connections=1),
            bare,
            replace(bare, name=BARE_ONE, says="as bare, over one connection", connections=1),
            Row(
                MINT,
                "mint an assertion, front end by Google identity",
                mint_server,
                "demo-mint",
                lambda: minting.mint(identity=front_end),
                {VERIFY_RS256: 1, SIGN_ES256: 1},
                event_bytes=MINT_EVENT_BYTES,
            ),
            Row(
                MINT_KEY,
                "mint an assertion, front end by private_key_jwt, single use",
                mint_server,
                "demo-mint",
                minting.mint,
                {VERIFY_RS256: 1, VERIFY_ES256: 1, SIGN_ES256: 1},
                event_bytes=MINT_EVENT_BYTES,
            ),
            Row(
                RELAXED,
                "exchange, relaxed: Google identity, grant status remembered",
                relaxed_server,
                "demo-relaxed",
                lambda: relaxed.list_opportunities(identity=agent),
                {VERIFY_RS256: 1, VERIFY_ES256: 1},
            ),
            hot,
            replace(hot, name=ONE, says="as hot, over one connection", connections=1),
            replace(
                hot, name=MANY, says="as hot, for 400 users in turn", prepare=default.list_of_many_users, people=PEOPLE
            ),
            replace(
                hot,
                name=LOOP,
                says="as hot, under a limit of 600 a minute: 16 agents in turn, each reads 20 times for one user",
                server=loop_server,
                project="demo-loop",
                prepare=looping.list_in_a_loop,
                prepare_paced=replace(looping, _loops=deque()).list_in_a_loop,
            ),
            task,
            limited,
            limited_by_google,
            replace(
                limited_by_google,
                name=LIMITED_FIRST,
                says="the same, where of several changes in a task the first is recorded: `records_each_write: false`",
                server=first_server,
                project="demo-first-writes",
                prepare=lambda: recording_less.update_in_a_limited_task(identity=agent),
            ),
            _by_google(task, TASK_BY_GOOGLE, lambda: default.update_opportunity(identity=agent)),
            signed,
            _by_google(signed, SIGNED_BY_GOOGLE, lambda: default.query_warehouse(identity=agent)),
            Row(
                CONFIRM,
                "a confirmed action, all legs: question, click on the page, repetition",
                asking,
                "demo-confirm",
                lambda: confirming.confirmed_deletion(pages=pages.port, session=SESSION, csrf=CSRF),
                {VERIFY_ES256: 4},
                behind=(pages,),
                requests=3,
                events=3,
            ),
            Row(
                NARROWER,
                "first use of a narrower scope: exchange_token, refresh_grants and the provider",
                narrowing_server,
                "demo-narrower",
                narrowing.list_with_other_scopes,
                {VERIFY_ES256: 2, SIGN_ES256: 1},
                behind=(refreshing,),
                events=2,
                event_bytes=(EVENT_BYTES + REFRESH_EVENT_BYTES) // 2,
                people=NARROWING,
            ),
            Row(
                INGEST,
                f"ingest_audit takes {PER_MESSAGE} events in one message",
                ingesting,
                "demo-ingest",
                lambda: publisher.push(PER_MESSAGE),
                {},
                events=0,
                carries=PER_MESSAGE,
            ),
            Row(
                INGEST_ONE,
                "the same, one event in a message",
                ingesting,
                "demo-ingest",
                lambda: publisher.push(1),
                {},
                events=0,
            ),
            Row(
                CALL,
                "a call of the platform by the broker: call_tool and exchange_token together",
                call_server,
                "demo-calls",
                calling.call_list_opportunities,
                {SIGN_ES256: 1},
                behind=(deciding,),
                events=2,
                prepare_slow=lambda: calling.call_list_opportunities(account=SLOW),
            ),
            Row(
                TEXTBOOK,
                "the same as hot from documentation, on stock clients",
                textbook_server,
                "demo-textbook",
                textbook.list_opportunities,
                {VERIFY_ES256: 2},
            ),
        ]
