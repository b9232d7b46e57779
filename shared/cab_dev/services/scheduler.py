"""Cloud Scheduler of the local stack: calls one URL again and again, with an ID token of its own service account.

    python -m cab_dev.services.scheduler --url http://127.0.0.1:20005/grants/sweep --audience http://127.0.0.1:20005 \
        --account scheduler@demo-cab.iam.gserviceaccount.com --identity-url http://127.0.0.1:20001 --every 10

Answers are logged by status only. A call that fails is simply made again at the next turn.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import urlencode

_TIMEOUT_S = 30.0


def call_once(url: str, *, audience: str, account: str, identity_url: str) -> str:
    """POST with a fresh ID token; the status, or the kind of failure."""
    try:
        query = urlencode({"email": account, "audience": audience})
        with urllib.request.urlopen(f"{identity_url}/token?{query}", timeout=_TIMEOUT_S) as answer:  # noqa: S310 - loopback
            token = answer.read().decode("ascii").strip()
        request = urllib.request.Request(  # noqa: S310 - loopback
            url,
            data=b"{}",
            method="POST",
            headers={
                "Authorization": f"Bearer {token}",
                "Content-Type": "application/json",
                "User-Agent": "Google-Cloud-Scheduler",
            },
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - loopback
            return str(answer.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return str(exc.code)
    except OSError as exc:
        return type(exc).__name__


def main() -> None:
    parser = argparse.ArgumentParser(description="Imitates one Cloud Scheduler job.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--audience", required=True)
    parser.add_argument("--account", required=True)
    parser.add_argument("--identity-url", required=True)
    parser.add_argument("--every", type=float, default=10.0, metavar="SECONDS")
    arguments = parser.parse_args()
    while True:
        time.sleep(arguments.every)
        outcome = call_once(
            arguments.url,
            audience=arguments.audience,
            account=arguments.account,
            identity_url=arguments.identity_url,
        )
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {outcome}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
