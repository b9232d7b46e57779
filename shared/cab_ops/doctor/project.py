"""The deployment's project: what is there, and whether it is as the configuration and the Terraform module want it.

Secrets are asked about, never read. Works on the emulators of the local stack too, but for what only the cloud knows: `CloudFacts`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final, TypeVar

from cab.adapters.google_cloud.firestore.documents import FirestoreDocuments
from cab.adapters.google_cloud.rest import GoogleApi, Refused, Status
from cab.adapters.sealed_documents import DATA_KEY_SECRET
from cab.domain.configured.deployment import Deployment
from cab.ports import Unavailable
from cab.stores.grants import ARE_SPREAD
from cab.stores.signing_keys import SECRET, Issuer, KeyRing, SigningKeys
from cab.use_cases.grants.refresh.escrow import ESCROW_SECRET
from cab_ops.doctor import expected
from cab_ops.doctor.diagnosis import Diagnosis, ill, unknown, well

_BUDGET_S: Final = 5.0
_ABSENT: Final = frozenset({Status.NOT_FOUND})

# Topic, its subscription, and whether that pushes to a function and to which path of it.
_SUBSCRIPTIONS: Final = (
    ("cab-audit", "cab-audit-ingest", "/"),
    ("cab-grants-due", "cab-grants-due-refresh", "/grants/due"),
    ("cab-audit-dead-letter", "cab-audit-dead-letter-keep", None),
    ("cab-audit-quarantine", "cab-audit-quarantine-keep", None),
)
_APPLY: Final = "run `terraform apply`: the module makes it"

_Answer = TypeVar("_Answer")

_SENT_WITHIN: Final = timedelta(minutes=5)


class ProjectAsItIs:
    """What Secret Manager, Pub/Sub and Firestore say. Every method raises Unavailable when they say nothing, or may not."""

    def __init__(self, project: str) -> None:
        self.project = project
        self._secrets = GoogleApi(
            "secrets", host="secretmanager.googleapis.com", emulator_variable="SECRET_MANAGER_EMULATOR_HOST"
        )
        self._pubsub = GoogleApi("topics", host="pubsub.googleapis.com", emulator_variable="PUBSUB_EMULATOR_HOST")
        self._databases = {name: FirestoreDocuments(project, name) for name in expected.DATABASES}

    async def close(self) -> None:
        for api in (self._secrets, self._pubsub):
            await api.close()
        for opened in self._databases.values():
            await opened.close()

    async def answers(self, database: str) -> None:
        await self._databases[database].read("doctor/looks")

    async def unsent_since(self) -> datetime | None:
        """When the oldest audit event was kept that could not be published."""
        found = await self._databases["unsent"].find("events", order_by="kept_at", limit=1)
        return found[0].fields["kept_at"] if found else None

    async def sweeps_ask_by_part(self) -> bool:
        """Whether `cab grants spread` has ended: then no query needs the index of grants' `due_at` alone."""
        return await self._databases["grants"].read(ARE_SPREAD) is not None

    async def ring(self, issuer: Issuer) -> KeyRing | None:
        return await SigningKeys(self._databases["keys"]).ring(issuer)

    async def state(self, secret: str, version: int) -> str | None:
        """`ENABLED`, `DISABLED` or `DESTROYED`; None when there is no such version."""
        url = f"/v1/projects/{self.project}/secrets/{secret}/versions/{version}"
        return await self._asked(self._secrets, "GetSecretVersion", url, lambda answer: str(answer["state"]))

    async def readers(self, secret: str) -> frozenset[str] | None:
        """Who may read the secret by a permission on itself; None when it is not there."""
        return await self._asked(
            self._secrets,
            "GetIamPolicy",
            f"/v1/projects/{self.project}/secrets/{secret}:getIamPolicy",
            lambda policy: frozenset(
                who for it in policy.get("bindings", ()) if it["role"] == expected.READ_ROLE for who in it["members"]
            ),
        )

    async def topic(self, name: str) -> Any:
        """As the API says it, in JSON; None when it is not there."""
        return await self._asked(self._pubsub, "GetTopic", f"/v1/projects/{self.project}/topics/{name}", dict)

    async def subscription(self, name: str) -> Any:
        """As the API says it, in JSON; None when it is not there."""
        url = f"/v1/projects/{self.project}/subscriptions/{name}"
        return await self._asked(self._pubsub, "GetSubscription", url, dict)

    async def holds_messages(self, name: str) -> bool:
        """Whether anything waits. What is looked at is given back at once."""
        url = f"/v1/projects/{self.project}/subscriptions/{name}"
        ids = await self._asked(
            self._pubsub,
            "Pull",
            f"{url}:pull",
            lambda pulled: [it["ackId"] for it in pulled.get("receivedMessages", ())],
            {"maxMessages": 1, "returnImmediately": True},
        )
        if ids:
            back = {"ackIds": ids, "ackDeadlineSeconds": 0}
            await self._asked(self._pubsub, "ModifyAckDeadline", f"{url}:modifyAckDeadline", dict, back)
        return bool(ids)

    async def _asked(
        self, api: GoogleApi, method: str, url: str, read: Callable[[Any], _Answer], body: Any = None
    ) -> _Answer | None:
        try:
            return await api.call(method, url, body, read=read, budget_s=_BUDGET_S, expected=_ABSENT)
        except Refused:
            return None


