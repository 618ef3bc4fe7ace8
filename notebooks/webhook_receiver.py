"""A receiver of webhooks: checks the signature, drops a lease that was taken back, and answers.

    CRM_SECRET=whsec_... python notebooks/webhook_receiver.py --port 9000

It prints each message as a line of JSON; `--count` ends it after so many.
"""

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

seen: set[str] = set()


class Hook(BaseHTTPRequestHandler):
    """One request of the house."""

    def do_POST(self) -> None:
        """Take a message once: 401 if the house did not sign it, 204 if it did."""
        text = self.rfile.read(int(self.headers["content-length"])).decode()
        try:
            message = Webhook(os.environ["CRM_SECRET"]).verify(text, dict(self.headers.items()))
        except WebhookVerificationError:
            self.send_response(401)
        else:
            self.send_response(204)
            if self.headers["webhook-id"] not in seen:  # it may come twice
                seen.add(self.headers["webhook-id"])
                drop(message)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of requests."""


def drop(message: dict[str, Any]) -> None:
    """Take a contact out of the queue of what is to be sent; here it is only printed."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--port", type=int, default=9000)
    words.add_argument("--count", type=int, help="messages after which it ends")
    asked = words.parse_args()
    with HTTPServer(("127.0.0.1", asked.port), Hook) as server:
        while asked.count is None or len(seen) < asked.count:
            server.handle_request()
