"""What Google refuses or never shows, and a plan does not know: lengths of names, labels, metrics that do not exist, and the order of an apply.

Read from the state of the applied module. Facts of Google's are written down here as its documentation has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.terraform.conftest import ROOT, ModuleRun
from tests.terraform.rights import State, resources

from cab.transport.requests import MAX_BODY_BYTES

TERRAFORM = ROOT / "terraform"
LABELS = {"cost-centre": "4711"}  # as rights.tftest.hcl sets them
LONGEST_PROJECT = "p" * 30

# The member of each resource that names it, and what Google takes as such a name.
NAMES = {
    "google_service_account": ("account_id", r"[a-z][a-z0-9-]{4,28}[a-z0-9]"),
    "google_cloudfunctions2_function": ("name", r"[a-z][a-z0-9-]{0,61}[a-z0-9]"),
    "google_firestore_database": ("name", r"[a-z][a-z0-9-]{2,61}[a-z0-9]"),
    "google_secret_manager_secret": ("secret_id", r"[A-Za-z0-9_-]{1,255}"),
    "google_pubsub_topic": ("name", r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"),
    "google_pubsub_subscription": ("name", r"(?!goog)[A-Za-z][A-Za-z0-9._~+%-]{2,254}"),
    "google_bigquery_dataset": ("dataset_id", r"[A-Za-z0-9_]{1,1024}"),
    "google_bigquery_table": ("table_id", r"[A-Za-z0-9_-]{1,1024}"),
    "google_bigquery_routine": ("routine_id", r"[A-Za-z0-9_]{1,256}"),
    "google_project_iam_custom_role": ("role_id", r"[A-Za-z0-9_.]{3,64}"),
    "google_cloud_scheduler_job": ("name", r"[A-Za-z][A-Za-z0-9_-]{0,499}"),
    "google_cloud_run_v2_job": ("name", r"[a-z][a-z0-9-]{0,47}[a-z0-9]"),
    "google_storage_bucket": ("name", r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"),
    "google_logging_metric": ("name", r"[A-Za-z0-9_./-]{1,100}"),
    "google_logging_project_exclusion": ("name", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"),
    "google_kms_key_ring": ("name", r"[A-Za-z0-9_-]{1,63}"),
    "google_kms_crypto_key": ("name", r"[A-Za-z0-9_-]{1,63}"),
    **{f"google_compute_{kind}": ("name", r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?") for kind in (
        "network", "subnetwork", "firewall", "region_network_endpoint_group", "backend_service", "url_map", "managed_ssl_certificate",
        "ssl_policy", "target_https_proxy", "global_address", "global_forwarding_rule", "security_policy",
    )},
    "google_dns_managed_zone": ("name", r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?"),
}  # fmt: skip
NAMELESS = re.compile(
    r"google_(project_service|monitoring_\w+|dns_record_set|firestore_(field|index)|data_\w+|\w+_iam_(member|binding))$"
)

# Google's published lists of metrics: kind, type of value, resource, and the labels that we group by.
METRICS = {
    "run.googleapis.com/request_count": ("DELTA", "INT64", "cloud_run_revision", {"response_code_class"}),
    "run.googleapis.com/request_latencies": ("DELTA", "DISTRIBUTION", "cloud_run_revision", {"response_code_class"}),
    "run.googleapis.com/container/instance_count": ("GAUGE", "INT64", "cloud_run_revision", {"state"}),
    "run.googleapis.com/job/completed_execution_count": ("DELTA", "INT64", "cloud_run_job", {"result"}),
    "pubsub.googleapis.com/subscription/num_undelivered_messages": ("GAUGE", "INT64", "pubsub_subscription", set()),
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age": ("GAUGE", "INT64", "pubsub_subscription", set()),
    "monitoring.googleapis.com/uptime_check/check_passed": ("GAUGE", "BOOL", "uptime_url", {"check_id"}),
    "monitoring.googleapis.com/uptime_check/time_until_ssl_cert_expires": ("GAUGE", "DOUBLE", "uptime_url", set()),
}
RESOURCE_LABELS = {
    "cloud_run_revision": {"service_name"},
    "cloud_run_job": {"job_name"},
    "pubsub_subscription": {"subscription_id"},
    "uptime_url": {"host"},
}
NUMBERS = {"INT64", "DOUBLE"}
# Kinds and types of value that each aligner takes, and the type that it makes; the reducers by what they take.
ALIGNERS = {
    "ALIGN_RATE": ({"DELTA", "CUMULATIVE"}, NUMBERS, "DOUBLE"),
    "ALIGN_DELTA": ({"DELTA", "CUMULATIVE"}, {*NUMBERS, "DISTRIBUTION"}, None),
    "ALIGN_MAX": ({"GAUGE", "DELTA"}, NUMBERS, None),
    "ALIGN_NEXT_OLDER": ({"GAUGE"}, {*NUMBERS, "BOOL", "STRING", "DISTRIBUTION"}, None),
    "ALIGN_PERCENTILE_99": ({"GAUGE", "DELTA"}, {"DISTRIBUTION"}, "DOUBLE"),
}
REDUCERS = {
    "REDUCE_SUM": {*NUMBERS, "DISTRIBUTION"},
    "REDUCE_MAX": NUMBERS,
    "REDUCE_MIN": NUMBERS,
    "REDUCE_COUNT_FALSE": {"BOOL"},
}


@pytest.fixture(scope="module")
def made(tested: ModuleRun) -> list[State]:
    return list(resources(tested.state("rights")["root_module"]))


def of_type(made: list[State], kind: str) -> Iterator[dict[str, Any]]:
    return (dict(it["values"]) for it in made if it["type"] == kind)


def test_every_name_is_one_that_google_takes_in_the_project_with_the_longest_id(made: list[State]) -> None:
    seen = set()
    for it in made:
        if it.get("mode") == "data" or NAMELESS.match(it["type"]):
            continue
        member, taken = NAMES[it["type"]]
        name = it["values"][member].replace("test-cab", LONGEST_PROJECT)
        assert re.fullmatch(taken, name), (it["type"], name)
        seen.add(it["type"])
    assert len(seen) >= 20


def test_the_addresses_that_are_known_before_an_apply_are_names_that_dns_takes(made: list[State]) -> None:
    for it in of_type(made, "google_cloudfunctions2_function"):
        assert len(f"{it['name']}-123456789012") <= 63, (
            "Cloud Run shortens a longer one, and nobody would know its address"
        )
    # A trial's name is in its certificate, whose common name has 64 characters.
    assert len(f"cab.endpoints.{LONGEST_PROJECT}.cloud.goog") <= 64


def test_whatever_can_carry_labels_carries_them(made: list[State]) -> None:
    without = {
        (it["type"], it["name"])
        for it in made
        for kind in ("labels", "user_labels")
        if kind in it["values"] and it["values"][kind] != LABELS and it.get("mode") != "data"
    }
    assert without == set()
    assert sum("labels" in it["values"] or "user_labels" in it["values"] for it in made) > 50


def test_alerts_and_charts_ask_for_metrics_that_exist_in_ways_that_they_can_be_asked(made: list[State]) -> None:
    asked = 0
    for policy in of_type(made, "google_monitoring_alert_policy"):
        for condition in policy["conditions"]:
            for threshold in condition["condition_threshold"] or ():
                (how,) = threshold["aggregations"]
                check_series(
                    threshold["filter"], how["per_series_aligner"], how["cross_series_reducer"], how["group_by_fields"]
                )
                asked += 1
    (dashboard,) = of_type(made, "google_monitoring_dashboard")
    for widget in json.loads(dashboard["dashboard_json"])["gridLayout"]["widgets"]:
        for data in widget["xyChart"]["dataSets"]:
            series = data["timeSeriesQuery"]["timeSeriesFilter"]
            how = series["aggregation"]
            check_series(series["filter"], how["perSeriesAligner"], how["crossSeriesReducer"], how["groupByFields"])
            asked += 1
    assert asked >= 15


def check_series(text: str, aligner: str, reducer: str | None, grouped_by: list[str] | None) -> None:
    (metric,) = re.findall(r'metric\.type ?= ?"([^"]+)"', text)
    (resource,) = re.findall(r'resource\.type ?= ?"([^"]+)"', text)
    if metric.startswith("logging.googleapis.com/user/"):
        found = own_metrics()[metric.rpartition("/")[2]]
        kind, value, where, labels = "DELTA", "INT64", "cloud_run_revision", found
    else:
        kind, value, where, labels = METRICS[metric]
    assert resource == where, text
    kinds, values, becomes = ALIGNERS[aligner]
    assert kind in kinds, (metric, aligner)
    assert value in values, (metric, aligner)
    assert reducer is None or (becomes or value) in REDUCERS[reducer], (metric, reducer)
    for field in grouped_by or ():
        of, _, label = field.partition(".label.")
        assert label in (RESOURCE_LABELS[where] if of == "resource" else labels), (metric, field)
    for of, label in re.findall(r"(resource|metric)\.labels\.(\w+)", text):
        assert label in (RESOURCE_LABELS[where] if of == "resource" else labels), (metric, label)


def own_metrics() -> dict[str, set[str]]:
    """Each metric of the log that the module makes, and its labels."""
    text = (TERRAFORM / "alerts.tf").read_text("utf-8")
    counted = dict(
        re.findall(r'^    ([a-z-]+) = \{\n.*\n      message = .*\n      by\s+= "(\w+)"', text, flags=re.MULTILINE)
    )
    assert len(counted) >= 6
    return {"cab-credentials-refused": set()} | {f"cab-{name}": {label} for name, label in counted.items()}


def test_alerts_in_promql_name_each_metric_as_cloud_monitoring_spells_it(made: list[State]) -> None:
    """The first slash becomes a colon and whatever else is no letter or digit an underscore; resource and metric labels keep their names."""
    known = {name: (where, labels) for name, (_, _, where, labels) in METRICS.items()}
    known |= {
        f"logging.googleapis.com/user/{name}": ("cloud_run_revision", labels) for name, labels in own_metrics().items()
    }
    spelt = {re.sub(r"[^a-z0-9:]", "_", name.replace("/", ":", 1)): facts for name, facts in known.items()}
    seen = set()
    for policy in of_type(made, "google_monitoring_alert_policy"):
        for condition in policy["conditions"]:
            for asked in condition["condition_prometheus_query_language"] or ():
                found = re.findall(r"(\w+:\w+)\{([^}]*)\}\[", asked["query"])
                assert len(found) == len(re.findall(r"\w+:\w+", asked["query"])), asked["query"]
                for metric, selected in found:
                    where, labels = spelt[metric]
                    # A metric that could belong to several kinds of resource must say of which.
                    chosen = dict(re.findall(r'(\w+)="([^"]*)"', selected))
                    assert chosen.pop("monitored_resource") == where
                    grouped = set(re.findall(r"by \((\w+)\)", asked["query"]))
                    assert chosen.keys() | grouped <= labels | RESOURCE_LABELS[where], asked["query"]
                    seen.add(metric)
    assert len(seen) == len(own_metrics()) + 1, "and the doctor's runs"


def test_every_alert_has_its_runbook_and_deploying_names_it(made: list[State]) -> None:
    told = [policy["documentation"][0]["content"] for policy in of_type(made, "google_monitoring_alert_policy")]
    named = {name for text in told for name in re.findall(r"^Runbook: docs/(runbooks/[a-z-]+\.md)$", text)}
    assert len(named) == len(told)
    assert len(named) > 15
    deploying = (ROOT / "docs" / "deploying.md").read_text("utf-8")
    assert [
        name for name in sorted(named) if not (ROOT / "docs" / name).is_file() or f"({name})" not in deploying
    ] == []


def test_no_alert_on_a_metric_that_terraform_makes_is_refused_because_google_does_not_know_it_yet(
    made: list[State],
) -> None:
    """`Cannot find metric(s) that match`, for up to ten minutes: only PromQL can be told not to look."""
    for policy in of_type(made, "google_monitoring_alert_policy"):
        for condition in policy["conditions"]:
            assert "logging.googleapis.com/user" not in json.dumps(condition["condition_threshold"])
            assert all(it["disable_metric_validation"] for it in condition["condition_prometheus_query_language"] or ())


def test_a_policy_that_asks_in_promql_or_of_the_log_has_no_other_condition(made: list[State]) -> None:
    """Cloud Monitoring refuses it."""
    for policy in of_type(made, "google_monitoring_alert_policy"):
        alone = [
            it
            for it in policy["conditions"]
            if it["condition_prometheus_query_language"] or it["condition_matched_log"]
        ]
        assert not alone or len(policy["conditions"]) == 1, policy["display_name"]


def test_the_edge_refuses_the_bodies_that_the_functions_refuse(made: list[State]) -> None:
    (policy,) = of_type(made, "google_compute_security_policy")
    rules = {it["priority"]: it for it in policy["rule"]}
    refusing = rules[min(rules)]
    assert refusing["action"] == "deny(403)"
    (limit,) = re.findall(r"> (\d+)$", refusing["match"][0]["expr"][0]["expression"])
    assert int(limit) == MAX_BODY_BYTES
    # The last rule is the one that Google wants to be there, and everybody meets.
    assert (rules[2147483647]["action"], max(rules)) == ("allow", 2147483647)


def test_every_variable_is_tried_by_a_test_of_the_module() -> None:
    variables = re.findall(r'^variable "(\w+)"', (TERRAFORM / "variables.tf").read_text("utf-8"), flags=re.MULTILINE)
    tried = "".join(path.read_text("utf-8") for path in (TERRAFORM / "tests").glob("*.tftest.hcl"))
    assert len(variables) > 20
    assert [name for name in variables if not re.search(rf"^    {name}\s+= ", tried, flags=re.MULTILINE)] == []


def test_every_resource_waits_for_the_apis_to_be_enabled() -> None:
    """Whatever references nothing that waits would be made beside them, while they are off. Inside the two modules all wait with the module."""
    waiting = {"google_project_service.this"}
    parts = dict(parts_of_the_module())
    while found := {name for name, body in parts.items() if name not in waiting and references(body) & waiting}:
        waiting |= found
    made = {name for name in parts if name.startswith("google_")}
    assert len(made) > 50
    assert sorted(made - waiting) == []


def parts_of_the_module() -> Iterator[tuple[str, str]]:
    """Resources, data sources, modules and locals, by the name that others reference each by, and what stands in them."""
    for path in TERRAFORM.glob("*.tf"):
        text = re.sub(r"#.*", "", path.read_text("utf-8"))
        for kind, of, name, body in re.findall(
            r'^(resource|data|module) "(\w+)"(?: "(\w+)")? \{\n(.*?)^\}', text, flags=re.MULTILINE | re.DOTALL
        ):
            prefix = {"resource": "", "data": "data.", "module": "module."}[kind]
            yield prefix + (f"{of}.{name}" if name else of), body
        for block in re.findall(r"^locals \{\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL):
            for name, body in re.findall(r"^  (\w+) += (.*?)(?=^  \w+ += |\Z)", block, flags=re.MULTILINE | re.DOTALL):
                yield f"local.{name}", body


def references(body: str) -> set[str]:
    return set(re.findall(r"\b(data\.google_\w+\.\w+|google_\w+\.\w+|module\.\w+|local\.\w+)", body))