async def store(seen: ProjectAsItIs, name: str) -> list[Diagnosis]:
    check = f"database {name}"
    try:
        await seen.answers(name)
    except Unavailable:
        return [
            ill(
                check, "it cannot be read", f"{_APPLY}; check your own login and permission to read it, and the network"
            )
        ]
    return [well(check, "answers")]


async def signing_keys(seen: ProjectAsItIs, issuer: Issuer) -> list[Diagnosis]:
    check = f"signing key {issuer.value}"
    try:
        ring = await seen.ring(issuer)
        if ring is None or ring.active is None:
            return [ill(check, "no key is active, so nothing can be signed", "run `cab keys init`")]
        state = await seen.state(SECRET[issuer], ring.active.secret_version)
    except Unavailable as error:
        return [unknown(check, f"{error.what} cannot be asked")]
    if state != "ENABLED":
        says = f"version {ring.active.secret_version} of {SECRET[issuer]} is {(state or 'not there').lower()}"
        return [
            ill(check, says, f"enable it, or replace the key: `cab keys remove-leaked --issuer {issuer.value} KID`")
        ]
    if ring.removed:
        leftover = f"cab keys remove-leaked --issuer {issuer.value} {ring.removed[0].kid}"
        return [ill(check, "a key is off the set, and its private half is not destroyed", f"run `{leftover}`")]
    return [well(check, f"{ring.active.kid} is active")]


async def secret(seen: ProjectAsItIs, name: str, version: int | None) -> list[Diagnosis]:
    """Whether it is filled (`version` None: its versions are looked at elsewhere), and who may read it."""
    check, found = f"secret {name}", []
    try:
        state = None if version is None else await seen.state(name, version)
        readers = await seen.readers(name)
    except Unavailable:
        return [unknown(check, "it cannot be asked about", "you need secretmanager.viewer in the project")]
    if version is not None and state is None:
        found.append(ill(check, f"it has no version {version}", _fill(name)))
    elif state not in (None, "ENABLED"):
        found.append(
            ill(
                check,
                f"version {version} is {str(state).lower()}",
                f"enable it, or name another version: {_fill(name)}",
            )
        )
    wanted = expected.readers_of(name)
    if readers is None or wanted is None:
        return found or [unknown(check, "no permission goes by this name")]
    may = {expected.member(function, seen.project) for function in wanted}
    if missing := sorted(may - readers):
        found.append(ill(check, f"{', '.join(missing)} may not read it", _APPLY.replace("makes", "grants")))
    if others := sorted(readers - may):
        found.append(
            ill(
                check,
                f"{', '.join(others)} may read it, and should not",
                f"take {expected.READ_ROLE} on it away from them, then give it new content",
            )
        )
    return found or [well(check, "filled, and read by whom it should be")]


def _fill(name: str) -> str:
    if name in expected.own_secrets():
        return "run `cab keys init`, or `cab keys add-data-key` where broker.yaml names a later version"
    return f"fill it: `gcloud secrets versions add {name} --data-file=-`"


async def unsent_events(seen: ProjectAsItIs, now: datetime) -> Diagnosis:
    """Whoever publishes sends them first, so after minutes it is either nobody, or nobody who may."""
    check = "unsent audit events"
    try:
        since = await seen.unsent_since()
    except Unavailable:
        return unknown(check, "the database unsent cannot be read", _APPLY)
    if since is not None and now - since > _SENT_WITHIN:
        told = f"they wait to be published since {since:%Y-%m-%d %H:%M} (UTC)"
        return ill(check, told, "read docs/runbooks/audit-unsent.md")
    return well(check, "none waits")


async def messaging(seen: ProjectAsItIs) -> list[Diagnosis]:
    try:
        return [it for entry in _SUBSCRIPTIONS for it in await _subscription(seen, *entry)]
    except Unavailable:
        return [
            ill("topics", "Pub/Sub cannot be asked, or may not", "check pubsub.viewer in the project, and the network")
        ]


async def _subscription(seen: ProjectAsItIs, topic: str, name: str, path: str | None) -> list[Diagnosis]:
    check = f"subscription {name}"
    if await seen.topic(topic) is None:
        return [ill(f"topic {topic}", "it is not there", _APPLY)]
    found = await seen.subscription(name)
    if found is None:
        return [ill(check, f"it is not there: what {topic} gets is dropped", _APPLY)]
    if found["topic"] != f"projects/{seen.project}/topics/{topic}":
        return [ill(check, f"it belongs to another topic ({found['topic'].rpartition('/')[2]})", _APPLY)]
    if path is not None:
        return list(_push(check, found, path)) or [well(check, "delivers")]
    try:
        waits = await seen.holds_messages(name)
    except Unavailable:
        return [
            unknown(
                check, "what waits in it may not be looked at", "you need pubsub.subscriber on it; an alert looks too"
            )
        ]
    if waits:
        runbook = f"docs/runbooks/{name.removesuffix('-keep').removeprefix('cab-')}.md"
        return [ill(check, "messages wait in it", f"read {runbook}")]
    return [well(check, "is empty")]


def _push(check: str, found: Any, path: str) -> Iterator[Diagnosis]:
    push = found.get("pushConfig", {})
    token = push.get("oidcToken", {})
    if not token.get("serviceAccountEmail"):
        yield ill(check, "its deliveries carry no identity, so they are refused", _APPLY.replace("makes", "sets"))
    elif push.get("pushEndpoint", "").rstrip("/") != f"{token.get('audience', '')}{path}".rstrip("/"):
        yield ill(check, "it delivers to another address than its tokens are for", _APPLY.replace("makes", "sets"))
    if path == "/" and not found.get("deadLetterPolicy", {}).get("deadLetterTopic"):
        yield ill(check, "it has no dead letter topic: what cannot be delivered is retried for ever", _APPLY)
    if "ttl" in found.get("expirationPolicy", {"ttl": "31 days"}):
        yield ill(
            check, "it expires when it is idle, and the audit with it", _APPLY.replace("makes it", "forbids that")
        )


async def secrets_of(seen: ProjectAsItIs, deployment: Deployment) -> list[Diagnosis]:
    """Every secret that the deployment needs."""
    signing = set(SECRET.values())
    keys = {ESCROW_SECRET: deployment.broker.escrow_key, DATA_KEY_SECRET: deployment.broker.grant_data_key}
    wanted = [(name, None if name in signing else keys[name]) for name in expected.own_secrets()]
    found = []
    for name, version in [*wanted, *expected.configured_secrets(deployment)]:
        found += await secret(seen, name, version)
    return found


# --- what only the cloud knows ---

APIS: Final = (
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "cloudscheduler.googleapis.com",
    "compute.googleapis.com",
    "firestore.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
)
_READS: Final = "reads every secret of the project"
_WIDE_ROLES: Final = {
    "roles/owner": _READS,
    "roles/editor": "can deploy as every function, and so read what they read,",  # itself it may read no secret
    "roles/secretmanager.admin": _READS,
    "roles/secretmanager.secretAccessor": _READS,
}
_GOOGLES_OWN: Final = "@cloudservices.gserviceaccount.com"  # is an editor of every project
_PIPELINE: Final = "cab-apply"  # docs/deploying.md makes it an owner


class CloudFacts:
    """APIs, indexes and the project's own permissions. `call(method, url)` answers a JSON object and raises Unavailable."""

    def __init__(
        self, project: str, call: Callable[[str, str], Mapping[str, Any]], *, sweeps_ask_by_part: bool = False
    ) -> None:
        self._project = project
        self._call = call
        self._unasked = {("grants", "due_at")} if sweeps_ask_by_part else set()

    def look(self) -> list[Diagnosis]:
        """Blocking."""
        found: list[Diagnosis] = []
        for name, look in (("APIs", self._apis), ("project permissions", self._permissions)):
            try:
                found += look()
            except Unavailable:
                found.append(unknown(name, "they cannot be asked about", "you need the role viewer in the project"))
        for database_id, wanted in _indexes_needed().items():
            try:
                found += self._indexes(database_id, wanted)
            except Unavailable:
                found.append(unknown(f"indexes of {database_id}", "they cannot be asked about"))
        for database_id, collections in _fields_by_database().items():
            try:
                found += self._fields(database_id, collections)
            except Unavailable:
                found.append(unknown(f"fields of {database_id}", "they cannot be asked about"))
        return found

    def _apis(self) -> list[Diagnosis]:
        url = f"https://serviceusage.googleapis.com/v1/projects/{self._project}/services?filter=state:ENABLED&pageSize=200"
        enabled = {it["config"]["name"] for it in self._call("GET", url).get("services", [])}
        missing = [it for it in APIS if it not in enabled]
        return [
            ill(f"API {it}", "it is not enabled", f"run `gcloud services enable {it}`, then `terraform apply`")
            for it in missing
        ] or [well("APIs", f"{len(APIS)} enabled")]

    def _indexes(self, database_id: str, wanted: frozenset[tuple[str, tuple[str, ...]]]) -> list[Diagnosis]:
        url = (
            f"https://firestore.googleapis.com/v1/projects/{self._project}/databases/{database_id}"
            "/collectionGroups/-/indexes?pageSize=200"
        )
        states = {
            (
                it["name"].split("/")[-3],
                tuple(f["fieldPath"] for f in it["fields"] if f["fieldPath"] != "__name__"),
            ): it["state"]
            for it in self._call("GET", url).get("indexes", [])
        }
        check = f"indexes of {database_id}"
        return [
            ill(
                check,
                f"{collection} by {', '.join(fields)} is {states.get((collection, fields), 'not there').lower()}",
                "wait until it is built" if (collection, fields) in states else _APPLY,
            )
            for collection, fields in sorted(wanted)
            if states.get((collection, fields)) != "READY"
        ] or [well(check, "ready")]

    def _fields(self, database_id: str, collections: list[Mapping[str, Any]]) -> list[Diagnosis]:
        """Whether each field that queries ask by has its index, no other field has one, and what expires is deleted."""
        url = (
            f"https://firestore.googleapis.com/v1/projects/{self._project}/databases/{database_id}"
            "/collectionGroups/-/fields?filter=indexConfig.usesAncestorConfig=false%20OR%20ttlConfig:*&pageSize=200"
        )
        said = {
            (it["name"].split("/")[-3], it["name"].split("/")[-1]): it
            for it in self._call("GET", url).get("fields", [])
        }
        missing, kept, wasted = [], [], []
        for it in collections:
            name = it["collection"]
            others = said.get((name, "*"))
            if others is None or others.get("indexConfig", {}).get("indexes"):
                wasted.append(name)
            asked = [field for field in it["indexed"] if (name, field) not in self._unasked]
            missing += [f"{name}.{field}" for field in asked if not _is_indexed(said.get((name, field)), others)]
            ttl = said.get((name, "expire_at"), {}).get("ttlConfig", {})
            if it["expires"] and ttl.get("state") not in ("ACTIVE", "CREATING"):
                kept.append(name)
        check = f"fields of {database_id}"
        told = (
            (missing, "have no index that is ready, so queries by them fail"),
            (kept, "keep what has ended: `expire_at` is no time to live"),
            (wasted, "have an index of every field, which makes writes slower and dearer"),
        )
        found = [
            ill(check, f"{', '.join(names)} {says}", _APPLY.replace("makes", "sets")) for names, says in told if names
        ]
        return found or [well(check, "as they are asked for")]

    def _permissions(self) -> list[Diagnosis]:
        url = f"https://cloudresourcemanager.googleapis.com/v1/projects/{self._project}:getIamPolicy"
        found = [
            ill(
                "project permissions",
                f"{who} {_WIDE_ROLES[binding['role']]} by {binding['role']}",
                "give the project to CAB alone and people narrower roles",
            )
            for binding in self._call("POST", url).get("bindings", [])
            if binding["role"] in _WIDE_ROLES and "condition" not in binding
            for who in binding["members"]
            if not self._is_meant(who, binding["role"])
        ]
        return found or [well("project permissions", "nobody but owners reads every secret")]

    def _is_meant(self, who: str, role: str) -> bool:
        if role == "roles/owner":
            return (
                who.startswith("user:") or who == f"serviceAccount:{_PIPELINE}@{self._project}.iam.gserviceaccount.com"
            )
        return role == "roles/editor" and who.endswith(_GOOGLES_OWN)


def _indexes_needed() -> dict[str, frozenset[tuple[str, tuple[str, ...]]]]:
    """By database, collection and fields of each index that queries need."""
    entries = json.loads(files("cab").joinpath("data", "firestore_indexes.json").read_text(encoding="utf-8"))
    needed: dict[str, frozenset[tuple[str, tuple[str, ...]]]] = {}
    for it in entries:
        index = (it["collection"], tuple(field["field_path"] for field in it["fields"]))
        needed[it["database"]] = needed.get(it["database"], frozenset()) | {index}
    return needed


def _fields_by_database() -> dict[str, list[Mapping[str, Any]]]:
    """What `firestore_fields.json` says of the collections of each database."""
    entries = json.loads(files("cab").joinpath("data", "firestore_fields.json").read_text(encoding="utf-8"))
    return {name: [it for it in entries if it["database"] == name] for name in expected.DATABASES}


def _is_indexed(field: Mapping[str, Any] | None, others: Mapping[str, Any] | None) -> bool:
    """By what is said of the field, or of all others; where nothing is said Firestore indexes it."""
    if field is None or "indexConfig" not in field:
        return others is None or bool(others.get("indexConfig", {}).get("indexes"))
    return any(
        index.get("state") == "READY" and index.get("queryScope") == "COLLECTION" and it.get("order") == "ASCENDING"
        for index in field["indexConfig"].get("indexes", ())
        for it in index["fields"]
    )


def google_rest() -> Callable[[str, str], Mapping[str, Any]]:
    """Google's REST APIs as whoever runs this. Raises: Unavailable without credentials."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession
    from requests.exceptions import RequestException

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except GoogleAuthError as error:
        raise Unavailable("credentials") from error
    session = AuthorizedSession(credentials)

    def call(method: str, url: str) -> Mapping[str, Any]:
        try:
            answer = session.request(method, url, json={} if method == "POST" else None, timeout=_BUDGET_S)
            body = answer.json()
        except (RequestException, GoogleAuthError, ValueError) as error:
            raise Unavailable("Google's APIs") from error
        if answer.status_code != 200 or not isinstance(body, dict):
            raise Unavailable("Google's APIs")
        return body

    return call
